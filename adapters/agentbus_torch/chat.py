"""A model's chat template as a function from messages to text.

Templates are programs from a stranger's folder: they run in `sandbox`, without any globals but the
one by which they refuse a conversation and the few that conversations need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentbus.context.template import Render
from agentbus.errors import ModelBroken

from .config import read_json

__all__ = ["read_chat_template", "read_template_source"]

MAX_TEMPLATE_BYTES = 1024 * 1024


def _refuse(message: str) -> str:
    raise ValueError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def read_template_source(folder: Path) -> str:
    """Read the text of a model folder's chat template.

    Raises:
        ModelBroken: there is none, or it is too long or no text.
    """
    path = folder / "tokenizer_config.json"
    return _source(folder, read_json(path) if path.is_file() else {})


def _source(folder: Path, config: Mapping[str, object]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        given = _read(path)
    else:
        found = config.get("chat_template")
        if isinstance(found, list):
            entries = [entry for entry in found if isinstance(entry, dict)]
            defaults = [entry for entry in entries if entry.get("name") == "default"]
            found = defaults[-1].get("template") if defaults else None
        if not isinstance(found, str):
            raise ModelBroken(str(folder), "it has no chat template; use the model's chat version")
        given = found
    if len(given) > MAX_TEMPLATE_BYTES:
        raise ModelBroken(str(folder), f"its chat template is over {MAX_TEMPLATE_BYTES} bytes")
    return given


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_TEMPLATE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ModelBroken(str(path), f"it cannot be read ({error}); download it again") from error


def _token_text(config: Mapping[str, object], name: str) -> str:
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def read_chat_template(folder: Path) -> Render:
    """Read and compile the chat template of a model folder.

    Raises:
        ModelBroken: there is none, or it is not jinja.
    """
    from .sandbox import Sandbox, bounded

    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    sandbox = Sandbox()
    sandbox.filters["tojson"] = bounded(_to_json)
    sandbox.globals["raise_exception"] = _refuse
    source = _source(folder, config)
    try:
        template = sandbox.from_string(source)
    except Exception as error:  # nested too deeply, a number too long: Python's own refusals
        raise ModelBroken(str(folder), f"its chat template is damaged ({error})") from error
    special = {name: _token_text(config, name) for name in ("bos_token", "eos_token")}

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        sandbox.begin()
        return template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **special
        )

    return render

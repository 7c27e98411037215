"""A model's chat template as a function from messages to text.

Templates are programs from a stranger's folder: they run in jinja's sandbox, without any globals
but the one by which they refuse a conversation.
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
        ModelBroken: there is none.
    """
    path = folder / "tokenizer_config.json"
    return _source(folder, read_json(path) if path.is_file() else {})


def _source(folder: Path, config: Mapping[str, object]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelBroken(str(path), f"it is larger than {MAX_TEMPLATE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given}
        given = named.get("default")
    if not isinstance(given, str):
        raise ModelBroken(str(folder), "it has no chat template; use the model's chat version")
    return given


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
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    try:
        template = environment.from_string(_source(folder, config))
    except TemplateError as error:
        raise ModelBroken(str(folder), f"its chat template is damaged ({error})") from error
    special = {name: _token_text(config, name) for name in ("bos_token", "eos_token")}

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        return template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **special
        )

    return render

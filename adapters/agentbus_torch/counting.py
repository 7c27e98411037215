"""How many tokens a model's tokenizer makes of a text. Needs no weights, and no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from .gguf_file import GGUFFile
from .gguf_tokenizer import write_tokenizer
from .locate import locate
from .tokens import Vocabulary

__all__ = ["open_counter"]


def open_counter(model: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text, taken as data.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
    """
    source = locate(model)
    if source.is_gguf:
        with tempfile.TemporaryDirectory(prefix="agentbus-") as folder:
            write_tokenizer(source.path, GGUFFile(source.path).metadata, Path(folder))
            vocabulary = Vocabulary.load(Path(folder))
    else:
        vocabulary = Vocabulary.load(source.path)
    return lambda text: len(vocabulary.plain(text))

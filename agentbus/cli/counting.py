"""How the commands count: by a model's tokenizer, or in characters where there is none."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import anyio

from ..context import Template, TokenCounter
from ..engine import open_model_text
from ..errors import ConfigError, EngineError

__all__ = ["Counting", "open_counting"]

_USUAL_MODEL = "smollm2"


class Counting(NamedTuple):
    """A way to count a text."""

    count: TokenCounter
    unit: str
    """`tokens`, or `characters`."""
    note: str
    """Says whose tokens, or why characters."""
    template: Template | None = None
    """The model's chat template, if it has one."""


async def open_counting(model: str) -> Counting:
    """Return how to count for a model, or for the usual one if it is empty.

    Raises:
        EngineError, ConfigError: a model was named, and has no tokenizer here.
    """
    try:
        text = await anyio.to_thread.run_sync(open_model_text, model or _USUAL_MODEL)
    except (EngineError, ConfigError) as error:
        if model:
            raise
        note = f"Counted in characters, since there is no tokenizer: {error}."
        return Counting(len, "characters", note)
    return Counting(
        cache(text.count), "tokens", f"Tokens of {model or _USUAL_MODEL}.", text.template
    )

"""What some engines can do beside generating: score given texts, and embed texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..context.layout import Prompt
from ..errors import ConfigError, Unsupported
from .base import Engine

__all__ = [
    "MAX_CONTINUATIONS",
    "MAX_TEXTS",
    "Embedder",
    "Score",
    "Scorer",
    "Vector",
    "check_batch",
    "embed",
    "score",
]

MAX_CONTINUATIONS = 1024
"""Continuations that are scored in one call."""
MAX_TEXTS = 1024
"""Texts that are embedded in one call."""

Vector = tuple[float, ...]
"""One text's place in the model's space; as many numbers as the model's hidden size."""


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a model finds one continuation, token by token, in natural logarithms."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """The logarithm of the whole continuation's probability."""
        return sum(self.logprobs)


@runtime_checkable
class Scorer(Protocol):
    """An engine that can say how probable a given continuation is."""

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
    ) -> tuple[Score, ...]:
        """Return the continuations' log-probabilities behind the prompt, in their order.

        They are the model's own: no temperature, penalty or cut changes them. A text is tokenized
        apart from the prompt, as a generated answer is. The prompt's KV is reused and kept.

        Raises:
            ContextTooLong, KVExhausted, LayoutError: as `Engine.generate`.
            ConfigError: there are none or too many continuations, or one is empty.
        """
        ...


@runtime_checkable
class Embedder(Protocol):
    """An engine that can turn a text into a vector."""

    async def embed(self, texts: Sequence[str]) -> tuple[Vector, ...]:
        """Return a vector of length 1 for each text, in their order.

        It is the mean, over the text's tokens, of the hidden states behind the last norm, scaled
        to length 1. A chat model was not trained to embed: near vectors mean similar wording more
        than similar meaning. The text is read bare, without the markup of a chat.

        Raises:
            ContextTooLong, KVExhausted: a text does not fit.
            ConfigError: there are none or too many texts, or one is empty.
        """
        ...


async def score(
    engine: Engine,
    prompt: Prompt | tuple[int, ...],
    continuations: Sequence[str | tuple[int, ...]],
    *,
    tenant: str = "",
) -> tuple[Score, ...]:
    """Score continuations on an engine that can; see `Scorer.score`.

    Raises:
        Unsupported: this engine cannot.
    """
    if not isinstance(engine, Scorer):
        raise Unsupported(engine.capabilities.model, "score")
    check_batch("continuations", continuations, MAX_CONTINUATIONS)
    return await engine.score(prompt, continuations, tenant=tenant)


async def embed(engine: Engine, texts: Sequence[str]) -> tuple[Vector, ...]:
    """Embed texts on an engine that can; see `Embedder.embed`.

    Raises:
        Unsupported: this engine cannot.
    """
    if not isinstance(engine, Embedder):
        raise Unsupported(engine.capabilities.model, "embed")
    check_batch("texts", texts, MAX_TEXTS)
    return await engine.embed(texts)


def check_batch(what: str, items: Sequence[object], most: int) -> None:
    """Check that there are some items, not too many, and that none is empty.

    Raises:
        ConfigError: it is not so.
    """
    if isinstance(items, str) or not 1 <= len(items) <= most:
        raise ConfigError(what, f"must be a list of 1 to {most}")
    if not all(items):
        raise ConfigError(what, "must not be empty")

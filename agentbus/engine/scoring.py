"""What some engines can do beside generating: score given texts, and embed texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..config import Prices
from ..context.layout import Prompt
from ..errors import ConfigError, Unsupported
from ..telemetry import Budget
from .base import Engine, GenerateRequest, Usage, within_budget

__all__ = [
    "MAX_CONTINUATIONS",
    "MAX_TEXTS",
    "Embedder",
    "Score",
    "Scorer",
    "Scores",
    "Vector",
    "Vectors",
    "check_budget",
    "check_continuations",
    "check_texts",
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


@dataclass(frozen=True, slots=True)
class Scores:
    """Several continuations' scores, in the order in which they were given."""

    scores: tuple[Score, ...]
    usage: Usage
    """The prompt counts once for each continuation, from the second on as reused."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Several texts' vectors, in the order in which they were given."""

    vectors: tuple[Vector, ...]
    usage: Usage


@runtime_checkable
class Scorer(Protocol):
    """An engine that can say how probable a given continuation is."""

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        """Return the continuations' log-probabilities behind the prompt, in their order.

        They are the model's own: no temperature, penalty or cut changes them. A text is tokenized
        apart from the prompt, as a generated answer is. The prompt's KV is reused and kept.

        Raises:
            ContextTooLong, KVExhausted, LayoutError: as `Engine.generate`.
            ConfigError: see `check_continuations`.
            BudgetExceeded: see `check_budget`, which an engine calls before it computes anything.
        """
        ...


@runtime_checkable
class Embedder(Protocol):
    """An engine that can turn a text into a vector."""

    async def embed(self, texts: Sequence[str], *, budget: Budget | None = None) -> Vectors:
        """Return a vector of length 1 for each text, in their order.

        It is the mean, over the text's tokens, of the hidden states behind the last norm, scaled
        to length 1. A chat model was not trained to embed: near vectors mean similar wording more
        than similar meaning. The text is read bare, without the markup of a chat.

        Raises:
            ContextTooLong, KVExhausted: a text does not fit.
            ConfigError: see `check_texts`.
            BudgetExceeded: see `check_budget`, which an engine calls before it computes anything.
        """
        ...


async def score(
    engine: Engine,
    prompt: Prompt | tuple[int, ...],
    continuations: Sequence[str | tuple[int, ...]],
    *,
    tenant: str = "",
    budget: Budget | None = None,
) -> Scores:
    """Score continuations on an engine that can; see `Scorer.score`.

    Raises:
        Unsupported: this engine cannot.
    """
    if not isinstance(engine, Scorer):
        raise Unsupported(engine.capabilities.model, "score")
    return await engine.score(prompt, continuations, tenant=tenant, budget=budget)


async def embed(engine: Engine, texts: Sequence[str], *, budget: Budget | None = None) -> Vectors:
    """Embed texts on an engine that can; see `Embedder.embed`.

    Raises:
        Unsupported: this engine cannot.
    """
    if not isinstance(engine, Embedder):
        raise Unsupported(engine.capabilities.model, "embed")
    return await engine.embed(texts, budget=budget)


def check_continuations(continuations: Sequence[str | tuple[int, ...]]) -> None:
    """Check that there are some, not too many, each of them text or token ids, and none empty.

    Raises:
        ConfigError: it is not so.
    """
    _check_count("continuations", continuations, MAX_CONTINUATIONS)
    for one in continuations:
        is_ids = isinstance(one, tuple) and all(type(token) is int for token in one)
        if not one or not (isinstance(one, str) or is_ids):
            raise ConfigError("continuations", f"must be texts or tuples of ids, not {one!r:.40}")


def check_texts(texts: Sequence[str]) -> None:
    """Check that there are some, not too many, all of them text, and none empty.

    Raises:
        ConfigError: it is not so.
    """
    _check_count("texts", texts, MAX_TEXTS)
    for one in texts:
        if not one or not isinstance(one, str):
            raise ConfigError("texts", f"must be texts that are not empty, not {one!r:.40}")


def check_budget(tokens: int, budget: Budget | None, prices: Prices) -> None:
    """Check that a budget pays for so many tokens, reckoned as if nothing of them were reused.

    Raises:
        BudgetExceeded: it does not.
    """
    within_budget(GenerateRequest(prompt=(), max_tokens=0, budget=budget), tokens, prices)


def _check_count(what: str, items: Sequence[object], most: int) -> None:
    if isinstance(items, str) or not 1 <= len(items) <= most:
        raise ConfigError(what, f"must be a list of 1 to {most}")

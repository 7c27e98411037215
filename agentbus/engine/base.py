"""The contract of a model engine.

An engine takes a prompt (turns and an open cue), reuses what KV it holds, and streams text.
Laying a context out as a prompt is `agentbus.context.layout`'s business; putting engines on a bus
is `agentbus.workers`'.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..config import Prices
from ..context.layout import Prompt
from ..errors import BudgetExceeded, ConfigError
from ..telemetry import NANOS, Budget

__all__ = [
    "Capabilities",
    "Engine",
    "EngineStats",
    "Finished",
    "GenerateRequest",
    "Piece",
    "Usage",
    "within_budget",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do. `window` is in tokens."""

    model: str
    window: int
    prefix_reuse: bool
    append_only_template: bool
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One model call, decoded greedily."""

    prompt: Prompt | tuple[int, ...]
    """Turns and a cue, or token ids that were rendered elsewhere."""
    max_tokens: int = 256
    ignore_end: bool = False
    """Never choose an end-of-text token: decode exactly `max_tokens`."""
    forced: tuple[int, ...] = ()
    """Teacher forcing: decode these token ids instead of the model's own choice."""
    reuse: bool = True
    """Use KV of earlier prompts. False computes everything, and keeps nothing."""
    tenant: str = ""
    """Salt of the KV index: KV is shared within a tenant only."""
    label: str = ""
    """Copied to the token log."""
    budget: Budget | None = None
    """What the call may spend; see `within_budget`."""

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise ConfigError("max_tokens", f"must be 0 or more, not {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it streams. `text` is empty while a character is incomplete."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a call cost. Times in seconds; `ttft_s` from submission to the first piece."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefilled_tokens: int = 0
    decoded_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    ttft_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last item of a stream. `reason` is `end`, `length` or `forced`."""

    reason: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The state of an engine's KV pool, in blocks, and its requests so far."""

    total_blocks: int
    free_blocks: int
    cached_blocks: int
    locked_blocks: int
    waiting: int
    running: int
    finished: int
    prefetched_tokens: int = 0
    """Prompt tokens computed ahead of a call; see `EngineService.prefetch`."""
    prefetch_used_tokens: int = 0
    """Those of them that a call has reused since."""


class Engine(Protocol):
    """Runs one model. Every engine passes `tests/contract/test_engine.py`."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        """Stream the answer to one prompt: pieces, then one `Finished`.

        Closing the generator cancels the call and frees its blocks. What was computed stays
        reusable for later prompts; a prompt is, for those that come once its first piece has.

        Raises:
            ContextTooLong: prompt and `max_tokens` do not fit the window.
            KVExhausted: the pool has no room left that may be evicted.
            LayoutError: the model's template cannot render the prompt.
            BudgetExceeded: see `within_budget`, which an engine calls before it computes anything.
        """
        ...

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render a whole prompt by the model's own chat template and tokenize it as one text."""
        ...

    async def prefill(self, prompt: Prompt, *, tenant: str = "") -> Usage:
        """Compute a prompt's KV ahead of its use, without its cue.

        A cue that has text is computed too: it is a turn that is still being written, and more of
        it will come.
        """
        ...

    def stats(self) -> EngineStats:
        """Return the state of pool and queue."""
        ...

    async def aclose(self) -> None:
        """End running calls, free the model."""
        ...


def within_budget(request: GenerateRequest, prompt_tokens: int, prices: Prices) -> GenerateRequest:
    """Return the request with an answer no longer than its budget pays for.

    The prompt is reckoned as if nothing of it were reused. An answer whose length is given, by
    `forced` or `ignore_end`, is not cut.

    Raises:
        BudgetExceeded: the prompt and a token of the answer, or all of an answer that is not cut,
            are over the budget.
    """
    if request.budget is None:
        return request
    wanted = len(request.forced) or request.max_tokens
    least = wanted if request.forced or request.ignore_end else min(1, wanted)
    allowed = request.budget.amount
    if prompt_tokens + least > allowed.tokens:
        raise BudgetExceeded("tokens", allowed.tokens, 0, prompt_tokens + least)
    dearest = max(prices.prompt, prices.reused)

    def nanos(answer: int) -> int:
        cost = (prompt_tokens * dearest + answer * prices.answer) / 1000
        return math.ceil(cost * NANOS)

    if nanos(least) > allowed.nanos:
        raise BudgetExceeded("cost", allowed.nanos, 0, nanos(least))
    longest = min(wanted, allowed.tokens - prompt_tokens)
    if nanos(longest) > allowed.nanos:
        paid = allowed.nanos / NANOS * 1000 - prompt_tokens * dearest
        longest = max(least, min(longest, int(paid / prices.answer)))
        while nanos(longest) > allowed.nanos:
            longest -= 1
    return request if longest >= wanted else replace(request, max_tokens=longest)

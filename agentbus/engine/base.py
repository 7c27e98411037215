"""The contract of a model engine.

An engine takes a prompt (turns and an open cue), reuses what KV it holds, and streams text.
Laying a context out as a prompt is `agentbus.context.layout`'s business; putting engines on a bus
is `agentbus.workers`'.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..config import Prices
from ..context.layout import Prompt
from ..errors import BudgetExceeded, ConfigError
from ..kv import Step
from ..telemetry import NANOS, Budget
from .sampling import Sampling, require_count
from .tools import ToolCall, check_choice, check_schema, tool_parameters

__all__ = [
    "MAX_LOGPROBS",
    "MAX_STOPS",
    "MAX_STOP_CHARACTERS",
    "Alternative",
    "Capabilities",
    "Engine",
    "EngineStats",
    "Finished",
    "GenerateRequest",
    "Piece",
    "TokenLogprob",
    "Usage",
    "within_budget",
]

_MAX_ANSWER = 1 << 62
"""Tokens that may be asked for; what a model's window has no room for is refused by its engine."""
MAX_LOGPROBS = 20
"""Alternatives whose log-probabilities may be asked for."""
MAX_STOPS = 16
"""Stop texts of one request."""
MAX_STOP_CHARACTERS = 256
"""Longest stop text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do. `window` is in tokens."""

    model: str
    window: int
    prefix_reuse: bool
    append_only_template: bool
    sampling: bool = False
    """Whether it chooses by `GenerateRequest.sampling`; a scripted engine says what it says."""
    schema: bool = False
    """Whether it can keep an answer to a JSON schema, or to a call of a tool."""
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One model call. What cannot go together, or is out of bounds, is a `ConfigError`."""

    prompt: Prompt | tuple[int, ...]
    """Turns and a cue, or token ids that were rendered elsewhere."""
    max_tokens: int = 256
    ignore_end: bool = False
    """Never choose an end-of-text token: decode exactly `max_tokens`."""
    forced: tuple[int, ...] = ()
    """Teacher forcing: decode these token ids instead of the model's own choice. They go with no
    `stop`, `schema` or `tools`."""
    sampling: Sampling = Sampling()  # noqa: RUF009 - it is frozen
    """How tokens are chosen; greedily if nothing is said."""
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends. They are not shown, wherever tokens' borders are."""
    logprobs: int = 0
    """Report each token's log-probability, and those of this many most probable alternatives."""
    schema: Mapping[str, object] | None = None
    """A JSON schema: the answer is a JSON text that is valid by it, unless `max_tokens` cuts it."""
    tools: tuple[Mapping[str, object], ...] = ()
    """Functions that the answer may call, in OpenAI's form. The prompt has to describe them."""
    tool_choice: str = "auto"
    """`auto`; `none` takes all text as text; `required` has the answer be calls, and a tool's name
    a call of this one."""
    reuse: bool = True
    """Use KV of earlier prompts. False computes everything, and keeps nothing."""
    tenant: str = ""
    """Salt of the KV index: KV is shared within a tenant only."""
    label: str = ""
    """Copied to the token log."""
    owner: str = ""
    """Names, within the tenant, whoever makes one call after the other (an agent in a conversation),
    so that the engine can tell what its next call will need; empty says nothing."""
    budget: Budget | None = None
    """What the call may spend; see `within_budget`."""

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Sampling):
            raise ConfigError("sampling", f"must be Sampling(…), not {self.sampling!r:.40}")
        require_count("max_tokens", self.max_tokens, _MAX_ANSWER)
        require_count("logprobs", self.logprobs, MAX_LOGPROBS)
        if not isinstance(self.prompt, Prompt | Sequence) or isinstance(self.prompt, str):
            problem = f"must be a Prompt or token ids, not {self.prompt!r:.40}"
            raise ConfigError("prompt", problem)
        if not isinstance(self.forced, Sequence) or not all(
            type(one) is int for one in self.forced
        ):
            raise ConfigError("forced", "must be token ids")
        if not _is_text(self.tenant):
            raise ConfigError("tenant", f"must be a text, not {self.tenant!r:.40}")
        self._check_stops()
        self._check_form()

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call of a tool."""
        return self.tool_choice not in ("auto", "none")

    def _check_stops(self) -> None:
        of_texts = isinstance(self.stop, Sequence) and not isinstance(self.stop, str)
        if not of_texts or len(self.stop) > MAX_STOPS:
            raise ConfigError("stop", f"must be a tuple of up to {MAX_STOPS} texts")
        for text in self.stop:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARACTERS:
                problem = (
                    f"must be texts of 1 to {MAX_STOP_CHARACTERS} characters, not {text!r:.40}"
                )
                raise ConfigError("stop", problem)

    def _check_form(self) -> None:
        """Check what the answer's form is to be: schema, tools, forced tokens."""
        check_choice(self.tool_choice, tuple(tool_parameters(self.tools)))
        if self.schema is not None:
            check_schema(self.schema)
            if self.must_call:
                raise ConfigError("schema", f"cannot go with tool_choice {self.tool_choice!r}")
        shaped = self.schema is not None or self.must_call
        if self.forced and (shaped or self.stop or self.tools):
            raise ConfigError("forced", "cannot go with stop, schema or tools")
        if self.ignore_end and shaped:
            raise ConfigError("ignore_end", "cannot go with a schema or a required call")


def _is_text(value: object) -> bool:
    """Say whether it is a text that can be written: no half of a character."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been chosen. `logprob` is a natural logarithm."""

    token: int
    text: str
    """Empty for tokens that have none; U+FFFD for a part of a character."""
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How probable the model itself found a token, before penalties, temperature and cuts."""

    token: int
    text: str
    logprob: float
    top: tuple[Alternative, ...]
    """The most probable tokens, the best first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it streams.

    `text` is empty while a character is incomplete, or while it may be the beginning of a stop
    text or of a call of a tool.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_ids`, if asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a call cost. Times in seconds; `ttft_s` from submission to the first piece."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefilled_tokens: int = 0
    decoded_tokens: int = 0
    lost_tokens: int = 0
    """Of those prefilled, about how many stood in the owner's last prompt, too, but in another
    place; `EngineService` tells."""
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    ttft_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return what two calls cost, one made after the other: times add up, too."""
        names = self.__slots__
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class Finished:
    """The last item of a stream."""

    reason: str
    """`end` (the model ended its answer), `length`, `forced`, `stop` (a stop text was met) or
    `tool_calls` (the answer ended and holds calls)."""
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that were read, in order; their text was not shown."""
    malformed_calls: int = 0
    """What looked like a call and is none; it was shown as text."""
    stop: str = ""
    """The stop text that was met."""

    @property
    def step(self) -> Step:
        """How the call left its owner, as far as an answer tells: never that it is the last."""
        if self.reason == "length" and not self.usage.decoded_tokens:
            return Step.AHEAD  # nothing was to be answered
        return Step.TOOL if self.tool_calls else Step.REPLY


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
            InvalidSchema: the request's schema, or a tool's, cannot constrain an answer.
            Unsupported: this engine cannot constrain answers at all.
            BudgetExceeded: see `within_budget`, which an engine calls before it computes anything.
        """
        ...

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render a whole prompt by the model's own chat template and tokenize it as one text."""
        ...

    def count(self, text: str) -> int:
        """Return how many tokens a text takes, as somebody's data within a turn."""
        ...

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """Compute a prompt's KV ahead of its use, without its cue.

        A cue that has text is computed too: it is a turn that is still being written, and more of
        it will come. `owner` names who will make the call, as in `GenerateRequest`.
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

"""The scripted engine: the whole contract without a model, for tests and dry runs.

Its tokens are words. What it says comes from a script; what it reuses and prefills is counted by
a real KV index, so that its usage is what a model's would be. It computes nothing, keeps no time,
and runs any number of calls at once. How tokens are sampled is the same to it; log-probabilities,
scores and vectors are made up, the same each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from zlib import crc32

import anyio
import orjson
from anyio.lowlevel import checkpoint

from ..config import EngineSettings
from ..context import Prompt, Turn
from ..errors import (
    AgentbusError,
    Closed,
    ContextTooLong,
    EngineFailed,
    MisuseError,
    Unsupported,
)
from ..kv import BlockPool, Lease, RadixIndex, Step
from ..telemetry import Budget
from .base import (
    Alternative,
    Capabilities,
    EngineStats,
    Finished,
    GenerateRequest,
    Piece,
    TokenLogprob,
    Usage,
    within_budget,
)
from .scoring import (
    Score,
    Scores,
    Vector,
    Vectors,
    check_budget,
    check_continuations,
    check_texts,
)
from .stop import StopScanner
from .token_log import TokenLog, TokenRecord
from .tools import ToolCall

__all__ = ["WINDOW", "FakeEngine", "Reply", "Script", "echo", "open_engine"]

WINDOW = 8192
"""Tokens that a scripted engine's window has if nothing else is said."""

_WORD = re.compile(r"\s*\S+|\s+")
_TURN_END = "<end>"
_DIMENSIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the script says to one prompt."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    """Calls of tools that the answer ends with."""
    gate: anyio.Event | None = None
    """Where the answer stops until the event is set."""
    gate_after: int = 0
    """Pieces that stream before `gate`."""
    error: Exception | None = None
    """Raised when the text has streamed, instead of finishing."""


Script = Callable[[GenerateRequest], Reply]


def echo(request: GenerateRequest) -> Reply:
    """Say how much was read, and repeat the last turn's first words."""
    if not isinstance(request.prompt, Prompt):
        return Reply(text=f" I read {len(request.prompt)} tokens.")
    turns = request.prompt.turns
    first = " ".join(turns[-1].text.split()[:8]) if turns else "nothing"
    return Reply(text=f" I read {len(turns)} turns; the last begins: {first}")


class _Words:
    """A vocabulary that learns each word when it first sees it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [self.id(word) for word in _WORD.findall(text)]

    def id(self, word: str) -> int:
        known = self._ids.setdefault(word, len(self._words))
        if known == len(self._words):
            self._words.append(word)
        return known

    def decode(self, token: int) -> str:
        return self._words[token] if 0 <= token < len(self._words) else f" <{token}>"


class FakeEngine:
    """Answers by a script."""

    def __init__(
        self,
        script: Script = echo,
        *,
        model: str = "fake",
        window: int = WINDOW,
        settings: EngineSettings | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self._script = script
        self._words = _Words()
        self._index = RadixIndex(
            BlockPool(max(1, settings.kv_tokens // settings.block_size)), settings.block_size
        )
        self._log = TokenLog(settings.token_log)
        self._closing = anyio.Event()
        self._running = 0
        self._finished = 0
        self._capabilities = Capabilities(
            model=model,
            window=window,
            prefix_reuse=True,
            append_only_template=True,
            prices=settings.prices,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        """Stream the scripted answer, then `Finished`. Raises as the contract says."""
        self._require_open()
        reply = self._script(request)
        prompt = self._prompt_ids(request.prompt)
        request = within_budget(request, len(prompt), self._capabilities.prices)
        self._require_shape(request, reply)
        answer = self._answer(request, reply)
        stops = StopScanner(request.stop)
        lease = self._begin(request, prompt, len(request.forced) or request.max_tokens)
        reused = lease.reused
        said: list[int] = []
        step = Step.UNKNOWN
        self._running += 1
        try:
            for token in answer:
                await self._pause(reply, len(said))
                if not said:
                    lease = self._share_prompt(request, prompt, lease)
                self._index.extend(lease, len(prompt) + len(said) + 1)
                said.append(token)
                text = stops.add(self._words.decode(token))
                yield Piece(text, (token,), self._logprobs(token, request.logprobs))
                if stops.found:
                    break
            await self._pause(reply, len(said))
            if reply.error is not None:
                raise self._failure(reply.error)
            finished = self._finish(request, prompt, said, reused)
            if stops.found:
                finished = replace(finished, reason="stop", stop=stops.found)
            elif reply.calls and finished.reason == "end":
                finished = replace(finished, reason="tool_calls", tool_calls=reply.calls)
            step = finished.step
        finally:
            self._running -= 1
            # as in a model: the last token's KV has not been computed yet
            self._index.commit(lease, [*prompt, *said[:-1]], step=step)
        if rest := stops.rest():
            yield Piece(rest, ())
        yield finished

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Return a prompt's words as ids."""
        return tuple(self._prompt_ids(prompt))

    def count(self, text: str) -> int:
        """Return how many words a text has."""
        return len(_WORD.findall(text))

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """Count a prompt as computed, without its cue."""
        self._require_open()
        tokens = self._prompt_ids(prompt)
        if not prompt.cue.text:
            del tokens[-len(self._open_turn(prompt.cue)) :]
        request = GenerateRequest(prompt=prompt, tenant=tenant, owner=owner)
        lease = self._begin(request, tokens, 0)
        self._index.commit(lease, tokens, step=Step.AHEAD)
        return self._finish(request, tokens, [], lease.reused).usage

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        """Return made-up log-probabilities: a longer word is a less probable one."""
        self._require_open()
        check_continuations(continuations)
        ids = self._prompt_ids(prompt)
        said = [
            tuple(self._words.encode(one)) if isinstance(one, str) else one for one in continuations
        ]
        whole = [[*ids, *tokens[:-1]] for tokens in said]
        check_budget(sum(map(len, whole)), budget, self._capabilities.prices)
        usage = Usage()
        for tokens in whole:
            lease = self._begin(GenerateRequest(prompt=prompt, tenant=tenant), tokens, 1)
            self._index.commit(lease, tokens)
            usage += self._usage(len(tokens), lease.reused, 0)
        return Scores(tuple(Score(one, tuple(map(self._logprob, one))) for one in said), usage)

    async def embed(self, texts: Sequence[str], *, budget: Budget | None = None) -> Vectors:
        """Return made-up vectors: texts of the same words have the same."""
        self._require_open()
        check_texts(texts)
        words = sum(len(self._words.encode(text)) for text in texts)
        check_budget(words, budget, self._capabilities.prices)
        return Vectors(tuple(map(_vector, texts)), self._usage(words, 0, 0))

    def stats(self) -> EngineStats:
        """Return the state of the pool. Nothing ever waits."""
        pool = self._index.stats()
        return EngineStats(
            total_blocks=pool.total,
            free_blocks=pool.free,
            cached_blocks=pool.cached,
            locked_blocks=pool.locked,
            waiting=0,
            running=self._running,
            finished=self._finished,
        )

    async def aclose(self) -> None:
        """End running calls with `Closed`."""
        self._closing.set()
        await checkpoint()

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise Closed("engine")

    def _logprob(self, token: int) -> float:
        return -0.1 * len(self._words.decode(token))

    def _logprobs(self, token: int, count: int) -> tuple[TokenLogprob, ...]:
        """Return the token's own log-probability; nothing else could have been said."""
        if not count:
            return ()
        text, logprob = self._words.decode(token), self._logprob(token)
        return (TokenLogprob(token, text, logprob, (Alternative(token, text, logprob),)),)

    def _require_shape(self, request: GenerateRequest, reply: Reply) -> None:
        """Refuse what the script does not answer itself: JSON where a schema is given, and calls."""
        if request.schema is not None and not _is_json(reply.text):
            raise Unsupported(self._capabilities.model, "keep a script's answer to a schema")
        if request.must_call and not reply.calls:
            raise Unsupported(self._capabilities.model, "make calls that its script does not name")

    def _turn(self, turn: Turn) -> list[int]:
        return [*self._open_turn(turn), *self._words.encode(turn.text), self._words.id(_TURN_END)]

    def _open_turn(self, turn: Turn) -> list[int]:
        marks = [f"<{turn.role}>"] + ([f"{turn.name}:"] if turn.name else [])
        return [self._words.id(mark) for mark in marks]

    def _prompt_ids(self, prompt: Prompt | tuple[int, ...]) -> list[int]:
        if not isinstance(prompt, Prompt):
            return list(prompt)
        turns = [token for turn in prompt.turns for token in self._turn(turn)]
        return turns + self._open_turn(prompt.cue) + self._words.encode(prompt.cue.text)

    def _answer(self, request: GenerateRequest, reply: Reply) -> Iterable[int]:
        if request.forced:
            return request.forced
        words = self._words.encode(reply.text)
        if request.ignore_end:
            words = words or [self._words.id(" …")]
            return islice(cycle(words), request.max_tokens)
        return words[: request.max_tokens]

    def _begin(self, request: GenerateRequest, prompt: list[int], room: int) -> Lease:
        needed = len(prompt) + room
        if needed > self._capabilities.window:
            raise ContextTooLong(needed, self._capabilities.window)
        if not prompt:
            raise MisuseError("a prompt is one or more token ids")
        return self._index.begin(
            request.tenant.encode(), prompt, reuse=request.reuse, owner=request.owner
        )

    def _share_prompt(self, request: GenerateRequest, prompt: list[int], lease: Lease) -> Lease:
        """Let others reuse a prompt whose answer has begun; returns the lease to go on with."""
        if not request.reuse or not self._index.stats().free:
            return lease  # there would be no room for the copy of a block that is shared in part
        self._index.commit(lease, prompt, step=None)
        return self._index.begin(request.tenant.encode(), prompt, owner=request.owner)

    async def _pause(self, reply: Reply, said: int) -> None:
        """Yield to others; stop at the script's gate until it opens or the engine closes."""
        await checkpoint()
        if reply.gate is not None and said == reply.gate_after:
            await self._first_of(reply.gate, self._closing)
        self._require_open()

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, AgentbusError):
            return error
        return EngineFailed(self._capabilities.model, f"{type(error).__name__}: {error}")

    @staticmethod
    async def _first_of(*events: anyio.Event) -> None:
        async with anyio.create_task_group() as group:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            for event in events:
                group.start_soon(wait, event)

    def _finish(
        self, request: GenerateRequest, prompt: list[int], said: list[int], reused: int
    ) -> Finished:
        self._finished += 1
        usage = self._usage(len(prompt), reused, len(said))
        self._log.write(
            TokenRecord(
                label=request.label,
                tenant=request.tenant,
                prompt_ids=prompt,
                generated_ids=said,
                reused=usage.reused_tokens,
                prefilled=usage.prefilled_tokens,
            )
        )
        if request.forced:
            return Finished("forced", usage)
        return Finished("length" if len(said) >= request.max_tokens else "end", usage)

    @staticmethod
    def _usage(prompt: int, reused: int, decoded: int) -> Usage:
        return Usage(
            prompt_tokens=prompt,
            reused_tokens=reused,
            prefilled_tokens=prompt - reused,
            decoded_tokens=decoded,
        )


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _vector(text: str) -> Vector:
    counts = [0.0] * _DIMENSIONS
    for word in text.split():
        counts[crc32(word.encode()) % _DIMENSIONS] += 1
    length = math.hypot(*counts) or 1.0
    return tuple(count / length for count in counts)


async def open_engine(model: str, settings: EngineSettings) -> FakeEngine:
    """Open a scripted engine that echoes; the model's name means nothing to it."""
    return FakeEngine(model=f"fake:{model}", settings=settings)

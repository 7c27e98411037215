"""Models on the bus: an engine is served by an agent, and asked with contexts by reference.

Asker and server append the generated answer to the context on their own and arrive at the same
root, so that neither the prompt nor the answer is sent twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..config import Prices
from ..context import Book, Context, Prompt, find_layout, read_as
from ..engine.base import Engine, Finished, Usage
from ..engine.scoring import Score, Vector, check_continuations, check_texts
from ..engine.service import EngineService
from ..errors import (
    BudgetExceeded,
    EngineError,
    InvalidMessage,
    LayoutError,
    ModelNotFound,
    NoResponder,
)
from ..filters import FilterRow, Plan, Ranker, plan_of, report_rows
from ..routing import MODEL
from ..telemetry import Budget, EngineReport, HopAccount, ModelCost
from .agent import Agent, handler
from .filtering import Filtering, FilterReceipt, FindReceipts
from .generation import (
    Answer,
    AnswerReader,
    Ended,
    Generate,
    GenerateWith,
    Scored,
    WrittenCall,
    extended,
    request_of,
    written_calls,
)
from .scoring import Embedded, EmbedTexts, ScoreTexts

if TYPE_CHECKING:
    from .call import Call
    from .generation import Generation
    from .node import Node
    from .origin import Origin

__all__ = [
    "ModelAgent",
    "ModelClient",
    "Prefetch",
    "engine_reports",
    "filter_rows",
    "model_agent_name",
]

T = TypeVar("T")

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def model_agent_name(spec: str) -> str:
    """Return the address of the agent that serves the model `spec`."""
    if _UNSAFE.search(spec) or len(spec) > 64:
        digest = hashlib.sha256(spec.encode()).hexdigest()[:12]
        spec = f"{_UNSAFE.sub('_', spec)[-40:]}-{digest}"
    return MODEL + spec


class Prefetch(NamedTuple):
    """Prefill, without a cue, what the asking agent will read of the context that comes along.

    With an `author`, what it has written of its next message so far is read too.
    """

    layout: str
    salt: str
    author: str
    text: str
    filters: Plan = ()


class ModelAgent(Agent):
    """Serves one engine on the bus, each new prefix computed once (`EngineService`)."""

    concurrency = 64

    def __init__(
        self, engine: Engine, book: Book | None = None, ranker: Ranker | None = None
    ) -> None:
        self.engine = EngineService(engine)
        self.filtering = Filtering(engine, book, ranker)

    async def stopped(self) -> None:
        await self.engine.aclose()
        self.filtering.close()

    @handler
    async def generate(
        self, ask: Generate | GenerateWith, call: Call
    ) -> AsyncIterator[str | Scored | Ended]:
        """Stream the answer's text; with log-probabilities, and how it ended, where asked for."""
        context = _required(call.context)
        plain = ask.plain if isinstance(ask, GenerateWith) else ask
        delivered = await self.filtering.deliver(
            context, plain.filters, call.source, plain.salt, answer=plain.max_tokens
        )
        prompt = find_layout(plain.layout).render(delivered.context, call.source)
        request = request_of(ask, prompt, call.budget, _owner(call.source, context))
        prices = self.engine.capabilities.prices
        text: list[str] = []
        calls: tuple[WrittenCall, ...] = ()
        begun = False
        try:
            async with aclosing(self.engine.generate(request)) as items:
                async for item in items:
                    begun = True
                    if isinstance(item, Finished):
                        cost = _cost(item.usage, prices)
                        self.filtering.answered(cost)
                        call.charge(cost + delivered.cost)
                        if ask is not plain:
                            calls = written_calls(item)
                            yield Ended(item.reason, calls, item.malformed_calls, item.stop)
                        continue
                    text.append(item.text)
                    if item.logprobs:
                        yield Scored(item.text, item.logprobs)
                    elif item.text:
                        yield item.text
        except EngineError:
            if begun:
                call.forfeit()
            raise
        whole = extended(context, call.source, "".join(text), calls)
        await self.filtering.written_here(context, whole, plain.filters, call.source, plain.salt)
        call.remember(whole)

    @handler
    async def score(self, ask: ScoreTexts, call: Call) -> AsyncIterator[Score]:
        """Stream the continuations' scores, in their order."""
        delivered = await self.filtering.deliver(
            _required(call.context), ask.filters, call.source, ask.salt
        )
        prompt = find_layout(ask.layout).render(delivered.context, call.source)
        found = await self.engine.score(
            prompt, ask.continuations, tenant=ask.salt, budget=call.budget
        )
        call.charge(_cost(found.usage, self.engine.capabilities.prices) + delivered.cost)
        for score in found.scores:
            yield score

    @handler
    async def receipts(self, ask: FindReceipts, call: Call) -> AsyncIterator[FilterReceipt]:
        """Stream what filters made of each segment, as the asking agent reads it."""
        context = _required(call.context)
        delivered = await self.filtering.deliver(context, ask.filters, call.source, ask.salt)
        for receipt in delivered.receipts():
            yield receipt

    @handler
    async def embed(self, ask: EmbedTexts, call: Call) -> AsyncIterator[Embedded]:
        """Stream the texts' vectors, in their order."""
        found = await self.engine.embed(ask.texts, budget=call.budget)
        call.charge(_cost(found.usage, self.engine.capabilities.prices))
        for vector in found.vectors:
            yield Embedded(vector)

    @handler
    async def prefetch(self, ahead: Prefetch, call: Call) -> int:
        """Return how many tokens were computed."""
        context = _required(call.context)
        owner = _owner(call.source, context)
        delivered = await self.filtering.deliver(
            context, ahead.filters, call.source, ahead.salt, ahead=not ahead.author
        )
        context = delivered.context
        if ahead.author:
            context = context.message(ahead.author, ahead.text)
        prompt = find_layout(ahead.layout).render(context, call.source)
        if ahead.author:
            *turns, written = prompt.turns
            prompt = Prompt(tuple(turns), written)
        usage = await self.engine.prefetch(prompt, tenant=ahead.salt, owner=owner)
        call.account_for(ModelCost(prefilled_tokens=usage.prefilled_tokens))
        return usage.prefilled_tokens


def _required(context: Context | None) -> Context:
    if context is None:
        raise LayoutError("a model reads a context: send one with the request")
    return context


def _owner(agent: str, context: Context) -> str:
    """Name an agent in a conversation, which is told by the first that was said in it.

    Empty if nothing has been said yet.
    """
    first = next((one for one in context.segments() if one.is_said), None)
    return "" if first is None else f"{agent}/{first.digest.hex()}"


def _cost(usage: Usage, prices: Prices) -> ModelCost:
    return ModelCost(
        1,
        0,
        0,
        usage.prompt_tokens,
        usage.reused_tokens,
        usage.prefilled_tokens,
        usage.decoded_tokens,
        usage.queue_s,
        usage.prefill_s,
        usage.decode_s,
        usage.ttft_s,
        prices.cost(usage.prefilled_tokens, usage.reused_tokens, usage.decoded_tokens),
        usage.lost_tokens,
    )


def engine_reports(agents: Iterable[Agent]) -> tuple[EngineReport, ...]:
    """Return what the engines among agents read ahead."""
    served = [(one.name, one.engine.stats()) for one in agents if isinstance(one, ModelAgent)]
    return tuple(
        EngineReport(name, stats.prefetched_tokens, stats.prefetch_used_tokens)
        for name, stats in served
    )


def filter_rows(agents: Iterable[Agent]) -> tuple[FilterRow, ...]:
    """Return what filters did to what the models among agents read."""
    return report_rows(one.filtering.guard for one in agents if isinstance(one, ModelAgent))


class ModelClient:
    """Asks models on behalf of handlers."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    async def generate(
        self, call: Call, origin: Origin, request: Generation
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield the answer's text, then all of it if `request.whole`; extend the call's context."""
        target = _served(call)
        context = self._asked(call, request.text)
        call.reading = read_as(call.agent, call.role, context, self._node.settings.layout)
        read = call.reading.context
        ask = request.ask(call.reading.layout, plan_of(self._node.settings.filters, call.agent))
        reader = AnswerReader()
        stream = call.stream(target, ask, context=read, returns=type(None), budget=request.budget)
        announcing = self._node.prefetcher.announcing(call.agent, origin, request, context)
        with _errors_of(call, target), announcing:
            async with stream as parts:
                async for part in parts:
                    if text := reader.take(part):
                        yield text
                reply = parts.reply
        cost = _charged(call, reply.account)
        answer = reader.answer(cost) if request.whole else None
        self._node.note_held(target, extended(read, call.agent, reader.text, reader.calls))
        call.context = extended(context, call.agent, reader.text, reader.calls)
        if answer is not None:
            yield answer

    async def score(
        self,
        call: Call,
        text: str,
        continuations: Sequence[str | tuple[int, ...]],
        salt: str,
        budget: Budget | None,
    ) -> tuple[Score, ...]:
        """Return continuations' scores; the call's context stays as it is."""
        check_continuations(continuations)
        context = self._asked(call, text)
        call.reading = read_as(call.agent, call.role, context, self._node.settings.layout)
        filters = plan_of(self._node.settings.filters, call.agent)
        ask = ScoreTexts(call.reading.layout, salt, tuple(continuations), filters)
        scores = await self._collect(call, ask, call.reading.context, budget, Score)
        return tuple(_as_many(scores, continuations))

    async def receipts(self, call: Call, salt: str) -> tuple[FilterReceipt, ...]:
        """Return what filters make of the call's context."""
        context = self._asked(call, "")
        read = read_as(call.agent, call.role, context, self._node.settings.layout).context
        ask = FindReceipts(plan_of(self._node.settings.filters, call.agent), salt)
        return tuple(await self._collect(call, ask, read, None, FilterReceipt))

    async def embed(
        self, call: Call, texts: Sequence[str], budget: Budget | None
    ) -> tuple[Vector, ...]:
        """Return texts' vectors."""
        check_texts(texts)
        found = await self._collect(call, EmbedTexts(tuple(texts)), None, budget, Embedded)
        return tuple(one.vector for one in _as_many(found, texts))

    async def _collect(
        self, call: Call, ask: object, context: Context | None, budget: Budget | None, kind: type[T]
    ) -> list[T]:
        """Ask the call's model for one part for each thing that is asked about.

        Raises:
            InvalidMessage: a part is of another kind.
        """
        target = _served(call)
        found: list[T] = []
        with _errors_of(call, target):
            stream = call.stream(target, ask, context=context, returns=type(None), budget=budget)
            async with stream as parts:
                async for part in parts:
                    if not isinstance(part, kind):
                        raise InvalidMessage(type(part).__name__, f"is no {kind.__name__}")
                    found.append(part)
                reply = parts.reply
        _charged(call, reply.account)
        return found

    def _asked(self, call: Call, text: str) -> Context:
        """Return the context with what is asked behind it."""
        context = call.context or self._node.empty_context()
        return context.ask(text, author=call.source or "user") if text else context


def _served(call: Call) -> str:
    """Return the address of the call's model.

    Raises:
        ModelNotFound: the agent has none.
    """
    if not call.model:
        advice = "with model=, or its worker with --model, for example 'smollm2'"
        raise ModelNotFound("", f"spawn {call.agent!r} {advice}")
    return model_agent_name(call.model)


@contextmanager
def _errors_of(call: Call, target: str) -> Iterator[None]:
    """Say what a model's refusal means to who asked for it."""
    try:
        yield
    except NoResponder as error:
        if error.target != target:
            raise
        advice = f"no engine on this bus serves it; start one: agentbus worker --serve {call.model}"
        raise ModelNotFound(call.model, advice) from error
    except BudgetExceeded as error:
        raise call.exceeded(error) from error


def _charged(call: Call, account: HopAccount) -> ModelCost:
    """Add what a model call has cost to its call's account, and return it."""
    cost = replace(
        account.model, sent_bytes=account.sent_bytes, received_bytes=account.received_bytes
    )
    call.account_for(cost)
    return cost


def _as_many(found: Sequence[T], asked: Sequence[object]) -> Sequence[T]:
    if len(found) != len(asked):
        raise InvalidMessage("answer", f"has {len(found)} parts, {len(asked)} were asked for")
    return found

"""A handler's view of the message that it handles."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from ..context import SEARCH_LIMIT, Context, Fetched, Reading, Searched
from ..engine.scoring import Score, Vector
from ..engine.tools import ToolCall
from ..errors import AgentbusError, BudgetExceeded, ConfigError
from ..telemetry import (
    NANOS,
    NO_TRACE,
    NOTHING,
    Amount,
    Budget,
    Ledger,
    ModelCost,
    handler_trace,
    traceparent,
)
from .filtering import FilterReceipt
from .generation import Answer, GenerateOptions, Generation, ValueOptions
from .origin import Origin
from .originals import answer_tool, fetch_text, search_text
from .parts import join_text, last_of, text_alone
from .payload import payload_type
from .requester import Requester, check_seconds
from .roles import Replies
from .scopes import Limited
from .values import generate_as

if TYPE_CHECKING:
    from .delivery import Delivery
    from .node import Node

__all__ = ["Call"]


T = TypeVar("T")


class Call(Requester):
    """One message in the hands of its handler: who asks, with what context, until when.

    Requests made through a call inherit its deadline, its trace and one hop less.
    """

    __slots__ = ("_delivery", "_node", "agent", "context", "model", "reading", "role")

    def __init__(self, node: Node, agent: str, model: str, role: str, delivery: Delivery) -> None:
        self._node = node
        self._delivery = delivery
        self.agent = agent
        """The name under which the handling agent was spawned."""
        self.model = model
        self.role = role
        self.context: Context | None = delivery.context
        """The context that came with the message, as the handler has extended it since."""
        self.reading: Reading | None = None
        """How the model last read the context; with the layout `auto`, the prediction for each."""

    @property
    def source(self) -> str:
        """The agent that asks; empty if a program does."""
        return self._delivery.origin.source

    @property
    def peer(self) -> str:
        """The process that asks; empty if it is this one."""
        return self._delivery.peer

    @property
    def traceparent(self) -> str:
        """W3C's `traceparent` header for what the handler asks of others than agents."""
        trace = self._delivery.origin.trace
        if trace == NO_TRACE:
            return ""
        return traceparent(handler_trace(trace), sampled=self._node.samples(trace))

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self._delivery.origin.deadline_at - self._node.now()

    @property
    def cost(self) -> ModelCost:
        """What the handler's model calls have cost so far."""
        return self._delivery.cost

    def charge(self, cost: ModelCost) -> None:
        """Add the cost of a model call to this call's account, and take it from its budget."""
        self.account_for(cost)
        ledger = self._delivery.origin.ledger
        if ledger is not None:
            tokens = cost.prompt_tokens + cost.decoded_tokens
            ledger.charge(Amount(tokens, round(cost.cost * NANOS)))

    def account_for(self, cost: ModelCost) -> None:
        """Add the cost of a model call that another agent made for this one, which has paid it."""
        self._delivery.cost += cost

    def forfeit(self) -> None:
        """Take all that is left from this call's budget, since it is not known what was spent."""
        ledger = self._delivery.origin.ledger
        if ledger is not None:
            ledger.charge(ledger.left)

    def exceeded(self, refused: BudgetExceeded) -> BudgetExceeded:
        """Return the error of a model that was refused, in terms of this call's own budget."""
        ledger = self._delivery.origin.ledger
        if ledger is None:
            return refused
        place = 0 if refused.what == "tokens" else 1
        allowed, spent = ledger.allowed[place], ledger.used[place]
        return BudgetExceeded(refused.what, allowed, spent, refused.asked)

    @property
    def budget(self) -> Budget | None:
        """What is left for this call to spend; None if it has no budget."""
        ledger = self._delivery.origin.ledger
        return None if ledger is None else Budget.of(ledger.left)

    def within(self, budget: Budget) -> Requester:
        """Return an asker whose requests together stay within a budget, and within this call's."""
        return Limited(self, Ledger.of(budget, self._delivery.origin.ledger))

    @property
    def replies(self) -> Replies:
        """Where the results of this call go."""
        return self._delivery.replies

    def feed(self, kind: type[T]) -> AsyncIterator[T]:
        """Return what the caller feeds along with its request, as it comes.

        It ends when the caller says that it has sent all, and at once if the caller feeds nothing.
        Parts of another type than `kind` end it with `InvalidMessage`. It has one reader.

        Raises:
            Closed: the feed is being read already.
        """
        return self._node.feed(self._delivery, payload_type(kind))

    async def handoff(self, target: str, payload: Any, *, context: Context | None = None) -> None:
        """Have another agent answer the caller in this one's place; also in mid-stream.

        Returns once the other agent has the message in its mailbox. The caller waits for that one
        from then on, and what this handler still yields or returns is dropped. `context` is the
        one that goes along, by default the call's as it now is.

        Raises:
            ConfigError: this handler reads the caller's feed: what is on its way would be lost.
            AgentbusError: the other agent has not taken it, or cannot be reached; the request is
                still this handler's to answer.
        """
        delivery = self._delivery
        if delivery.feed is not None and delivery.feed.opened:
            raise ConfigError("handoff", "cannot be made by a handler that reads the feed")
        delivery.context = context or self.context
        origin = self._lending(None, None)
        origin.trace = handler_trace(self._delivery.origin.trace)
        try:
            await self._node.hand_over(delivery, target, payload, origin)
        except AgentbusError:
            if origin.loan is not None:
                origin.loan.close(NOTHING)
            raise

    async def generate(self, text: str = "", **options: Unpack[GenerateOptions]) -> str:
        """Ask the agent's model and return its answer's text.

        `text` is appended to `context` as what the agent is asked to do, the answer as its
        message, calls of tools behind it; of all, and of what others said since, only what is new
        is prefilled. `GenerateOptions` has what may be asked for beside. What is left of the
        call's budget, or of `budget`, cuts `max_tokens` down.

        Raises:
            BudgetExceeded: there is not enough left for the prompt and a token of the answer.
            ModelNotFound: no model was given, or none of that name is served.
            ContextTooLong: context and answer do not fit the model's window.
            ConfigError: an option is out of bounds, or does not go with another.
            InvalidSchema: a schema cannot constrain an answer.
            Unsupported: the engine cannot do what is asked for.
        """
        return await join_text(self.generate_stream(text, **options))

    def generate_stream(
        self, text: str = "", **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[str, None]:
        """Ask the agent's model and yield its answer as it comes. As `generate`."""
        return text_alone(self._answer(Generation(text=text, **options)))

    async def answer(self, text: str = "", **options: Unpack[GenerateOptions]) -> Answer:
        """Ask the agent's model and return the whole answer: its text, why it ended, calls of
        tools, log-probabilities and its cost. As `generate`."""
        return await last_of(self.answer_stream(text, **options))

    def answer_stream(
        self, text: str = "", **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[str | Answer, None]:
        """Ask the agent's model; yield its text as it comes and then the `Answer`. As `generate`."""
        return self._answer(Generation(text=text, whole=True, **options))

    async def generate_as(
        self, kind: type[T], text: str = "", *, repairs: int = 1, **options: Unpack[ValueOptions]
    ) -> T:
        """Ask the agent's model for a value of a type: a pydantic model, a dataclass, `list[int]`, …

        The answer is kept to the type's JSON schema where the engine can; elsewhere, `text` is
        followed by the schema in words. The value is the answer, or the first JSON in it, and is
        validated strictly. Where there is none, the model is told why and asked again, up to
        `repairs` times (at most 8). All of that stays in `context`, as it was said. `budget` is for
        all together. Accounts and metrics count the answers, and those without a value.

        Raises:
            UnparsableReply: no answer held a value.
            InvalidSchema: JSON cannot stand for the type.
            BudgetExceeded, ModelNotFound, ContextTooLong, ConfigError: as `generate`.
        """
        return cast(T, await generate_as(self, kind, text, repairs, options))

    async def score(
        self,
        text: str,
        continuations: Sequence[str | tuple[int, ...]],
        *,
        salt: str = "",
        budget: Budget | None = None,
    ) -> tuple[Score, ...]:
        """Ask how probable the agent's model finds given answers, in their order.

        `text` is read behind `context` as what the agent is asked to do (nothing, if it is empty),
        and each of 1 to 1,024 continuations behind that, as text or as the model's token ids; the
        call's context stays as it is. The log-probabilities are the model's own; see
        `agentbus.engine.Scorer`. What is read counts for the budget once for each continuation.

        Raises:
            Unsupported: the engine cannot score.
            BudgetExceeded: there is not enough left for all of it; nothing was computed.
            ConfigError: there are none or too many continuations, or one is empty.
            ModelNotFound, ContextTooLong: as `generate`.
        """
        self._node.prefetcher.reading(self.agent, self._delivery, salt)
        return await self._node.models.score(self, text, continuations, salt, budget)

    async def embed(
        self, texts: Sequence[str], *, budget: Budget | None = None
    ) -> tuple[Vector, ...]:
        """Ask the agent's model for the vectors of 1 to 1,024 texts, in their order.

        Each is of length 1 and has as many numbers as the model's hidden size; texts are read bare
        and apart from each other and from the context. See `agentbus.engine.Embedder`.

        Raises:
            Unsupported: the engine cannot embed.
            BudgetExceeded, ConfigError, ModelNotFound, ContextTooLong: as `score`.
        """
        return await self._node.models.embed(self, texts, budget)

    async def receipts(self, *, salt: str = "") -> tuple[FilterReceipt, ...]:
        """Return what filters make of each segment of the context, as the agent's model reads it.

        `salt` is that of the calls in question.

        Without rules for this agent (`BusSettings.filters`) all stays as it is. What was not read
        yet is decided on now.

        Raises:
            ModelNotFound: as `generate`.
        """
        return await self._node.models.receipts(self, salt)

    async def fetch_text(
        self,
        ref: str,
        *,
        lines: tuple[int, int] | None = None,
        characters: tuple[int, int] | None = None,
    ) -> Fetched:
        """Return the text of a segment as it was said, or a part of it, for this agent.

        As `Context.fetch`, and where the context has a summary, or a new version, of what is
        looked for, in what this process keeps and the process that made the call.

        Raises:
            MisuseError: what is asked for is no range.
            AgentbusError: the other process could not be asked.
        """
        return await fetch_text(self, ref, lines, characters)

    async def search_text(self, ref: str, query: str, *, limit: int = SEARCH_LIMIT) -> Searched:
        """Return the first lines of a segment's text that hold all words of `query`.

        As `Context.search`, and as `fetch_text` where the context has a summary of it.
        """
        return await search_text(self, ref, query, limit)

    async def answer_tool(self, asked: ToolCall) -> bool:
        """Answer what a model asks of the context's tool; False if it asks another tool.

        The answer is appended to the context as the tool's result, in plain words whatever came of
        it, and bounded (`ANSWER_BYTES`). The model has to know the tool: `CONTEXT_TOOLS` in the
        context and `context_tools()` in the call.

        Raises:
            AgentbusError: as `fetch_text`.
        """
        return await answer_tool(self, asked)

    def read_ahead(
        self,
        parts: AsyncIterable[T],
        author: str,
        *,
        context: Context | None = None,
        salt: str = "",
    ) -> AsyncGenerator[T, None]:
        """Pass on the parts of an answer as they stream, and have this agent's model read along.

        For a handler that goes on with `call.generate` where another agent's answer ends: what the
        model will read then, `context` (by default the call's) and behind it `author`'s message, is
        prefilled while that is still being written, as far as it has come.

        `async with call.stream(…) as parts: async for text in call.read_ahead(parts, "writer"): …`
        """
        context = context or self.context or self.empty_context()
        return self._node.prefetcher.follow(
            self, self._delivery.origin, parts, author, context, salt
        )

    def empty_context(self) -> Context:
        """Return the context that nothing was said in."""
        return self._node.empty_context()

    def remember(self, context: Context) -> None:
        """Note that the asking process holds `context` too, so that it need not be sent."""
        self._node.remember(self.peer, context)

    def _answer(self, request: Generation) -> AsyncGenerator[str | Answer, None]:
        return self._node.generate(self, self._delivery, request)

    @property
    def _sender(self) -> Node:
        return self._node

    @property
    def _process(self) -> str:
        return self._delivery.peer

    @property
    def _name_as_source(self) -> str:
        return self.agent

    def _lending(self, deadline: float | None, budget: Budget | None) -> Origin:
        origin, ledger = self._origin(deadline), self._delivery.origin.ledger
        if ledger is not None:
            return origin.lent(ledger.lend(budget))
        return origin if budget is None else origin.lent(Ledger.of(budget).lend())

    def _origin(self, deadline: float | None) -> Origin:
        origin = self._delivery.origin
        until = origin.deadline_at
        if deadline is not None:
            until = min(until, self._node.now() + check_seconds(deadline))
        trace = self._node.traces.caused(origin.trace)
        return Origin(self.agent, until, origin.hops_left - 1, trace, origin.trace)

"""Prefill ahead of need: a model begins to read what an agent will ask it to read.

The process of the agent knows the agent's model, role and layout, so it is the one that asks the
engine, as soon as a message with a context is in the mailbox: while it waits behind others, and
while its handler does something else first. A handler that calls its model at once is quicker, and
nothing is sent. The engine serves this last, and counts what was used of it (`EngineService`).

Whether an agent's model will read, and under which salt, is what its last message shows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import anyio

from ..context import Context, read_as
from ..errors import AgentbusError, NoHandler
from ..filters import plan_of
from ..telemetry import NO_TRACE
from .delivery import Delivery
from .models import Prefetch, model_agent_name
from .origin import Origin
from .payload import payload_type

if TYPE_CHECKING:
    from .call import Call
    from .generation import Generation
    from .mailbox import Mailbox
    from .node import Node

__all__ = ["ANNOUNCED", "Prefetcher", "settled_text"]

logger = logging.getLogger("agentbus")

T = TypeVar("T")

_EXPECTED = 64
"""Messages of this process that are prefetched for at once; for more nothing is."""
_HABITS = 4096
"""Agents whose last message is remembered, or that they have no model."""
_HELD_WORDS = 2
"""The last words of a text that is being written, which its next piece may change."""
_STEP_CHARACTERS = 200
"""A text that is being written is prefetched whenever so much has been added, about 50 tokens."""


class Announced(NamedTuple):
    """A message whose context extends the one that comes along is to come from the asking agent.

    It is answered when the agent's model has read the context, or will not.
    """

    salt: str


ANNOUNCED: Final = payload_type(Announced).schema
"""The name of `Announced` on the wire."""


class _Reader(NamedTuple):
    """Whose model reads, and on whose behalf it is asked."""

    agent: str
    model: str
    role: str
    origin: Origin


class Prefetcher:
    """Prefetches for the agents of one process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._expected: dict[Delivery, _Ahead] = {}
        self._salts: OrderedDict[str, str | None] = OrderedDict()
        """By agent: with which salt its last message was read; None if it was not."""
        self._deaf: OrderedDict[str, None] = OrderedDict()
        """Agents that take no announcements, since they have no model."""

    def expect(self, mailbox: Mailbox, delivery: Delivery) -> None:
        """A message with a context is in an agent's mailbox."""
        salt = self._salts.get(mailbox.name, "")
        if salt is None or delivery.origin.ledger is not None or len(self._expected) >= _EXPECTED:
            return  # a request with a budget spends nothing that its handler does not
        self._begin(mailbox, delivery, salt, alone=False)

    def reading(self, agent: str, delivery: Delivery, salt: str) -> None:
        """An agent's handler calls its model."""
        self._learn(agent, salt)
        ahead = self._expected.get(delivery)
        if ahead is not None:
            ahead.needless = True
            if not ahead.under_way:
                del self._expected[delivery]

    def answered(self, agent: str, delivery: Delivery) -> None:
        """An agent's handler has ended with a reply."""
        ahead = self._expected.get(delivery)
        if ahead is not None and not ahead.needless:
            self._learn(agent, None)
        self.ended(delivery)

    def ended(self, delivery: Delivery) -> None:
        """A message has ended, in whatever way, before it was handled or after."""
        ahead = self._expected.pop(delivery, None)
        if ahead is not None:
            ahead.stop()

    def announced(self, mailbox: Mailbox, delivery: Delivery) -> None:
        """An agent will get a message that goes on from a context: have its model read that.

        Raises:
            InvalidMessage: the announcement is none.
        """
        kind = payload_type(Announced)
        take = kind.decode if delivery.peer else kind.receive
        said: Announced = take(delivery.payload)
        if self._salts.get(mailbox.name, "") is None or len(self._expected) >= _EXPECTED:
            delivery.acknowledge()
        else:
            self._begin(mailbox, delivery, said.salt, alone=True)

    @contextmanager
    def announcing(
        self, agent: str, origin: Origin, request: Generation, context: Context
    ) -> Iterator[None]:
        """Tell the agents that are asked next while `agent` answers; if it fails, it was nothing."""
        asked = []
        if request.then and origin.ledger is None and self._node.settings.prefetch:
            own = Origin(agent, origin.deadline_at, origin.hops_left - 1, NO_TRACE)
            said = Announced(request.salt)
            names = [name for name in request.then if name not in self._deaf]
            asked = [_Announcing(self, name, said, context, own) for name in names]
        for one in asked:
            self._node.pool.run(one)
        try:
            yield
        except BaseException:
            for one in asked:
                one.stop()
            raise

    async def tell(self, target: str, said: Announced, context: Context, origin: Origin) -> None:
        """Announce a message to an agent; return when its model has read the context.

        Raises:
            AgentbusError: there is no such agent.
        """
        pending = self._node.pending(target, context, type(None), stream=False)
        try:
            if not self._node.send_nowait(pending, said, origin):
                await self._node.send(pending, said, origin)
            await pending.wait()
        except NoHandler:
            self._deaf[target] = None
            if len(self._deaf) > _HABITS:
                self._deaf.popitem(last=False)

    async def ask(
        self, reader: _Reader, context: Context, salt: str, author: str = "", text: str = ""
    ) -> None:
        """Have a reader's engine prefill a context, and behind it a message's text so far.

        Raises:
            AgentbusError: it cannot, or there is no engine.
        """
        node, origin = self._node, reader.origin
        reading = read_as(reader.agent, reader.role, context, node.settings.layout)
        read, layout = reading.context, reading.layout
        # Without trace and budget: this is the bus's own affair.
        own = Origin(reader.agent, origin.deadline_at, origin.hops_left - 1, NO_TRACE)
        target = model_agent_name(reader.model)
        pending = node.pending(target, read, int, stream=False)
        payload = Prefetch(layout, salt, author, text, plan_of(node.settings.filters, reader.agent))
        if not node.send_nowait(pending, payload, own):
            await node.send(pending, payload, own)
        await pending.wait()

    async def follow(
        self,
        call: Call,
        origin: Origin,
        parts: AsyncIterable[T],
        author: str,
        context: Context,
        salt: str,
    ) -> AsyncGenerator[T, None]:
        """Pass parts on; meanwhile have the call's engine read `context` and what has come."""
        reader = _Reader(call.agent, call.model, call.role, origin)
        follower = _Follower(self, reader, context, author, salt)
        try:
            if call.model and self._node.settings.prefetch:
                self._node.pool.run(follower)
            async for part in parts:
                if isinstance(part, str):
                    follower.add(part)
                yield part
        finally:
            follower.stop()

    def _begin(self, mailbox: Mailbox, delivery: Delivery, salt: str, *, alone: bool) -> None:
        reader = _Reader(mailbox.name, mailbox.model, mailbox.role, delivery.origin)
        ahead = self._expected[delivery] = _Ahead(self, reader, delivery, salt, alone=alone)
        delivery.task = ahead
        # In the loop's next turn, and behind what it does then, so that the handler is first.
        self._node.loop.call_soon(self._node.pool.run, ahead)

    def _learn(self, agent: str, salt: str | None) -> None:
        self._salts[agent] = salt
        self._salts.move_to_end(agent)
        if len(self._salts) > _HABITS:
            self._salts.popitem(last=False)


class _Ahead:
    """The prefetch for one message. Implements `Workload`, and `Cancellable` for the message."""

    def __init__(
        self,
        prefetcher: Prefetcher,
        reader: _Reader,
        delivery: Delivery,
        salt: str,
        *,
        alone: bool,
    ) -> None:
        self._prefetcher = prefetcher
        self._reader = reader
        self._delivery = delivery
        self._salt = salt
        self._alone = alone
        """Nobody handles the message: it only announces another."""
        self._scope = anyio.CancelScope()
        self.needless = False
        """The handler reads by itself. What has begun goes on: the handler's call waits for it."""
        self.under_way = False

    def stop(self) -> None:
        """Prefetch no more: the message has ended."""
        self._scope.cancel()

    def cancel(self) -> None:
        """The message has ended before it was handled."""
        self._prefetcher.ended(self._delivery)

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Prefetch, until that is done or the message has ended."""
        context = self._delivery.context
        if self.needless or self._scope.cancel_called or context is None:
            return
        self.under_way = True
        with self._scope:
            try:
                await self._prefetcher.ask(self._reader, context, self._salt)
            except AgentbusError as error:
                logger.debug("nothing was prefetched for %r: %s", self._reader.agent, error)
        self.under_way = False
        if self._alone and not self._delivery.done:
            self._prefetcher.ended(self._delivery)
            self._delivery.acknowledge()


class _Announcing:
    """Tells an agent of a message that is to come. Implements `Workload`."""

    def __init__(
        self,
        prefetcher: Prefetcher,
        target: str,
        said: Announced,
        context: Context,
        origin: Origin,
    ) -> None:
        self._prefetcher = prefetcher
        self._target = target
        self._said = said
        self._context = context
        self._origin = origin
        self._scope = anyio.CancelScope()

    def stop(self) -> None:
        """The message will not come."""
        self._scope.cancel()

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Tell, and wait until the agent's model has read the context."""
        if self._scope.cancel_called:
            return
        with self._scope:
            try:
                await self._prefetcher.tell(self._target, self._said, self._context, self._origin)
            except AgentbusError as error:
                logger.debug("nothing was announced to %r: %s", self._target, error)


class _Follower:
    """The prefetches for a text that is being written, one after another. Implements `Workload`."""

    def __init__(
        self, prefetcher: Prefetcher, reader: _Reader, context: Context, author: str, salt: str
    ) -> None:
        self._prefetcher = prefetcher
        self._reader = reader
        self._context = context
        self._author = author
        self._salt = salt
        self._parts: list[str] = []
        self._added = 0
        """Characters since the last prefetch began."""
        self._more = asyncio.Event()
        self._scope = anyio.CancelScope()

    def add(self, text: str) -> None:
        """Take text as it comes."""
        self._parts.append(text)
        self._added += len(text)
        if self._added >= _STEP_CHARACTERS:
            self._more.set()

    def stop(self) -> None:
        """Prefetch no more: who reads it comes now."""
        self._scope.cancel()

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Prefetch what is there, then what has been added, until stopped."""
        with self._scope:
            try:
                await self._prefetcher.ask(self._reader, self._context, self._salt)
                while True:
                    await self._more.wait()
                    self._more.clear()
                    self._added = 0
                    text = settled_text("".join(self._parts))
                    if text:
                        await self._prefetcher.ask(
                            self._reader, self._context, self._salt, self._author, text
                        )
            except AgentbusError as error:
                logger.debug("nothing more is prefetched for %r: %s", self._reader.agent, error)


def settled_text(text: str) -> str:
    """Return a text that is being written without its last words.

    A tokenizer cuts a text before the blanks between words, and what stands before a whole word
    with a blank behind it stays as it is cut. Where a tokenizer does otherwise, the tokens at the
    end are computed again, and nothing is wrong.
    """
    for _ in range(_HELD_WORDS):
        text = text.rstrip()
        end = max((text.rfind(blank) for blank in " \n\t"), default=-1)
        text = text[: max(end, 0)]
    return text.rstrip()

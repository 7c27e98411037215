"""One agent's mailbox and the resident tasks that run its handlers.

Messages wait in a bounded queue and are handled in the order of arrival. A task per message would
cost as much as everything else on the way (research: 3.6 µs), so a few tasks stay and take turns;
cancelling one message interrupts the handler, never the task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..errors import AgentbusError, HandlerFailed, MailboxFull, NoHandler, RequestCancelled
from ..telemetry import NO_COST, HopAccount
from .agent import Agent, HandlerSpec, handlers_of
from .exchange import Replies
from .payload import payload_type

if TYPE_CHECKING:
    from .call import Caller

__all__ = ["Delivery", "Mailbox"]

logger = logging.getLogger("agentbus")

_YIELD_EVERY = 256
"""Messages handled, or parts streamed, in a row before other tasks of the loop get a turn."""
_ERROR_TEXT = 500
"""Characters of a handler's exception that are passed on."""


class Delivery:
    """One message on its way through one agent."""

    __slots__ = (
        "_reason",
        "_task",
        "arrived",
        "context",
        "cost",
        "deadline_at",
        "done",
        "encoded",
        "hops_left",
        "payload",
        "peer",
        "replies",
        "schema",
        "source",
        "started",
        "trace",
        "transport",
    )

    def __init__(
        self,
        payload: Any,
        schema: str,
        replies: Replies,
        *,
        source: str,
        context: Context | None,
        deadline_at: float,
        hops_left: int,
        trace: bytes,
        transport: str = "inproc",
        peer: str = "",
        encoded: bool = False,
    ) -> None:
        self.payload = payload
        self.encoded = encoded
        """Whether the payload is still the bytes that a link brought."""
        self.schema = schema
        self.replies = replies
        self.source = source
        self.context = context
        self.deadline_at = deadline_at
        self.hops_left = hops_left
        self.trace = trace
        self.transport = transport
        self.peer = peer
        self.arrived = 0.0
        self.started = 0.0
        self.done = False
        self.cost = NO_COST
        self._task: asyncio.Task[Any] | None = None
        self._reason: AgentbusError | None = None

    def cancel(self, reason: AgentbusError | None, name: str = "") -> None:
        """Stop handling this message, or never start."""
        if self.done:
            return
        self.done = True
        self._reason = reason or RequestCancelled(name)
        if self._task is not None:
            self._task.cancel()

    def acknowledge(self) -> None:
        """End the request with an empty reply."""
        self.done = True
        self.replies.reply(None, self.context, HopAccount(self.source))

    @property
    def interrupted(self) -> AgentbusError | None:
        """Why `cancel` was called, if it was."""
        return self._reason

    def enter(self, task: asyncio.Task[Any], now: float) -> None:
        """Note that `task` handles this message from now on."""
        self._task = task
        self.started = now

    def leave(self) -> None:
        """Note that handling has ended."""
        self._task = None
        self.done = True


class Mailbox:
    """The queue of one agent, its handlers and their resident tasks."""

    def __init__(self, agent: Agent, name: str, caller: Caller, limit: int) -> None:
        self.agent = agent
        self.name = name
        self._caller = caller
        self._limit = limit
        self._handlers = handlers_of(type(agent))
        self._queue: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()

    def put_nowait(self, delivery: Delivery) -> None:
        """Queue a message.

        Raises:
            MailboxFull: too many wait already.
            NoHandler: the agent does not handle this type.
            InvalidMessage: nobody could, or the payload does not fit the handler.
        """
        spec = self._handlers.get(delivery.schema)
        if spec is None:
            if not delivery.encoded:
                payload_type(type(delivery.payload))
            raise NoHandler(self.name, delivery.schema)
        if len(self._queue) >= self._limit:
            raise MailboxFull(self.name, self._limit)
        take = spec.accepts.decode if delivery.encoded else spec.accepts.receive
        delivery.payload = take(delivery.payload)
        delivery.arrived = perf_counter()
        self._queue.append(delivery)
        if self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def run(self) -> None:
        """Handle messages until cancelled. One agent may have several of these tasks."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a mailbox runs inside a task")
        handled = 0
        while True:
            while not self._queue:
                await self._wait()
                handled = 0
            delivery = self._queue.popleft()
            if not delivery.done:
                await self._handle(delivery, task)
            handled += 1
            if handled % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Refuse what waits: each request ends with `RequestCancelled`."""
        while self._queue:
            delivery = self._queue.popleft()
            if not delivery.done:
                delivery.done = True
                delivery.replies.fail(RequestCancelled(self.name))

    async def _wait(self) -> None:
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._idle:
                self._idle.remove(waiter)

    async def _handle(self, delivery: Delivery, task: asyncio.Task[Any]) -> None:
        spec = self._handlers[delivery.schema]
        delivery.enter(task, perf_counter())
        error: AgentbusError | None = None
        try:
            await self._run(spec, delivery)
        except AgentbusError as raised:
            error = raised
        except asyncio.CancelledError:
            if delivery.interrupted is None:
                delivery.replies.fail(RequestCancelled(self.name))
                raise
            task.uncancel()
            error = delivery.interrupted
        except Exception as raised:
            logger.exception("handler %s of agent %r failed", spec.method, self.name)
            error = HandlerFailed(self.name, type(raised).__name__, str(raised)[:_ERROR_TEXT])
        else:
            await _absorb_late_cancel(delivery, task)
        finally:
            delivery.leave()
        if error is not None:
            delivery.replies.fail(error)

    async def _run(self, spec: HandlerSpec, delivery: Delivery) -> None:
        call = self._caller.call_for(self, delivery)
        method = getattr(self.agent, spec.method)
        value = None
        if spec.streams:
            async with aclosing(method(delivery.payload, call)) as parts:
                count = 0
                async for part in parts:
                    delivery.replies.part(part)
                    count += 1
                    if count % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        else:
            value = await method(delivery.payload, call)
        account = HopAccount(
            delivery.source,
            self.name,
            delivery.transport,
            queue_s=delivery.started - delivery.arrived,
            handle_s=perf_counter() - delivery.started,
            model=delivery.cost,
        )
        delivery.replies.reply(value, call.context, account)


async def _absorb_late_cancel(delivery: Delivery, task: asyncio.Task[Any]) -> None:
    """Swallow an interrupt that came when the handler had already returned."""
    if delivery.interrupted is not None and task.cancelling():
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.uncancel()

"""One agent's mailbox and the resident tasks that run its handlers.

Messages wait in a bounded queue and are handled in the order of arrival. A task per message would
cost as much as everything else on the way (research: 3.6 µs), so a few tasks stay and take turns;
cancelling one message interrupts the handler, never the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..errors import AgentbusError, HandlerFailed, MailboxFull, NoHandler, RequestCancelled
from ..telemetry import NO_COST
from .agent import Agent, handlers_of
from .exchange import Pending, Replies
from .payload import payload_type
from .requester import Origin

if TYPE_CHECKING:
    from .call import Call

__all__ = ["Delivery", "Mailbox"]

logger = logging.getLogger("agentbus")

_YIELD_EVERY = 256
"""Messages handled, or parts streamed, in a row before other tasks of the loop get a turn."""
_ERROR_TEXT = 500
"""Characters of a handler's exception that are passed on."""


class Delivery:
    """One message on its way through one agent. Implements `Callee` for callers in process."""

    __slots__ = (
        "arrived",
        "context",
        "cost",
        "done",
        "interrupted",
        "origin",
        "payload",
        "peer",
        "replies",
        "schema",
        "task",
    )

    def __init__(
        self,
        payload: Any,
        schema: str,
        origin: Origin,
        context: Context | None,
        replies: Replies,
        peer: str = "",
    ) -> None:
        self.payload = payload
        """The object; if a peer sent it, its frames until the mailbox takes them."""
        self.schema = schema
        self.origin = origin
        self.context = context
        self.replies = replies
        self.peer = peer
        """The process that sent it; empty if it is this one."""
        self.arrived = 0.0
        self.done = False
        self.cost = NO_COST
        self.interrupted: AgentbusError | None = None
        """Why `cancel` was called, if it was."""
        self.task: asyncio.Task[Any] | None = None
        """The task that handles it now."""

    def cancel(self, reason: AgentbusError) -> None:
        """Stop handling this message, or never start."""
        if self.done:
            return
        self.done = True
        self.interrupted = reason
        if self.task is not None:
            self.task.cancel()

    def abandon(self, pending: Pending, reason: AgentbusError | None) -> None:
        """Nobody waits for the reply any more."""
        self.cancel(reason or RequestCancelled(pending.target))

    def acknowledge(self) -> None:
        """End the request with an empty reply."""
        self.done = True
        self.replies.reply(None, self.context, 0.0, 0.0, NO_COST)


class Mailbox:
    """The queue of one agent, its handlers and their resident tasks."""

    def __init__(
        self, agent: Agent, name: str, make_call: Callable[[Delivery], Call], limit: int
    ) -> None:
        self.name = name
        self._make_call = make_call
        self._limit = limit
        self._handlers = {
            accepted: (spec, getattr(agent, spec.method))
            for accepted, spec in handlers_of(type(agent)).items()
        }
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
        handler = self._handlers.get(delivery.schema)
        if handler is None:
            if not delivery.peer:
                payload_type(type(delivery.payload))
            raise NoHandler(self.name, delivery.schema)
        if len(self._queue) >= self._limit:
            raise MailboxFull(self.name, self._limit)
        accepts = handler[0].accepts
        take = accepts.decode if delivery.peer else accepts.receive
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
        spec, method = self._handlers[delivery.schema]
        replies = delivery.replies
        error: AgentbusError | None = None
        delivery.task = task
        try:
            started = perf_counter()
            call = self._make_call(delivery)
            value = None
            if spec.streams:
                await _stream(method(delivery.payload, call), replies)
            else:
                value = await method(delivery.payload, call)
            # Memory that a peer lent goes back with the reply, not when the next message comes.
            delivery.payload = None
            queue_s, handle_s = started - delivery.arrived, perf_counter() - started
            replies.reply(value, call.context, queue_s, handle_s, delivery.cost)
        except asyncio.CancelledError:
            if delivery.interrupted is None and task.cancelling():
                replies.fail(RequestCancelled(self.name))
                raise
            # Without an interrupt the handler awaited what somebody else had cancelled.
            error = delivery.interrupted or RequestCancelled(self.name)
        except Exception as raised:  # noqa: BLE001 - logged, if it is not one of ours
            error = self._failure(spec.method, raised)
        finally:
            delivery.task = None
            delivery.done = True
        if delivery.interrupted is not None:
            await _absorb_interrupt(task)
        if error is not None:
            replies.fail(error)

    def _failure(self, method: str, raised: Exception) -> AgentbusError:
        """Return the caller's error for what a handler raised."""
        if isinstance(raised, AgentbusError):
            return raised
        logger.error("handler %s of agent %r failed", method, self.name, exc_info=raised)
        return HandlerFailed(self.name, type(raised).__name__, str(raised)[:_ERROR_TEXT])


async def _stream(parts: AsyncGenerator[Any, None], replies: Replies) -> None:
    """Send what a handler yields."""
    async with aclosing(parts):
        count = 0
        async for part in parts:
            replies.part(part)
            count += 1
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)


async def _absorb_interrupt(task: asyncio.Task[Any]) -> None:
    """Take an interrupt back, whether it has been raised, swallowed or is still to come."""
    if task.cancelling():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()

"""One agent's mailbox: a bounded queue, handled in the order of arrival.

The tasks that handle it come from the process's pool; cancelling one message interrupts the
handler, never the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any, Final

from ..errors import (
    AgentbusError,
    AnswersInParts,
    HandlerFailed,
    InvalidMessage,
    MailboxFull,
    NoHandler,
    RequestCancelled,
    text_of,
)
from ..telemetry import (
    KEPT_BY,
    NO_COST,
    TIMES,
    AgentMetrics,
    AgentReport,
)
from .agent import Agent
from .blueprint import Blueprint
from .call import Call
from .delivery import Delivery
from .parts import write_parts
from .payload import SCHEMA_MARK, payload_type
from .spec import HandlerSpec
from .tracing import log_handled

__all__ = ["Mailbox"]

logger = logging.getLogger("agentbus")

_YIELD_EVERY: Final = 256
"""Messages handled, or parts streamed, in a row before other tasks of the loop get a turn."""
_TRACE_ID: Final = 16
"""Bytes of a trace that name it; the rest is the span's."""
_EXITS: Final = (SystemExit, KeyboardInterrupt)
_ERROR_TEXT: Final = 500
"""Characters of a handler's exception that are passed on."""


Waiting = tuple[Delivery, HandlerSpec]


class Mailbox:
    """The queue of one agent. Implements `Workload` for the pool.

    A process may have very many: what can be shared is in the blueprint, and there is a queue only
    while messages wait.
    """

    __slots__ = (
        "_blueprint",
        "_busy",
        "_concurrency",
        "_first",
        "_metrics",
        "_queue",
        "agent",
        "name",
    )

    def __init__(self, agent: Agent, blueprint: Blueprint, metrics: AgentMetrics) -> None:
        self.agent = agent
        self.name = agent.name
        self._metrics = metrics
        self._blueprint = blueprint
        self._concurrency = 0
        """Tasks that may handle messages at once; none before `open`."""
        self._busy = 0
        self._first: Waiting | None = None
        """The message that waits alone, or before those in the queue."""
        self._queue: deque[Waiting] | None = None

    def open(self, concurrency: int) -> None:
        """Begin to handle messages, so many at once."""
        self._concurrency = concurrency
        for _ in range(min(concurrency, self.waiting)):
            self._engage()

    def _engage(self) -> None:
        self._busy += 1
        self._blueprint.pool.run(self)

    def put_now(self, delivery: Delivery) -> None:
        """Take a message, and begin to handle it at once if the agent is idle; as `put_nowait`.

        The request may have ended when this returns.
        """
        self._put(delivery)
        if self._busy < self._concurrency:
            self._busy += 1
            self._blueprint.pool.run_now(self)

    def put_nowait(self, delivery: Delivery) -> None:
        """Queue a message, to be handled in a later turn of the loop.

        Raises:
            MailboxFull: too many wait already.
            NoHandler: the agent does not handle this type.
            InvalidMessage: nobody could, or the payload does not fit the handler.
        """
        self._put(delivery)
        if self._busy < self._concurrency:
            self._engage()

    def put_added(self, delivery: Delivery) -> None:
        """Queue a message, to be handled when the pool begins what was added; as `put_nowait`.

        Several messages that come at once are so handled in one go.
        """
        self._put(delivery)
        if self._busy < self._concurrency:
            self._busy += 1
            self._blueprint.pool.add(self)

    def _put(self, delivery: Delivery) -> None:
        blueprint = self._blueprint
        spec = blueprint.handlers.get(delivery.schema) or self._spec_by_name(delivery)
        accepts = spec.accepts
        if spec.streams and delivery.feed is None:
            self._metrics.failed(AnswersInParts.code)
            raise AnswersInParts(self.name, accepts.name)
        if (self._first or self._queue) is not None and self.waiting >= blueprint.limit:
            self._metrics.failed(MailboxFull.code)
            raise MailboxFull(self.name, blueprint.limit)
        take = accepts.decode if delivery.peer else accepts.receive
        try:
            delivery.payload = take(delivery.payload)
        except InvalidMessage as error:
            self._metrics.failed(error.code)
            raise
        if not delivery.arrived:
            delivery.arrived = blueprint.clock()
        if self._queue is not None:
            self._queue.append((delivery, spec))
        elif self._first is None:
            self._first = delivery, spec
        else:
            self._queue = deque(((delivery, spec),))

    def _following(self) -> Waiting | None:
        """Take the message that is to be handled next."""
        first, queue = self._first, self._queue
        if queue is None:
            self._first = None
        elif first is None:
            first = queue.popleft()
        else:
            self._first = None
        if queue is not None and not queue:
            self._queue = None
        return first

    def _spec_by_name(self, delivery: Delivery) -> HandlerSpec:
        """Return the handler for another version of the type, or of a caller in this process."""
        name = delivery.schema.partition(SCHEMA_MARK)[0]
        for accepted, spec in self._blueprint.handlers.items():
            if accepted.partition(SCHEMA_MARK)[0] == name:
                return spec
        if not delivery.peer:
            payload_type(type(delivery.payload))
        self._metrics.failed(NoHandler.code)
        handled = (accepted.partition(SCHEMA_MARK)[0] for accepted in self._blueprint.handlers)
        raise NoHandler(self.name, name, ", ".join(dict.fromkeys(handled)))

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Handle messages until none is left."""
        handled = 0
        blueprint = self._blueprint
        try:
            while (following := self._following()) is not None:
                delivery, spec = following
                if delivery.done:
                    continue
                delivery.task = task
                error: AgentbusError | None = None
                started = blueprint.clock()
                try:
                    call = blueprint.call(self.name, delivery)
                    value = None
                    if spec.streams:
                        await write_parts(
                            spec.function(self.agent, delivery.payload, call), delivery
                        )
                    else:
                        value = await spec.function(self.agent, delivery.payload, call)
                    self._answer(delivery, value, call, started)
                except asyncio.CancelledError:
                    error = self._cancelled(delivery, task)
                except BaseException as raised:  # noqa: BLE001 - logged, if it is not one of ours
                    error = self._failure(spec.method, raised, delivery.origin.trace, task)
                finally:
                    delivery.task = None
                    delivery.done = True
                if (error or delivery.interrupted) is not None or delivery.cost is not NO_COST:
                    await self._settle(delivery, error, started, task)
                handled += 1
                if handled % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        finally:
            self._leave(task)

    def _leave(self, task: asyncio.Task[object]) -> None:
        """Handle no more here; if it is one message that ended this, those behind it go on."""
        self._busy -= 1
        waits = self._first is not None or self._queue is not None
        if waits and self._busy < self._concurrency and not _is_thrown_away(task):
            self._engage()

    @property
    def model(self) -> str:
        """The model behind the agent's calls; empty if it has none."""
        return self._blueprint.model

    @property
    def role(self) -> str:
        """The agent's standing instructions."""
        return self._blueprint.role

    def specs(self) -> tuple[HandlerSpec, ...]:
        """Return the agent's handlers."""
        return tuple(self._blueprint.handlers.values())

    def report(self) -> AgentReport:
        """Return what this agent has counted so far."""
        self._blueprint.log.sort_in()
        return self._metrics.report(self.name, self.waiting, self.model)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return (self._first is not None) + len(self._queue or ())

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being handled."""
        return self._concurrency > 0 and not self.waiting and not self._busy

    def close(self, reason: AgentbusError | None = None) -> None:
        """Refuse what waits: each request ends with `reason`, or with `RequestCancelled`."""
        self._concurrency = 0
        while (following := self._following()) is not None:
            delivery, _ = following
            if not delivery.done:
                error = reason or RequestCancelled(self.name)
                delivery.cancel(error)
                delivery.replies.fail(error, delivery.spent)

    def _answer(self, delivery: Delivery, value: Any, call: Call, started: float) -> None:
        # Memory that a peer lent goes back with the reply, not when the next message comes.
        delivery.payload = None
        blueprint = self._blueprint
        queue_s, handle_s = started - delivery.arrived, blueprint.clock() - started
        ledger = delivery.origin.ledger
        delivery.replies.reply(
            value,
            call.context,
            queue_s,
            handle_s,
            delivery.cost,
            None if ledger is None else ledger.used,
        )
        spans = blueprint.spans
        if spans is None:
            return
        times = blueprint.log.times
        times += (self._metrics, queue_s, handle_s)
        if len(times) >= TIMES:
            blueprint.log.sort_in()
        if delivery.origin.trace[KEPT_BY] >= spans.first:
            log_handled(spans, self.name, delivery, queue_s, handle_s, None)

    def _cancelled(self, delivery: Delivery, task: asyncio.Task[object]) -> AgentbusError:
        """Return the caller's error for a handler that was cancelled.

        Raises:
            CancelledError: it is the task that was.
        """
        if delivery.interrupted is None and task.cancelling():
            delivery.replies.fail(RequestCancelled(self.name))
            raise asyncio.CancelledError
        # Without an interrupt the handler awaited what somebody else had cancelled.
        return delivery.interrupted or RequestCancelled(self.name)

    async def _settle(
        self,
        delivery: Delivery,
        error: AgentbusError | None,
        started: float,
        task: asyncio.Task[object],
    ) -> None:
        """Do what an ordinary reply needs not."""
        if delivery.interrupted is not None:
            await _absorb_interrupt(task)
        if delivery.cost is not NO_COST:
            self._metrics.charged(delivery.cost)
        if error is None:
            return
        self._metrics.failed(error.code)
        spans, clock = self._blueprint.spans, self._blueprint.clock
        if spans is not None:
            queue_s, handle_s = started - delivery.arrived, clock() - started
            log_handled(spans, self.name, delivery, queue_s, handle_s, error)
        delivery.replies.fail(error, delivery.spent)

    def _failure(
        self, method: str, raised: BaseException, trace: bytes, task: asyncio.Task[object]
    ) -> AgentbusError:
        """Return the caller's error for what a handler raised; what ends the program is let through."""
        if isinstance(raised, AgentbusError):
            return raised
        if isinstance(raised, _EXITS):
            raise raised
        if isinstance(raised, GeneratorExit) and _is_thrown_away(task):
            raise raised
        logger.error(
            "handler %s of agent %r failed",
            method,
            self.name,
            exc_info=raised,
            extra={"trace_id": trace[:_TRACE_ID].hex()},
        )
        return HandlerFailed(self.name, type(raised).__name__, text_of(raised)[:_ERROR_TEXT])


def _is_thrown_away(task: asyncio.Task[object]) -> bool:
    """Tell whether a task does not run any more, but is cleared away in the middle."""
    return asyncio.current_task(task.get_loop()) is not task


async def _absorb_interrupt(task: asyncio.Task[object]) -> None:
    """Take an interrupt back, whether it has been raised, swallowed or is still to come."""
    if task.cancelling():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()

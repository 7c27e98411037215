"""How requests are made: the verbs that a bus and a handler's call share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from mypy_extensions import mypyc_attr

from ..context import Context, ContextStore
from ..errors import ConfigError
from ..telemetry import Budget
from .fetch import fetch
from .origin import Origin
from .reply import Reply
from .stream import ReplyStream

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Requester", "check_seconds"]

T = TypeVar("T")
_NUMBERS: Final = (int, float)
_LONGEST: Final = 1e9
"""Seconds, 31 years; what is far beyond cannot be sent as microseconds."""


def check_seconds(seconds: float, what: str = "deadline") -> float:
    """Return a time in seconds if it is a number, and not beyond all reason.

    Raises:
        ConfigError: it is not; `what` names it.
    """
    if not isinstance(seconds, _NUMBERS) or not abs(seconds) <= _LONGEST:
        raise ConfigError(
            what, f"must be a finite number of seconds, at most {_LONGEST:.0f}, not {seconds!r}"
        )
    return seconds


@mypyc_attr(allow_interpreted_subclasses=True)
class Requester:
    """Asks agents. `Bus` asks for a program, `Call` for a handler, within what it was given."""

    __slots__ = ()

    @property
    def _sender(self) -> Node:
        raise NotImplementedError

    @property
    def contexts(self) -> ContextStore:
        """What this process keeps of contexts: there they are found by reference, and retained."""
        return self._sender.peers.store

    @property
    def _name_as_source(self) -> str:
        """The asking agent's name; empty for a program."""
        raise NotImplementedError

    @property
    def _process(self) -> str:
        """The process that caused what is sent from here; empty if it is this one."""
        return ""

    def _origin(self, deadline: float | None) -> Origin:
        """Return the origin of what is sent from here, without a budget."""
        raise NotImplementedError

    def _lending(self, deadline: float | None, budget: Budget | None) -> Origin:
        """Return the origin of a request, with what it may spend: that is its own until it ends."""
        raise NotImplementedError

    @property
    def budget(self) -> Budget | None:
        """What is left for requests made from here; None if nothing limits them."""
        raise NotImplementedError

    def within(self, budget: Budget) -> Requester:
        """Return an asker whose requests together stay within a budget, and within this one's.

        Requests that are under way at once need a share each, by `budget=`: one without takes all
        that is left until it ends. `patterns.gather` and `patterns.hedged` give equal shares.
        """
        raise NotImplementedError

    @overload
    async def request(
        self,
        target: str,
        payload: Any,
        *,
        returns: type[T],
        context: Context | None = ...,
        deadline: float | None = ...,
        budget: Budget | None = ...,
    ) -> T: ...
    @overload
    async def request(
        self,
        target: str,
        payload: Any,
        *,
        context: Context | None = ...,
        deadline: float | None = ...,
        budget: Budget | None = ...,
    ) -> Any: ...
    async def request(
        self,
        target: str,
        payload: Any,
        *,
        returns: Any = None,
        context: Context | None = None,
        deadline: float | None = None,
        budget: Budget | None = None,
    ) -> Any:
        """Ask an agent and return the value that it answers with.

        `deadline` is in seconds from now. `budget` is what the request, and all that it causes, may
        spend on models; a handler's requests get at most what is left of its own, by default all
        of it until they end. Raises as `call` does.
        """
        sender = self._sender
        pending = sender.pending(target, context, returns, stream=False)
        origin = self._lending(deadline, budget)
        if not sender.send_nowait(pending, payload, origin):
            await sender.send(pending, payload, origin)
        return pending.value() if pending.ended else await pending.wait()

    @overload
    async def call(
        self,
        target: str,
        payload: Any,
        *,
        returns: type[T],
        context: Context | None = ...,
        deadline: float | None = ...,
        budget: Budget | None = ...,
    ) -> Reply[T]: ...
    @overload
    async def call(
        self,
        target: str,
        payload: Any,
        *,
        context: Context | None = ...,
        deadline: float | None = ...,
        budget: Budget | None = ...,
    ) -> Reply[Any]: ...
    async def call(
        self,
        target: str,
        payload: Any,
        *,
        returns: Any = None,
        context: Context | None = None,
        deadline: float | None = None,
        budget: Budget | None = None,
    ) -> Reply[Any]:
        """Ask an agent; return its value, the context as it now is, and what the hop cost.

        Cancelling the call cancels the work at the callee.

        Raises:
            NoResponder, NoHandler: nobody takes such a message there.
            MailboxFull, LinkFull: it was refused, since too much waits already.
            PeerLost: the callee's process went away.
            DeadlineExceeded: the deadline passed first.
            BudgetExceeded: a model call would have spent more than the budget has left.
            HandlerFailed: the handler raised an exception of its own.
            InvalidMessage, TooLarge: the payload cannot be sent or does not fit the handler.
        """
        sender = self._sender
        pending = sender.pending(target, context, returns, stream=False)
        origin = self._lending(deadline, budget)
        if not sender.send_nowait(pending, payload, origin):
            await sender.send(pending, payload, origin)
        await pending.wait()
        return pending.result()

    def stream(
        self,
        target: str,
        payload: Any,
        *,
        returns: Any = None,
        context: Context | None = None,
        deadline: float | None = None,
        budget: Budget | None = None,
    ) -> ReplyStream[Any]:
        """Ask an agent and read its answer part by part.

        `async with bus.stream(…) as parts: async for part in parts: …`. Errors as in `call`,
        raised where the parts are read. The agent writes as fast as the parts are read, and a
        window ahead (`BusSettings.stream_parts`). `parts.send(…)` and `parts.finish()` feed a
        handler that reads with `call.feed`.
        """
        sender = self._sender
        pending = sender.pending(target, context, returns, stream=True)

        async def start() -> None:
            origin = self._lending(deadline, budget)
            if not sender.send_nowait(pending, payload, origin):
                await sender.send(pending, payload, origin)

        return ReplyStream(pending, start)

    async def fetch(
        self, root: bytes, *, holder: str = "", deadline: float | None = None
    ) -> Context:
        """Return a context by its root, such as a summary's `refers`.

        It is looked for here, then in the process of the agent `holder`; of a call's, without one,
        in the process that made the call. That must have referred to it in a context that it sent
        here, over a link of their own, not by way of a broker.

        Raises:
            UnknownContext: neither keeps it, or nothing sent here refers to it.
            NoResponder, PeerLost, DeadlineExceeded: the other process could not be asked.
        """
        sender, name = self._sender, self._process
        peer = sender.peers.named(name) if name else None
        return await fetch(sender, root, peer, holder, self._origin(deadline))

    async def publish(self, topic: str, payload: Any, *, delay: float = 0) -> None:
        """Send a payload to all who subscribed to a matching pattern, at most once each.

        With a `delay` it is sent so many seconds later, as it is now, if this bus is still open.

        Raises:
            InvalidName: the topic is not well formed.
            InvalidMessage: the payload cannot be written.
            ConfigError: the delay is no number of seconds.
            MailboxFull: too many wait for their time already.
        """
        if delay:
            self._sender.publish_later(topic, payload, self._name_as_source, delay)
        else:
            self._sender.publish(topic, payload, self._name_as_source)

    def publish_nowait(self, topic: str, payload: Any) -> None:
        """As `publish`, for who cannot await."""
        self._sender.publish(topic, payload, self._name_as_source)

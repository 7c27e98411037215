"""The bytes of hops with a context: another process behind a proxy that counts, over Unix sockets.

`python -m perf.micro.context_side PATH` hosts the agent.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from agentbus import Agent, Bus, BusSettings, Call, Context, Reply, handler
from agentbus.config import Limits
from agentbus.context import Segment
from agentbus.testing import Direction, FaultProxy, fault_proxy

from ..children import announce_and_wait, python_child
from ..workloads import REQUEST_TIMEOUT_S

__all__ = ["HOPS", "Counted", "count_hops", "serve"]

HOPS = 20
AUTHOR = "speaker"
TEXT_CHARACTERS = 600
ACK = 64
"""Bytes; what a link sends to acknowledge every 64 KiB, and no account counts, is smaller."""
_SETTINGS = BusSettings(limits=Limits(share_from=Limits().frame))
"""Nothing goes past the sockets, through shared memory: there it would not be counted."""


class Speaker(Agent):
    """Says something on a context; forgets contexts."""

    @handler
    async def speak(self, number: int, call: Call) -> None:
        """Append a text that differs from all others."""
        call.context = (call.context or call.empty_context()).message(AUTHOR, _text(number))

    @handler
    async def forget(self, what: str, call: Call) -> None:
        """Forget all contexts, or listen to one."""
        if what == "all":
            call.contexts.collect()


def _text(number: int) -> str:
    return f"{number:08}".ljust(TEXT_CHARACTERS, "x")


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of messages with contexts of one length, beside what of the context was new."""

    request: float
    """What went to the other process, at the median: one segment was new to it."""
    new: float
    """Author and text of that segment."""
    reply_beyond_new: float
    """What came back, less the segment that was new here."""
    worst_request_beyond_new: float
    worst_reply_beyond_new: float
    forgot_beyond_new: float
    """When the other process had forgotten everything: the request, what it asked for and what it
    got, by the reply's account, less author and text of all segments. The account leaves out what
    the link acknowledges, which is for the bytes, whatever they are."""


class Wire:
    """The caller's bus, and what its connection has carried."""

    def __init__(self, bus: Bus, proxy: FaultProxy) -> None:
        self.bus = bus
        self._proxy = proxy

    def carried(self) -> tuple[int, int]:
        """Return how many bytes went to the other process so far, and came from it."""
        ways = (Direction.TO_LISTENER, Direction.FROM_LISTENER)
        to, back = (sum(c.passed(way) for c in self._proxy.connections) for way in ways)
        return to, back

    async def ask(self, payload: int | str, context: Context) -> tuple[Reply[None], int, int]:
        """Make a request; return the reply, the bytes that went, and those that came."""
        before = self.carried()
        reply = await self.bus.call(AUTHOR, payload, context=context, deadline=REQUEST_TIMEOUT_S)
        after = self.carried()
        return reply, after[0] - before[0], after[1] - before[1]


async def count_hops(segments: int) -> Counted:
    """Send contexts that are `segments` long, or a little longer, and count."""
    async with _wire() as wire:
        context = wire.bus.context()
        for number in range(segments - 1):
            context = context.user(_text(-number))
        reply, _, _ = await wire.ask("nothing", context)
        requests: list[int] = []
        requests_beyond: list[int] = []
        replies_beyond: list[int] = []
        new = 0
        for number in range(HOPS):
            context = (reply.context or context).user(_text(10**6 + number))
            reply, to, back = await wire.ask(number, context)
            new = _content(context.segments()[-1:])
            requests.append(to)
            _check(reply, to, back)
            requests_beyond.append(to - new)
            replies_beyond.append(back - _content(_grown(context, reply)))
        usual = reply.account.received_bytes
        whole = (reply.context or context).user(_text(2 * 10**6))
        await wire.bus.request(AUTHOR, "all", deadline=REQUEST_TIMEOUT_S)
        reply, _, _ = await wire.ask(HOPS, whole)
        asked_for = reply.account.received_bytes - usual
        forgot = reply.account.sent_bytes + asked_for - _content(whole.segments())
        return Counted(
            request=statistics.median(requests),
            new=new,
            reply_beyond_new=statistics.median(replies_beyond),
            worst_request_beyond_new=max(requests_beyond),
            worst_reply_beyond_new=max(replies_beyond),
            forgot_beyond_new=forgot,
        )


def _check(reply: Reply[None], to: int, back: int) -> None:
    """Check that the account says what the proxy saw, but for an acknowledgement of the link's."""
    account = reply.account
    if not (0 <= to - account.sent_bytes < ACK and 0 <= back - account.received_bytes < ACK):
        raise ValueError(f"{to} and {back} bytes went and came, but the account is {account}")


def _grown(context: Context, reply: Reply[None]) -> Sequence[Segment]:
    """Return the one segment that the agent appended; anything else is a broken measurement."""
    grown = [] if reply.context is None else reply.context.segments()
    if len(grown) != len(context) + 1 or grown[:-1] != context.segments():
        raise ValueError("the agent did not append one segment")
    return grown[-1:]


def _content(segments: Sequence[Segment]) -> int:
    return sum(len(s.author.encode()) + len(s.text.encode()) for s in segments)


@asynccontextmanager
async def _wire() -> AsyncGenerator[Wire, None]:
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("the speaker's process", "perf.micro.context_side", path),
            fault_proxy(path) as proxy,
            Bus.open(proxy.url, settings=_SETTINGS) as bus,
        ):
            yield Wire(bus, proxy)


async def serve(path: str) -> None:
    """Host the agent on the socket `path` until the parent leaves."""
    async with Bus.open(listen=path, settings=_SETTINGS) as bus:
        await bus.spawn(Speaker(), name=AUTHOR)
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))

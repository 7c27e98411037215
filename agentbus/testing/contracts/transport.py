"""What every link promises, whatever carries it, on both event loops.

A transport of your own passes it so; the tests need anyio's plugin for pytest, which anyio brings:

    class TestPigeons(LinkContract):
        @asynccontextmanager
        async def connected(self, a, b, limits, folder):
            async with await listen_pigeons(folder, b, HELLO_B, limits):
                link = await connect_pigeons(folder, a, HELLO_A, limits)
                await b.until_opened()
                yield link, b.links[0]
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from ...config import Limits
from ...errors import AgentbusError, Closed, LinkFull, PeerLost, TooLarge
from ...messages import Envelope, Kind
from ...transport import Link
from ...wire import Hello

__all__ = ["HELLO_A", "HELLO_B", "LinkContract", "LinkPair", "Recorder", "request_of"]

HELLO_A = Hello("a", "/run/a")
"""What the side that connects says about itself."""
HELLO_B = Hello("b", "/run/b")
"""What the side that listens says about itself."""


def request_of(number: int, body: bytes | memoryview = b"") -> Envelope:
    """Return a request of that number."""
    return Envelope(Kind.REQUEST, id=number, target="agent", payloads=(body,))


class Recorder:
    """A `LinkOwner` that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.envelopes: list[Envelope] = []
        self.lost: list[AgentbusError | None] = []
        self.events: list[str] = []
        self.on_envelope: Callable[[Link, Envelope], None] | None = None
        self._changed = asyncio.Event()

    def link_opened(self, link: Link) -> None:
        self.links.append(link)
        self._note("opened")

    def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            if link.closing:
                break
            self.envelopes.append(envelope)
            self._note("envelope")
            if self.on_envelope is not None:
                self.on_envelope(link, envelope)

    def link_broken(self, link: Link) -> None:
        """Note it."""
        self._note("broken")

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        self.lost.append(error)
        self._note("lost")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a callback made the condition true."""
        with anyio.fail_after(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_opened(self, count: int = 1) -> None:
        """Wait until so many links opened."""
        await self.until(lambda: len(self.links) >= count)

    async def until_received(self, count: int) -> None:
        """Wait until so many envelopes came."""
        await self.until(lambda: len(self.envelopes) >= count)

    async def until_lost(self, count: int = 1) -> None:
        """Wait until so many links were lost."""
        await self.until(lambda: len(self.lost) >= count)


class LinkPair(NamedTuple):
    """Both ends of an open link, with their owners."""

    link_a: Link
    a: Recorder
    link_b: Link
    b: Recorder


class LinkContract:
    """Derive from it, and say in `connected` how two ends are connected."""

    pytestmark = pytest.mark.anyio

    def connected(
        self, a: Recorder, b: Recorder, limits: Limits, folder: Path
    ) -> AbstractAsyncContextManager[tuple[Link, Link]]:
        """Return what connects `a`, who says `HELLO_A`, to `b`, for as long as it is entered.

        It gives a's link and b's, both open, with `limits` on both sides. What is open at the end
        is dropped before it is left. `folder` is for sockets: its path is short.
        """
        raise NotImplementedError

    @pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
        """Transports run on whichever loop there is."""
        return "asyncio", {"use_uvloop": request.param}

    @pytest.fixture
    def limits(self) -> Limits:
        """The limits of both sides."""
        return Limits(write_buffer=8 * 1024 * 1024)

    @pytest.fixture
    async def pair(self, limits: Limits) -> AsyncIterator[LinkPair]:
        """An open link."""
        a, b = Recorder(), Recorder()
        with tempfile.TemporaryDirectory(prefix="ab-") as folder:
            async with self.connected(a, b, limits, Path(folder)) as (link_a, link_b):
                yield LinkPair(link_a, a, link_b, b)
                link_a.abort()
                await link_a.aclose()
                await link_b.aclose()

    async def test_both_sides_know_each_other_once_open(self, pair: LinkPair) -> None:
        assert (pair.link_a.peer, pair.link_b.peer) == (HELLO_B, HELLO_A)
        assert pair.a.events == pair.b.events == ["opened"]

    async def test_envelopes_arrive_whole_and_in_order_both_ways(self, pair: LinkPair) -> None:
        there = [request_of(n, bytes(n % 300)) for n in range(1, 501)]
        back = [Envelope(Kind.REPLY, id=n, context=b"c" * n) for n in range(1, 501)]
        for one, other in zip(there, back, strict=True):
            pair.link_a.send(one)
            pair.link_b.send(other)
        await pair.b.until_received(500)
        await pair.a.until_received(500)
        assert (pair.b.envelopes, pair.a.envelopes) == (there, back)

    async def test_every_byte_is_counted(self, pair: LinkPair) -> None:
        before = pair.link_a.bytes_sent
        sizes = [pair.link_a.send(request_of(n, b"x" * n)) for n in (1, 100, 100_000)]
        await pair.b.until_received(3)
        assert pair.link_a.bytes_sent - before == sum(sizes)
        assert pair.link_b.bytes_received == pair.link_a.bytes_sent
        assert sizes[0] < 60

    async def test_large_payloads_go_between_small_ones(self, pair: LinkPair) -> None:
        sent = [request_of(n, b"x" * (700_000 if n % 3 == 0 else 10)) for n in range(1, 10)]
        for envelope in sent:
            pair.link_a.send(envelope)
        await pair.b.until_received(len(sent))
        assert pair.b.envelopes == sent

    async def test_what_was_sent_stays_as_it_was(self, pair: LinkPair) -> None:
        sizes = (10, 100_000, 1_000_000, 5_000_000)
        bodies = [bytearray(bytes([n]) * size) for n, size in enumerate(sizes, 1)]
        sent = [bytes(body) for body in bodies]
        for number, body in enumerate(bodies, 1):
            pair.link_a.send(request_of(number, memoryview(body)))
            body[:] = bytes(len(body))
        await pair.b.until_received(len(sent))
        assert [envelope.payloads[0] for envelope in pair.b.envelopes] == sent

    @pytest.mark.parametrize("limits", [Limits(write_buffer=1_000_000)])
    async def test_a_full_link_refuses_and_goes_on_when_it_is_read(self, pair: LinkPair) -> None:
        sent = 0
        with pytest.raises(LinkFull) as caught:
            while True:
                pair.link_a.send(request_of(sent + 1, b"x" * 100_000))
                sent += 1
        assert (caught.value.peer, caught.value.limit) == ("b", 1_000_000)
        assert 9 <= sent < 100
        await pair.b.until_received(sent)
        pair.link_a.send(request_of(sent + 2))
        await pair.b.until_received(sent + 1)
        assert [envelope.id for envelope in pair.b.envelopes] == [*range(1, sent + 1), sent + 2]

    async def test_a_link_pauses_who_can_wait(self, pair: LinkPair) -> None:
        assert not pair.link_a.paused
        await pair.link_a.drain()
        for number in range(1, 41):
            pair.link_a.send(request_of(number, b"x" * 100_000))
        assert pair.link_a.paused
        with anyio.fail_after(5):
            await pair.link_a.drain()
        assert not pair.link_a.paused
        await pair.b.until_received(40)

    async def test_what_is_too_large_harms_nothing(self, pair: LinkPair) -> None:
        with pytest.raises(TooLarge):
            # Each part is under the size from which a link would share memory.
            pair.link_a.send(Envelope(Kind.REQUEST, 1, payloads=(bytes(200_000),) * 85))
        pair.link_a.send(request_of(2))
        await pair.b.until_received(1)

    async def test_an_orderly_close_delivers_what_was_sent_before(self, pair: LinkPair) -> None:
        for number in range(1, 11):
            pair.link_a.send(request_of(number, b"x" * 100_000))
        with anyio.fail_after(5):
            await pair.link_a.aclose()
            await pair.link_b.aclose()
        assert pair.b.events == ["opened", *["envelope"] * 10, "lost"]
        assert pair.a.events == ["opened", "lost"]
        assert pair.a.lost == pair.b.lost == [None]
        for link in (pair.link_a, pair.link_b):
            with pytest.raises(Closed):
                link.send(request_of(99))
            with pytest.raises(Closed):
                await link.drain()

    async def test_both_sides_may_close_at_once_and_twice(self, pair: LinkPair) -> None:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for link in (pair.link_a, pair.link_b, pair.link_a):
                    tasks.start_soon(link.aclose)
        assert pair.a.lost == pair.b.lost == [None]

    async def test_nothing_is_delivered_once_the_close_began(self, pair: LinkPair) -> None:
        pair.link_b.send(request_of(1))
        with anyio.fail_after(5):
            await pair.link_a.aclose()
        assert pair.a.events == ["opened", "lost"]

    async def test_a_close_that_is_cancelled_goes_on(self, pair: LinkPair) -> None:
        pair.link_a.send(request_of(1))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pair.link_a.aclose()
        await pair.b.until_lost()
        await pair.a.until_lost()
        assert pair.b.events == ["opened", "envelope", "lost"]
        assert pair.a.lost == pair.b.lost == [None]

    async def test_an_abort_is_the_loss_of_the_peer(self, pair: LinkPair) -> None:
        pair.link_a.abort()
        with pytest.raises(Closed):
            pair.link_a.send(request_of(1))
        pair.link_a.abort()
        await pair.a.until_lost()
        await pair.b.until_lost()
        with anyio.fail_after(5):
            await pair.link_a.aclose()
            await pair.link_b.aclose()
        assert pair.a.lost == [None]
        (error,) = pair.b.lost
        assert isinstance(error, PeerLost) and error.peer == "a"
        with pytest.raises(Closed):
            pair.link_b.send(request_of(1))

    async def test_an_owner_may_drop_the_link_while_it_is_called(self, pair: LinkPair) -> None:
        def drop(link: Link, _: Envelope) -> None:
            link.abort()

        pair.b.on_envelope = drop
        for number in range(1, 6):
            pair.link_a.send(request_of(number))
        await pair.b.until_lost()
        await pair.a.until_lost()
        assert pair.b.events == ["opened", "envelope", "lost"]
        assert isinstance(pair.a.lost[0], PeerLost)

    async def test_an_owner_may_answer_while_it_is_called(self, pair: LinkPair) -> None:
        def answer(link: Link, envelope: Envelope) -> None:
            link.send(Envelope(Kind.REPLY, id=envelope.id))

        pair.b.on_envelope = answer
        for number in range(1, 6):
            pair.link_a.send(request_of(number))
        await pair.a.until_received(5)
        assert [envelope.id for envelope in pair.a.envelopes] == [1, 2, 3, 4, 5]

    async def test_a_request_id_that_does_not_rise_ends_the_link_with_the_reason(
        self, pair: LinkPair
    ) -> None:
        pair.link_a.send(request_of(2))
        pair.link_a.send(request_of(2))
        await pair.b.until_lost()
        await pair.a.until_lost()
        assert pair.b.events == ["opened", "envelope", "lost"]
        for error in (*pair.a.lost, *pair.b.lost):
            assert "request 2 came after request 2" in str(error)

    async def test_who_waits_for_a_link_learns_that_it_is_lost(self, pair: LinkPair) -> None:
        for number in range(1, 61):
            pair.link_a.send(request_of(number, b"x" * 100_000))
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(Closed):
                    await pair.link_a.drain()

            tasks.start_soon(wait)
            tasks.start_soon(wait)
            pair.link_a.abort()

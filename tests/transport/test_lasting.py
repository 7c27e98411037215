"""A link goes on over another connection only for the process that it was made with."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agentbus.config import Limits
from agentbus.errors import AgentbusError, Closed, LinkFull, MalformedFrame, PeerLost
from agentbus.messages import Envelope, Kind
from agentbus.transport import connect_unix, link, listen_unix
from agentbus.transport.lasting import LastingLink
from agentbus.transport.process_exit import ProcessExit
from agentbus.wire import Decoder, Hello, Resume, Session, read_failure

from .helpers import LIMITS, RawPeer, Recorder, raw_peer, request

pytestmark = pytest.mark.anyio

KEPT = 20_000
HERE, THERE = Hello("here", "", KEPT), Hello("there", "", KEPT)


class Listening(Recorder):
    """Owns what is accepted; keeps the latest link under its own type."""

    @property
    def link(self) -> LastingLink:
        found = self.links[-1]
        assert isinstance(found, LastingLink)
        return found


@asynccontextmanager
async def broken(path: str, limits: Limits = LIMITS) -> AsyncIterator[tuple[Listening, bytes]]:
    """A listener with one link whose connection broke; yields it and the link's ticket."""
    owner = Listening()
    async with await listen_unix(path, owner, HERE, limits):
        async with raw_peer(path) as peer:
            peer.writer.write(Session(THERE, LIMITS).opening())
            await owner.until_opened()
            with anyio.fail_after(5):
                (hello,) = Decoder(LIMITS).feed(await peer.reader.read(4096))
        assert hello.kind is Kind.HELLO
        await owner.until(lambda: "broken" in owner.events)
        yield owner, owner.link._hello.ticket
        owner.link.abort()
        await owner.link.aclose()


async def answer(peer: RawPeer, resume: Resume) -> AgentbusError:
    """Ask to resume, and return why that is refused."""
    peer.writer.write(resume.encode(LIMITS))
    _, farewell = await peer.read_to_end()
    return read_failure(farewell)


@pytest.fixture
def path(socket_dir: Path) -> str:
    return str(socket_dir / "bus")


async def test_who_has_the_ticket_goes_on(path: str) -> None:
    async with broken(path) as (owner, ticket), raw_peer(path) as peer:
        sent = len(Session(THERE, LIMITS).opening())
        owner.link.send(request(1, b"kept"))
        peer.writer.write(Resume(0, ticket).encode(LIMITS))
        decoder = Decoder(LIMITS)
        got: list[Envelope] = []
        with anyio.fail_after(5):
            while len(got) < 4:
                got += decoder.feed(await peer.reader.read(4096))
        # This connection's HELLO and the answer; then the stream from its very beginning.
        assert [envelope.kind for envelope in got] == [
            Kind.HELLO,
            Kind.RESUME,
            Kind.HELLO,
            Kind.REQUEST,
        ]
        assert owner.link.bytes_received == sent
        assert not owner.link.broken


async def test_what_came_before_is_forgotten_when_a_link_goes_on(path: str) -> None:
    async with broken(path) as (owner, ticket), raw_peer(path) as peer:
        for number in range(1, 11):
            owner.link.send(request(number, b"x" * 1000))
        assert owner.link.bytes_kept == owner.link.bytes_sent > 10_000
        peer.writer.write(Resume(owner.link.bytes_sent, ticket).encode(LIMITS))
        decoder = Decoder(LIMITS)
        got: list[Envelope] = []
        with anyio.fail_after(5):
            while len(got) < 2:
                got += decoder.feed(await peer.reader.read(4096))
        assert not owner.link.broken
        assert owner.link.bytes_kept == 0


async def test_nobody_else_goes_on(path: str) -> None:
    async with broken(path) as (owner, ticket):
        for wrong in (b"", b"x" * 16, ticket[:15] + bytes([ticket[15] ^ 1])):
            async with raw_peer(path) as thief:
                assert isinstance(await answer(thief, Resume(0, wrong)), Closed)
        for count in (10**6, 2**62):
            async with raw_peer(path) as liar:
                assert isinstance(await answer(liar, Resume(count, ticket)), Closed)
        assert owner.link.broken
        assert owner.events == ["opened", "broken"]


async def test_a_link_is_resumed_only_while_it_lives(path: str) -> None:
    async with broken(path) as (owner, ticket):
        owner.link.abort()
        await owner.until_lost()
        async with raw_peer(path) as late:
            assert isinstance(await answer(late, Resume(0, ticket)), Closed)


async def test_each_link_has_a_ticket_of_its_own(path: str) -> None:
    owner, other = Listening(), Recorder()
    async with await listen_unix(path, owner, HERE, LIMITS):
        tickets = set()
        for _ in range(3):
            made = await connect_unix(path, other, THERE, LIMITS, timeout=5)
            tickets.add(made.peer.ticket)
            assert len(made.peer.ticket) == 16
            await made.aclose()
        assert len(tickets) == 3


async def test_more_is_acknowledged_than_was_sent(path: str) -> None:
    owner = Listening()
    async with await listen_unix(path, owner, HERE, LIMITS), raw_peer(path) as liar:
        session = Session(THERE, LIMITS)
        liar.writer.write(session.opening() + session.ack(10**9))
        await owner.until_lost()
        assert isinstance(owner.lost[0], MalformedFrame)


@pytest.mark.pure
async def test_who_never_acknowledges_fills_its_own_link_only(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads all, so nothing waits; yet what is kept for it is bounded."""
    monkeypatch.setattr(link, "IN_FLIGHT", 200_000)
    limits, owner, sent = Limits(write_buffer=100_000), Listening(), 0
    async with await listen_unix(path, owner, HERE, limits), raw_peer(path) as mute:
        mute.writer.write(Session(THERE, LIMITS).opening())
        await owner.until_opened()
        with anyio.fail_after(10), pytest.raises(LinkFull):
            while True:
                owner.link.send(request(sent + 1, b"x" * 10_000))
                sent += 1
                await mute.reader.read(65536)
        assert 25 < sent < 35
        owner.link.drop()
        await owner.link.aclose()


@pytest.mark.pure
async def test_answers_to_who_never_acknowledges_are_bounded(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "IN_FLIGHT", 0)
    owner, limits = Listening(), Limits(write_buffer=2000)
    async with await listen_unix(path, owner, HERE, limits), raw_peer(path) as mute:
        session = Session(THERE, LIMITS)
        mute.writer.write(session.opening())
        await owner.until_opened()
        with anyio.fail_after(10):
            for _ in range(300):
                before = owner.link.bytes_received
                mute.writer.write(session.ping())
                while owner.link.bytes_received == before:
                    await anyio.lowlevel.checkpoint()
            sent = owner.link.bytes_sent
            assert 1900 < sent == owner.link.bytes_kept < 2100
            mute.writer.write(session.ack(sent))
            while owner.link.bytes_sent == sent:
                await anyio.lowlevel.checkpoint()
        assert owner.link.bytes_kept < 100
        owner.link.drop()
        await owner.link.aclose()


async def test_what_has_come_is_not_kept(path: str) -> None:
    a, b = Recorder(), Listening()
    async with await listen_unix(path, b, HERE, LIMITS):
        made = await connect_unix(path, a, THERE, LIMITS, timeout=5)
        for number in range(1, 400):
            made.send(request(number, b"x" * 10_000))
            if number % 20 == 0:
                await b.until_received(number)
        await b.until_received(399)
        assert isinstance(made, LastingLink)
        assert made.bytes_sent > 3_900_000
        assert made.bytes_kept < 200_000
        await made.aclose()


async def test_the_end_of_a_process_is_told(path: str) -> None:
    ended = anyio.Event()
    process = await anyio.open_process(["sleep", "60"])
    watch = ProcessExit(process.pid, ended.set)
    process.kill()
    with anyio.fail_after(5):
        await ended.wait()
        await process.wait()
    watch.close()
    gone = anyio.Event()
    watch = ProcessExit(process.pid, gone.set)
    with anyio.fail_after(5):
        await gone.wait()
    watch.close()
    await process.aclose()


_CHILD = """
import asyncio, sys
from agentbus.transport import connect_unix
from agentbus.wire import Hello
from tests.transport.helpers import LIMITS, Recorder

async def main():
    hello = Hello("child", "", 60_000)
    await connect_unix(sys.argv[1], Recorder(), hello, LIMITS, timeout=20)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells of another process's end")
async def test_nobody_waits_for_a_process_that_was_killed(path: str) -> None:
    owner = Listening()
    async with await listen_unix(path, owner, Hello("here", "", 60_000), LIMITS):
        argv = [sys.executable, "-c", _CHILD, path]
        async with await anyio.open_process(argv, stdout=None, stderr=None) as child:
            with anyio.fail_after(30):
                await owner.until_opened()
            child.kill()
            with anyio.fail_after(5):
                await owner.until_lost()
    assert owner.events == ["opened", "broken", "lost"]
    assert isinstance(owner.lost[0], PeerLost)


async def test_an_abort_is_told_to_a_peer_that_would_wait(path: str) -> None:
    a, b = Recorder(), Listening()
    async with await listen_unix(path, b, HERE, LIMITS):
        made = await connect_unix(path, a, THERE, LIMITS, timeout=5)
        await b.until_opened()
        made.abort()
        await b.until_lost()
        assert b.events == ["opened", "lost"]
        assert isinstance(b.lost[0], PeerLost)
        await made.aclose()

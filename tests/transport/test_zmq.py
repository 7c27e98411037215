"""Links over tcp: who is let in, what a bad peer can do, and how a lost one is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import anyio
import pytest
import zmq

from agentbus.config import Keys, Limits
from agentbus.errors import (
    AgentbusError,
    ConfigError,
    LinkFull,
    MalformedFrame,
    NotAuthorised,
    PeerLost,
    UnexpectedFrame,
)
from agentbus.messages import Envelope, Kind
from agentbus.transport import Link, Listener, link, zmq_link, zmq_listen
from agentbus.transport.zmq_connect import connect_tcp
from agentbus.transport.zmq_io import CHUNK, new_socket
from agentbus.transport.zmq_listen import listen_tcp
from agentbus.transport.zmq_stream import END, OPEN
from agentbus.wire import Decoder, Hello, Session, encode

from .helpers import (
    CLIENT,
    HELLO_A,
    HELLO_B,
    LIMITS,
    LOOPBACK,
    SERVER,
    Recorder,
    connected_tcp,
    new_keys,
    raw_tcp_server,
    request,
)

pytestmark = pytest.mark.anyio

OTHER = new_keys(SERVER.public)
TWO_USERS = replace(SERVER, authorized={"client": CLIENT.public, "other": OTHER.public})
HELLO = Session(Hello("raw"), LIMITS).opening()


@contextlib.asynccontextmanager
async def listen(owner: Recorder, keys: Keys = SERVER) -> AsyncIterator[Listener]:
    """Listen while the block runs, and end what links there are with it."""
    async with await listen_tcp(LOOPBACK, owner, HELLO_B, LIMITS, keys=keys) as listener:
        try:
            yield listener
        finally:
            with anyio.CancelScope(shield=True):
                for opened in owner.links:
                    opened.abort()
                    await opened.aclose()


async def connect(url: str, keys: Keys = CLIENT, timeout: float = 5) -> tuple[Link, Recorder]:
    owner = Recorder()
    return await connect_tcp(url, owner, HELLO_A, LIMITS, keys=keys, timeout=timeout), owner


@contextlib.contextmanager
def raw_dealer(
    url: str, keys: Keys | None = CLIENT, identity: bytes = b"raw", queue: int = 1000
) -> Iterator[zmq.Socket[bytes]]:
    """A ZeroMQ socket without any of agentbus behind it."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        if keys is not None:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
        socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.setsockopt(zmq.RCVHWM, queue)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(url.replace("ab://", "tcp://"))
        yield socket


def encoded(envelope: Envelope) -> bytes:
    return b"".join(encode(envelope, LIMITS))


def say(socket: zmq.Socket[bytes], *messages: bytes) -> None:
    for message in messages:
        socket.send(message, zmq.NOBLOCK)


async def until_refused(listener: Listener, count: int = 1) -> None:
    with anyio.fail_after(10):
        while listener.refused < count:
            await anyio.lowlevel.checkpoint()


# --- who is let in


@pytest.mark.promise("peer.known")
async def test_an_unknown_key_is_not_authorised(caplog: pytest.LogCaptureFixture) -> None:
    b, stranger = Recorder(), new_keys(SERVER.public)
    async with listen(b) as listener:
        with pytest.raises(NotAuthorised) as caught:
            await connect(listener.path, stranger)
        assert listener.refused == 1
        good, _ = await connect(listener.path)
        await good.aclose()
        assert listener.refused == 1
    assert caught.value.peer == listener.path
    assert "is not authorised" in caplog.text
    for key in (stranger.public, stranger.secret, SERVER.secret):
        assert key not in caplog.text + str(caught.value)


async def test_a_wrong_server_key_is_not_authorised() -> None:
    b = Recorder()
    wrong = replace(CLIENT, server=new_keys().public)
    async with listen(b) as listener:
        with pytest.raises(NotAuthorised, match="is that its public key"):
            await connect(listener.path, wrong)
        await until_refused(listener)
    assert b.events == []


async def test_without_the_servers_key_nothing_is_sent() -> None:
    with pytest.raises(ConfigError, match=r"ab://127\S+ its public key is needed \(--server-key"):
        await connect("ab://127.0.0.1:1", new_keys())


@pytest.mark.promise("peer.known", "autogen-4103")
async def test_a_peer_without_encryption_is_refused() -> None:
    b = Recorder()
    async with listen(b) as listener:
        with raw_dealer(listener.path, None) as plain:
            say(plain, OPEN, HELLO)
            await until_refused(listener)
    assert b.events == []


@pytest.mark.promise("peer.hostile")
async def test_garbage_on_the_port_harms_no_link() -> None:
    a, b = Recorder(), Recorder()
    async with listen(b) as listener:
        good = await connect_tcp(listener.path, a, HELLO_A, LIMITS, keys=CLIENT, timeout=5)
        host, _, port = listener.path.removeprefix("ab://").rpartition(":")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n" + bytes(100), HELLO * 3, b"\xff" * 1000):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            with anyio.fail_after(10), contextlib.suppress(ConnectionResetError):
                assert b"agentbus" not in await reader.read()
            writer.close()
        good.send(request(1))
        await b.until_received(1)
        await good.aclose()
    assert b.events == ["opened", "envelope", "lost"]


async def test_who_never_says_hello_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_listen, "HELLO_TIMEOUT", 0.2)
    async with listen(Recorder()) as listener:
        with raw_dealer(listener.path) as silent:
            say(silent, OPEN)
            await until_refused(listener)


async def test_a_listener_that_closes_drops_who_has_not_said_hello() -> None:
    async with listen(Recorder()) as listener:
        with raw_dealer(listener.path) as silent:
            say(silent, OPEN)
            assert await anyio.to_thread.run_sync(silent.poll, 5000)
            with anyio.fail_after(5):
                await listener.aclose()
    assert listener.refused == 1


async def test_connecting_where_nothing_listens_says_so() -> None:
    async with listen(Recorder()) as listener:
        pass
    with pytest.raises(ConfigError, match="nothing listens at"):
        await connect(listener.path)
    for url in ("ab://", "ab://host", "ab://:1", "unix:///x", "ab://host:port", "ab://h:99999"):
        with pytest.raises(ConfigError):
            await connect(url)
        with pytest.raises(ConfigError):
            await listen_tcp(url, Recorder(), HELLO_B, LIMITS, keys=SERVER)


async def test_a_port_that_is_taken_is_refused() -> None:
    async with listen(Recorder()) as listener:
        with pytest.raises(ConfigError, match="cannot listen at"):
            await listen_tcp(listener.path, Recorder(), HELLO_B, LIMITS, keys=SERVER)


async def test_connecting_to_who_never_answers_ends_in_time() -> None:
    async with raw_tcp_server(None) as url:
        with anyio.fail_after(5), pytest.raises(PeerLost):
            await connect(url, timeout=0.2)
        with anyio.move_on_after(0.02) as scope:
            await connect(url)
        assert scope.cancelled_caught


async def test_a_host_that_is_not_there_is_not_a_lost_peer() -> None:
    # Names that end so are nobody's.
    with anyio.fail_after(30), pytest.raises(ConfigError, match=r"was not reached in 0\.2 s"):
        await connect("ab://host.invalid:7411", timeout=0.2)


async def test_connecting_to_what_is_no_bus() -> None:
    async with raw_tcp_server(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100)) as url:
        with anyio.fail_after(5), pytest.raises(NotAuthorised, match="is it agentbus"):
            await connect(url)


# --- what a bad peer can do


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", AgentbusError),
        (b"\x00\x00\x00\x03\x00\x01\xc1", MalformedFrame),
        (HELLO, UnexpectedFrame),
        (bytes(2 * CHUNK), PeerLost),
    ],
    ids=["http", "malformed", "hello", "oversized"],
)
async def test_bad_bytes_end_that_link_alone(bad: bytes, error: type[Exception]) -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (good, _, listener):
        with raw_dealer(listener.path) as peer:
            say(peer, OPEN, HELLO)
            await b.until_opened(2)
            say(peer, bad)
            await b.until_lost()
        good.send(request(1))
        await b.until_received(1)
        assert len(b.lost) == 1
        assert isinstance(b.lost[0], error)


async def test_messages_of_no_link_are_answered_with_the_end() -> None:
    b = Recorder()
    async with listen(b) as listener:
        with raw_dealer(listener.path) as peer:
            say(peer, HELLO)
            assert await anyio.to_thread.run_sync(peer.poll, 5000)
            assert peer.recv(zmq.NOBLOCK) == END
            peer.send_multipart([OPEN, OPEN])
            say(peer, OPEN, HELLO)
            await b.until_opened()
            say(peer, END)
            await b.until_lost()
    assert isinstance(b.lost[0], PeerLost)
    assert listener.refused == 0


async def test_an_identity_is_not_taken_over_while_its_owner_lives() -> None:
    b = Recorder()
    async with listen(b, TWO_USERS) as listener:
        with raw_dealer(listener.path, identity=b"same") as first:
            say(first, OPEN, HELLO)
            await b.until_opened()
            with raw_dealer(listener.path, OTHER, identity=b"same") as second:
                say(second, encoded(request(7)), encoded(request(8)))
                # A third connection that is served shows that the second one was looked at.
                third, _ = await connect(listener.path)
                await third.aclose()
                say(first, encoded(request(1)))
                await b.until_received(1)
    assert [envelope.id for envelope in b.envelopes] == [1]


async def test_an_identity_is_not_taken_over_once_its_owner_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zmq_listen, "_LOOKS", ())
    b = Recorder()
    async with listen(b, TWO_USERS) as listener:
        with raw_dealer(listener.path, identity=b"same") as first:
            say(first, OPEN, HELLO)
            await b.until_opened()
        with anyio.fail_after(10):
            while listener.refused == 0:  # until ZeroMQ, too, knows that the first one is gone
                with raw_dealer(listener.path, OTHER, identity=b"same") as second:
                    say(second, encoded(request(7)))
                    await anyio.to_thread.run_sync(second.poll, 100)
        assert b.events == ["opened"]


# --- order, speed, bounds


async def test_ten_thousand_small_messages_in_order_both_ways() -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (link_a, link_b, _):
        for start in range(1, 10_001, 100):
            for number in range(start, start + 100):
                link_a.send(request(number))
                link_b.send(Envelope(Kind.REPLY, id=number))
            await link_a.drain()
            await link_b.drain()
            await anyio.lowlevel.checkpoint()
        await b.until_received(10_000)
        await a.until_received(10_000)
    for owner in (a, b):
        assert [envelope.id for envelope in owner.envelopes] == [*range(1, 10_001)]


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 16])
async def test_messages_around_the_size_of_a_piece(size: int) -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (link_a, _, _):
        payload = os.urandom(size)
        for number in (1, 2, 3):
            link_a.send(request(number, payload))
        await b.until_received(3)
    assert b.envelopes == [request(number, payload) for number in (1, 2, 3)]


@pytest.mark.promise("flow.slow", "slim-1669")
async def test_a_peer_that_does_not_read_fills_only_its_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "CLOSE_TIMEOUT", 0.02)
    a, b = Recorder(), Recorder()
    limits = Limits(write_buffer=1_000_000)
    async with connected_tcp(a, b, limits) as (good, _, listener):
        with raw_dealer(listener.path, queue=1) as deaf:
            say(deaf, OPEN, HELLO)
            await b.until_opened(2)
            with anyio.fail_after(10), pytest.raises(LinkFull):
                for number in range(1, 100_000):
                    b.links[1].send(request(number, b"x" * 100_000))
                    await asyncio.sleep(0)
            assert b.links[1].paused
            good.send(request(1))
            await b.until_received(1)
            with anyio.fail_after(5):
                await b.links[1].aclose()
    assert b.lost[0] is None


async def test_a_slow_reader_gets_all_in_order() -> None:
    """What had no room is sent when there is room again."""
    b = Recorder()
    async with listen(b) as listener:
        with raw_dealer(listener.path, queue=1) as slow:
            say(slow, OPEN, HELLO)
            await b.until_opened()
            sent = bytearray()
            for number in range(1, 301):  # more than ZeroMQ and the kernel hold
                envelope = request(number, os.urandom(100_000))
                sent += b"".join(encode(envelope, LIMITS))
                b.links[0].send(envelope)
                await asyncio.sleep(0)
            assert b.links[0].paused
            got = bytearray()
            hello = len(Session(HELLO_B, LIMITS).opening())
            while len(got) < len(sent) + hello:
                assert await anyio.to_thread.run_sync(slow.poll, 10_000)
                got += slow.recv(zmq.NOBLOCK)
        assert got[hello:] == sent
        await b.until_lost()


# --- liveness


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_link, "HEARTBEAT", 0.05)


async def test_a_peer_that_is_silent_is_lost(quick_heartbeat: None) -> None:
    b = Recorder()
    async with listen(b) as listener:
        with raw_dealer(listener.path) as silent:
            say(silent, OPEN, HELLO)
            await b.until_lost()
            kinds = []
            session = Session(HELLO_A, LIMITS)
            while await anyio.to_thread.run_sync(silent.poll, 5000):
                data = silent.recv(zmq.NOBLOCK)
                if data == END:
                    break
                session.receive(data)
                kinds.append(session.pong_due)
    assert kinds[0] is False and kinds[-1] is True
    (error,) = b.lost
    assert isinstance(error, PeerLost) and error.peer == "raw"


async def test_a_ping_is_answered() -> None:
    async with listen(Recorder()) as listener:
        with raw_dealer(listener.path) as peer:
            say(peer, OPEN, HELLO, Session(Hello("raw"), LIMITS).ping())
            decoder, kinds = Decoder(LIMITS), list[Kind]()
            while Kind.PONG not in kinds:
                assert await anyio.to_thread.run_sync(peer.poll, 5000)
                kinds += [envelope.kind for envelope in decoder.feed(peer.recv(zmq.NOBLOCK))]
    assert kinds == [Kind.HELLO, Kind.PONG]


async def test_a_peer_that_still_reads_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow line, what waits to be sent delays the answer to a PING."""
    monkeypatch.setattr(zmq_link, "HEARTBEAT", 0.0)  # every check is due

    class Line(asyncio.Transport):
        waiting = 1_000_000
        aborted = False

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return self.waiting

        def is_closing(self) -> bool:
            return False

        def write(self, data: object) -> None:
            self.waiting += len(data)  # type: ignore[arg-type]

        def abort(self) -> None:
            self.aborted = True

    line = Line()
    slow = zmq_link.TcpLink(Recorder(), HELLO_A, LIMITS, lambda _: None)
    slow.connection_made(line)
    slow.data_received(HELLO)
    for _ in range(3 * zmq_link.MISSES):
        slow._check()
        line.waiting -= 100_000
    assert not line.aborted
    for _ in range(zmq_link.MISSES + 2):
        slow._check()
    assert line.aborted
    slow.connection_lost(None)


async def test_idle_peers_keep_each_other_alive(quick_heartbeat: None) -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (link_a, _, _):
        before = link_a.bytes_received
        with anyio.fail_after(10):
            while link_a.bytes_received < before + 200:  # many heartbeats' worth
                await anyio.lowlevel.checkpoint()
        assert a.lost == b.lost == []


@pytest.mark.promise("peer.hostile")
def test_no_timer_of_zeromqs_own_runs() -> None:
    """Its heartbeats abort the process where a peer that had sent much breaks off while this
    process is too busy to read; the kernel looks whether hosts are there."""
    with zmq.Context() as context, new_socket(context, zmq.DEALER, CLIENT) as socket:
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1


_CHILD = """
import asyncio, sys
from agentbus.config import Keys
from tests.transport.helpers import HELLO_A, LIMITS, Recorder
from agentbus.transport.zmq_connect import connect_tcp

async def main():
    url, public, secret, server = sys.argv[1:]
    keys = Keys(public=public, secret=secret, server=server)
    await connect_tcp(url, Recorder(), HELLO_A, LIMITS, keys=keys, timeout=20)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_is_noticed_at_once() -> None:
    b = Recorder()
    async with listen(b) as listener:
        argv = [sys.executable, "-c", _CHILD, listener.path]
        argv += [CLIENT.public, CLIENT.secret, CLIENT.server]
        async with await anyio.open_process(argv, stdout=None, stderr=None) as child:
            await b.until_opened()
            child.kill()
            with anyio.fail_after(2):  # far less than heartbeats take
                await b.until_lost()
    assert isinstance(b.lost[0], PeerLost)


async def test_a_listener_that_vanishes_is_noticed_at_once() -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (_, link_b, _):
        link_b.abort()
        with anyio.fail_after(2):
            await a.until_lost()
    assert isinstance(a.lost[0], PeerLost)


async def test_links_go_on_without_their_listener() -> None:
    a, b = Recorder(), Recorder()
    async with connected_tcp(a, b, LIMITS) as (link_a, _, listener):
        await listener.aclose()
        with pytest.raises(NotAuthorised):
            await connect(listener.path)
        link_a.send(request(1))
        await b.until_received(1)


async def test_nothing_is_left_behind() -> None:
    tasks = asyncio.all_tasks()
    descriptors = []
    for _ in range(3):  # threads and libuv keep some descriptors from the first time on
        a, b = Recorder(), Recorder()
        async with connected_tcp(a, b, LIMITS) as (link_a, _, listener):
            with pytest.raises(NotAuthorised):
                await connect(listener.path, OTHER)
            link_a.send(request(1, bytes(1_000_000)))
            await b.until_received(1)
        with anyio.fail_after(5):
            while asyncio.all_tasks() != tasks:
                await anyio.lowlevel.checkpoint()
        descriptors.append(len(os.listdir("/dev/fd")))
    assert descriptors[1] == descriptors[2]


def test_keys_hide_their_secret() -> None:
    assert CLIENT.secret not in repr(CLIENT)
    assert CLIENT.public in repr(CLIENT)
    with pytest.raises(ConfigError) as caught:
        Keys(public=CLIENT.public, secret=CLIENT.secret + "~")
    assert CLIENT.secret not in str(caught.value)
    with pytest.raises(ConfigError, match="same public key"):
        replace(SERVER, authorized={"one": CLIENT.public, "two": CLIENT.public})

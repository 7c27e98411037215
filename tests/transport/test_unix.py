from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import sys
from pathlib import Path

import anyio
import msgpack
import pytest

from agentbus.config import Limits
from agentbus.errors import (
    AgentbusError,
    ConfigError,
    LinkFull,
    MalformedFrame,
    NoResponder,
    PeerLost,
    UnexpectedFrame,
    VersionMismatch,
)
from agentbus.messages import Envelope, Kind
from agentbus.transport import connect_unix, link, listen_unix, unix, unix_link
from agentbus.wire import PROTOCOL_VERSION, Hello, Session, encode, read_failure

from .helpers import HELLO_A, HELLO_B, LIMITS, Recorder, connected, raw_peer, raw_server, request

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(socket_dir: Path) -> str:
    return str(socket_dir / "bus")


def hello_of(version: int) -> bytes:
    fields = msgpack.packb((version, "raw", ""))
    return b"".join(encode(Envelope(Kind.HELLO, payloads=(fields,)), LIMITS))


async def connect(path: str, timeout: float = 5) -> Recorder:
    owner = Recorder()
    link = await connect_unix(path, owner, HELLO_A, LIMITS, timeout=timeout)
    await link.aclose()
    return owner


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x03\x00\x01\xc1",
        b"\xff" * 6,
        hello_of(1),
        hello_of(1)[:-1] + b"\xc1",
    ],
)
async def test_bad_bytes_end_that_link_alone(path: str, garbage: bytes) -> None:
    a, b = Recorder(), Recorder()
    async with connected(path, a, b, LIMITS) as (good, _):
        async with raw_peer(path) as bad:
            bad.hello()
            await b.until_opened(2)
            bad.writer.write(garbage)
            await b.until_lost()
            hello, farewell = await bad.read_to_end()
        good.send(request(1))
        await b.until_received(1)
        assert len(b.lost) == 1
    assert hello.kind is Kind.HELLO
    assert (farewell.kind, farewell.id) == (Kind.ERROR, 0)
    assert type(read_failure(farewell)) is type(b.lost[0])


async def test_bad_bytes_instead_of_hello_are_refused_and_counted(path: str) -> None:
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS) as listener:
        async with raw_peer(path) as bad:
            bad.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await bad.read_to_end()
        async with raw_peer(path) as early:
            early.writer.write(b"".join(encode(request(1), LIMITS)))
            _, farewell = await early.read_to_end()
        assert listener.refused == 2
    assert isinstance(read_failure(farewell), UnexpectedFrame)
    assert b.events == []


async def test_a_peer_of_another_version_is_told_so(path: str) -> None:
    async with (
        await listen_unix(path, Recorder(), HELLO_B, LIMITS) as listener,
        raw_peer(path) as other,
    ):
        other.writer.write(hello_of(7))
        _, farewell = await other.read_to_end()
        assert str(read_failure(farewell)) == str(VersionMismatch(theirs=7, ours=PROTOCOL_VERSION))
        assert listener.refused == 1


async def test_who_never_says_hello_is_dropped(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "HELLO_TIMEOUT", 0.02)
    async with (
        await listen_unix(path, Recorder(), HELLO_B, LIMITS) as listener,
        raw_peer(path) as silent,
    ):
        await silent.read_to_end()
        assert listener.refused == 1


async def test_a_listener_that_closes_drops_who_has_not_said_hello(path: str) -> None:
    listener = await listen_unix(path, Recorder(), HELLO_B, LIMITS)
    async with raw_peer(path) as silent:
        await silent.reader.readexactly(4)  # the listener's HELLO: it has accepted
        with anyio.fail_after(5):
            await listener.aclose()
    assert listener.refused == 1


async def test_links_go_on_without_their_listener(path: str) -> None:
    a, b = Recorder(), Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS) as listener:
        link_a = await connect_unix(path, a, HELLO_A, LIMITS, timeout=5)
        await b.until_opened()
    await listener.aclose()
    link_a.send(request(1))
    await b.until_received(1)
    await link_a.aclose()
    await b.links[0].aclose()


async def test_goodbye_is_answered_with_goodbye(path: str) -> None:
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
        peer.hello()
        peer.writer.write(Session(HELLO_A, LIMITS).closing())
        kinds = [envelope.kind for envelope in await peer.read_to_end()]
    assert kinds == [Kind.HELLO, Kind.GOODBYE]
    assert b.lost == [None]


@pytest.mark.parametrize("how", ["half", "reset", "mid-frame"])
async def test_a_peer_that_vanishes_is_lost_once(path: str, how: str) -> None:
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
        peer.hello()
        await b.until_opened()
        if how == "half":
            peer.writer.write_eof()
        else:
            if how == "mid-frame":
                peer.writer.write(b"".join(encode(request(1, b"x" * 1000), LIMITS))[:500])
            peer.writer.transport.abort()
        await b.until_lost()
        with anyio.fail_after(5):
            await b.links[0].aclose()
    (error,) = b.lost
    assert isinstance(error, PeerLost) and error.peer == "raw"
    assert b.events == ["opened", "lost"]


async def test_a_peer_that_does_not_read_fills_only_its_link(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CLOSE_TIMEOUT", 0.02)
    limits = Limits(write_buffer=1_000_000)
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, limits), raw_peer(path) as deaf:
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        deaf.hello()
        await b.until_opened()
        with pytest.raises(LinkFull):
            for number in range(1, 1000):
                b.links[0].send(request(number, b"x" * 100_000))
                await asyncio.sleep(0)
        assert b.links[0].paused
        with anyio.fail_after(5):
            await b.links[0].aclose()
    assert b.lost == [None]


async def test_hang_up_of_a_bad_peer_that_does_not_read_is_bounded(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CLOSE_TIMEOUT", 0.02)
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as deaf:
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        deaf.hello()
        await b.until_opened()
        b.links[0].send(request(1, b"x" * 10_000_000))
        deaf.writer.write(bytes(100))
        await b.until_lost()
        with anyio.fail_after(5):
            await b.links[0].aclose()
    assert isinstance(b.lost[0], MalformedFrame)


async def test_connecting_where_nothing_listens_says_so(path: str) -> None:
    with pytest.raises(ConfigError, match="nothing listens at"):
        await connect(path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with pytest.raises(ConfigError, match="is gone"):
        await connect(path)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", PeerLost),
        (b"HTTP/1.1 400 Bad Request\r\n", AgentbusError),
        (hello_of(1), VersionMismatch),
        (Session(Hello("x"), LIMITS).farewell(NoResponder("you")), NoResponder),
        (Session(Hello("x"), LIMITS).closing(), UnexpectedFrame),
    ],
)
async def test_connecting_to_what_is_no_bus(
    path: str, answer: bytes, error: type[Exception]
) -> None:
    async with raw_server(path, answer):
        with pytest.raises(error):
            await connect(path)


async def test_connecting_to_who_never_answers_ends_in_time(path: str) -> None:
    async with raw_server(path, None):
        with pytest.raises(PeerLost):
            await connect(path, timeout=0.02)
        with anyio.move_on_after(0.02) as scope:
            await connect(path)
        assert scope.cancelled_caught


@pytest.mark.pure
async def test_another_users_process_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS) as listener:
        monkeypatch.setattr(unix_link, "_peer_credentials", lambda _: (1, os.geteuid() + 1))
        with pytest.raises(PeerLost):
            await connect(path)
        monkeypatch.undo()
        await connect(path)
        assert listener.refused == 1
    assert b.events == ["opened", "lost"]


async def test_the_peers_user_is_read_from_the_kernel(path: str) -> None:
    async with await listen_unix(path, Recorder(), HELLO_B, LIMITS), raw_peer(path) as peer:
        await peer.reader.readexactly(4)
        expected = (os.getpid() if sys.platform == "linux" else 0, os.geteuid())
        assert unix_link._peer_credentials(peer.writer.transport) == expected


async def test_the_socket_is_the_users_alone_and_goes_with_the_listener(socket_dir: Path) -> None:
    folder = socket_dir / "new" / "deep"
    path = str(folder / "bus")
    async with await listen_unix(path, Recorder(), HELLO_B, LIMITS) as listener:
        assert listener.path == path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        assert os.listdir(folder) == ["bus"]
    assert os.listdir(folder) == []


async def test_a_directory_open_to_others_is_refused(socket_dir: Path) -> None:
    folder = socket_dir / "open"
    folder.mkdir()
    folder.chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 700"):
        await listen_unix(str(folder / "bus"), Recorder(), HELLO_B, LIMITS)
    link_to = socket_dir / "link"
    folder.chmod(0o700)
    link_to.symlink_to(folder)
    with pytest.raises(ConfigError):
        await listen_unix(str(link_to / "bus"), Recorder(), HELLO_B, LIMITS)
    assert os.listdir(folder) == []


async def test_a_directory_of_another_user_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    euid = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    with pytest.raises(ConfigError, match="another user"):
        await listen_unix(path, Recorder(), HELLO_B, LIMITS)


async def test_a_dead_process_socket_is_replaced_and_a_live_one_is_not(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    async with await listen_unix(path, Recorder(), HELLO_B, LIMITS):
        with pytest.raises(ConfigError, match="already listens"):
            await listen_unix(path, Recorder(), HELLO_B, LIMITS)
        await connect(path)


async def test_a_live_socket_with_a_full_backlog_is_not_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(path)
        busy.listen(0)
        first.connect(path)
        with pytest.raises(ConfigError, match="already listens"):
            await listen_unix(path, Recorder(), HELLO_B, LIMITS)


async def test_a_file_that_is_no_socket_is_left_alone(socket_dir: Path, path: str) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a socket"):
        await listen_unix(path, Recorder(), HELLO_B, LIMITS)
    assert os.listdir(socket_dir) == ["bus"]


async def test_of_many_that_start_at_once_one_listens(path: str) -> None:
    outcomes: list[str] = []

    async def start() -> None:
        try:
            listeners.append(await listen_unix(path, Recorder(), HELLO_B, LIMITS))
        except ConfigError as error:
            outcomes.append(str(error))

    listeners: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(start)
    assert (len(listeners), len(outcomes)) == (1, 7)
    assert all("already listens" in text for text in outcomes)
    (listener,) = listeners
    assert isinstance(listener, unix._UnixListener)
    await listener.aclose()


async def test_the_directory_is_locked_while_a_listener_starts(
    socket_dir: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "_LOCK_TIMEOUT", 0.02)
    other = os.open(socket_dir, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="locked"):
            await listen_unix(path, Recorder(), HELLO_B, LIMITS)
        fcntl.flock(other, fcntl.LOCK_UN)
        async with await listen_unix(path, Recorder(), HELLO_B, LIMITS):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)


async def test_a_listener_leaves_its_successors_socket_alone(path: str) -> None:
    listener = await listen_unix(path, Recorder(), HELLO_B, LIMITS)
    os.rename(path, path + ".old")
    async with await listen_unix(path, Recorder(), HELLO_B, LIMITS):
        await listener.aclose()
        await connect(path)


async def test_a_path_too_long_for_a_socket_is_refused(socket_dir: Path) -> None:
    path = str(socket_dir / ("x" * 110))
    with pytest.raises(ConfigError, match="at most"):
        await listen_unix(path, Recorder(), HELLO_B, LIMITS)
    with pytest.raises(ConfigError, match="at most"):
        await connect(path)


async def test_nothing_is_left_behind(socket_dir: Path, path: str) -> None:
    tasks = asyncio.all_tasks()
    descriptors = []
    for _ in range(2):  # libuv keeps one descriptor from the first time on
        a, b = Recorder(), Recorder()
        async with connected(path, a, b, LIMITS) as (link_a, _):
            async with raw_peer(path) as bad:
                bad.writer.write(b"garbage that is long enough")
                await bad.read_to_end()
            link_a.send(request(1))
            await b.until_received(1)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == tasks
        assert os.listdir(socket_dir) == []
        descriptors.append(len(os.listdir("/dev/fd")))
    assert descriptors[0] == descriptors[1]

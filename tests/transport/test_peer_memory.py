"""Large payloads that are written into the receiver's own memory: where to, whose, and how long."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import mmap
import os
import platform
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentbus.config import Limits
from agentbus.errors import AgentbusError, MalformedFrame, PeerLost
from agentbus.messages import Envelope, Kind
from agentbus.transport import Link, connect_unix, listen_unix, memory_pair
from agentbus.transport.peer_memory import Gate, Landing, PeerMemory, open_peer
from agentbus.transport.shm import WRITE_FROM
from agentbus.wire import Decoder, Hello, Reference, Session, encode, read_failure

from .helpers import (
    HELLO_A,
    HELLO_B,
    LIMITS,
    Pair,
    Recorder,
    connected,
    raw_peer,
    request,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the calls"),
]

KIB = 1024
MIB = 1024 * KIB
HERE = os.getpid()


@pytest.fixture
def path(socket_dir: Path) -> str:
    return str(socket_dir / "bus")


@asynccontextmanager
async def pair_of(path: str, limits: Limits = LIMITS) -> AsyncIterator[Pair]:
    """Two links, of which A has B's offer from the start, and B has A's."""
    a, b = Recorder(), Recorder()
    async with connected(path, a, b, limits) as (link_a, link_b):
        with anyio.fail_after(10):
            await memory_of(link_b).settled.wait()
        yield Pair(link_a, a, link_b, b)


async def deliver(pair: Pair, number: int, body: Any) -> Any:
    """Send a payload from A to B; returns what B got."""
    pair.link_a.send(request(number, body))
    await pair.b.until_received(1)
    return pair.b.envelopes.pop().payloads[0]


def memory_of(link: Link) -> Any:
    return link._memory  # type: ignore[attr-defined]


def landing_of(link: Link) -> Landing:
    landing = memory_of(link)._borrower.landing
    assert isinstance(landing, Landing)
    return landing


def address(view: memoryview) -> int:
    """Where a writable or read-only buffer is in memory."""
    import numpy as np

    return np.frombuffer(view, dtype=np.uint8).ctypes.data


def is_mapped(address: int) -> bool:
    ranges = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().split("\n")[:-1]
    ]
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


# --- over a link


async def test_a_large_payload_is_in_the_receivers_memory_as_it_was_when_sent(path: str) -> None:
    async with pair_of(path) as pair:
        body = bytearray(os.urandom(WRITE_FROM + 1))
        copied, before = bytes(body), pair.link_a.bytes_sent
        pair.link_a.send(request(2, memoryview(body)))
        body[:] = bytes(len(body))
        await pair.b.until_received(1)
        view = pair.b.envelopes.pop().payloads[0]
        assert pair.link_a.bytes_sent - before < 200
        assert (type(view), view.readonly, view.format) == (memoryview, True, "B")
        assert view == copied
        assert address(view) == landing_of(pair.link_b).address
        assert memory_of(pair.link_a)._lender._shared is None


async def test_blocks_are_used_again_and_not_before(path: str) -> None:
    async with pair_of(path) as pair:
        first = await deliver(pair, 2, b"1" * WRITE_FROM)
        second = await deliver(pair, 3, b"2" * WRITE_FROM)
        small = await deliver(pair, 4, b"3" * (WRITE_FROM - 1))
        assert address(second) == address(first) + WRITE_FROM
        assert (first[-1], second[0], small[0]) == (ord("1"), ord("2"), ord("3"))
        place = address(first)
        del first
        await anyio.lowlevel.checkpoint()
        pair.link_b.send(Envelope(Kind.PUBLISH, target="x"))
        await pair.a.until_received(1)
        again = await deliver(pair, 5, b"4" * WRITE_FROM)
        assert address(again) == place
        assert (again[-1], second[0], small[0]) == (ord("4"), ord("2"), ord("3"))


async def test_under_the_threshold_nothing_is_written_there(path: str) -> None:
    async with pair_of(path) as pair:
        await deliver(pair, 2, bytes(WRITE_FROM - 1))
        assert memory_of(pair.link_a)._lender._shared is not None


async def test_views_outlive_their_link_and_the_memory_only_them(path: str) -> None:
    async with pair_of(path) as pair:
        view = await deliver(pair, 2, b"\x07" * WRITE_FROM)
        place = address(view)
        there = memory_of(pair.link_a)._lender.peer
    del pair
    gc.collect()
    assert (view[0], view[-1]) == (7, 7)
    with pytest.raises(OSError, match="shut"):
        there.write(memoryview(b"late"), place)
    del view
    assert not is_mapped(place)


async def test_a_receiver_that_lets_go_is_not_written_to(path: str) -> None:
    async with pair_of(path) as pair:
        memory_of(pair.link_b)._gate.shut()
        place = landing_of(pair.link_b)
        assert await deliver(pair, 2, b"x" * WRITE_FROM) == b"x" * WRITE_FROM
        assert not any(place[:WRITE_FROM])


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
async def test_where_the_system_refuses_memory_is_shared(
    path: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(PeerMemory, "_move", refuse)
    async with pair_of(path) as pair:
        assert memory_of(pair.link_b)._borrower.landing is None
        assert await deliver(pair, 2, b"x" * WRITE_FROM) == b"x" * WRITE_FROM
        assert memory_of(pair.link_a)._lender._shared is not None


async def test_where_no_thread_can_be_started_memory_is_shared(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with pair_of(path) as pair:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            pair.link_a.send(request(2, b"x" * WRITE_FROM))
        await pair.b.until_received(1)
        assert pair.b.envelopes[0].payloads == (b"x" * WRITE_FROM,)


async def test_where_memory_is_not_overcommitted_none_is_set_apart(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "overcommit").write_text("2\n")
    monkeypatch.setattr("agentbus.transport.peer_memory._OVERCOMMIT", tmp_path / "overcommit")
    async with pair_of(path) as pair:
        assert memory_of(pair.link_b)._borrower.landing is None
        assert await deliver(pair, 2, b"x" * WRITE_FROM) == b"x" * WRITE_FROM


async def test_where_the_space_of_addresses_is_limited_none_is_set_apart(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link would take a part of what the process may have, used or not."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1 << 40, 1 << 40))
    async with pair_of(path) as pair:
        assert memory_of(pair.link_b)._borrower.landing is None
        assert await deliver(pair, 2, b"x" * WRITE_FROM) == b"x" * WRITE_FROM


def test_where_the_system_has_no_room_none_is_set_apart() -> None:
    gate = Gate()
    peer = open_peer(HERE, gate.told(), gate)
    assert peer is not None
    with pytest.raises(OSError, match="memory"):
        Landing.make(1 << 62, gate, peer)
    gc.collect()
    peer.check()


async def test_shared_memory_is_not_taken_for_used_where_blocks_landed(path: str) -> None:
    """To write where there is none yet would kill the process if the system had no more."""
    async with pair_of(path) as pair:
        first = await deliver(pair, 2, b"1" * WRITE_FROM)
        small = await deliver(pair, 3, b"2" * MIB)
        arena = memory_of(pair.link_a)._lender._shared
        assert arena.warm == 0
        del first
        await anyio.lowlevel.checkpoint()
        pair.link_b.send(Envelope(Kind.PUBLISH, target="x"))
        await pair.a.until_received(1)
        for number in (4, 5):
            assert await deliver(pair, number, b"3" * (MIB + 1)) == b"3" * (MIB + 1)
        assert arena.warm == 2 * (MIB + 4096)
        assert small[-1] == ord("2")


# --- peers that forge: they are in this process, and so is their memory


@asynccontextmanager
async def forger(path: str, gate: bytes) -> AsyncIterator[tuple[Any, Recorder, Decoder]]:
    """A peer that tells this of its gate, and what listens to it."""
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
        peer.writer.write(Session(Hello("raw", gate=gate), LIMITS).opening())
        await b.until_opened()
        yield peer, b, Decoder(LIMITS)
        peer.writer.close()
        await b.until_lost()


async def read(peer: Any, decoder: Decoder, kind: Kind) -> list[Envelope]:
    """What came up to an envelope of that kind."""
    came: list[Envelope] = []
    with anyio.fail_after(10):
        while not any(envelope.kind is kind for envelope in came):
            came += decoder.feed(await peer.reader.read(65536))
    return came


def kept_apart(decoder_arena: list[str]) -> Decoder:
    """A decoder that notes arenas instead of looking into them."""

    def note(reference: Reference) -> memoryview:
        decoder_arena.append(reference.arena)
        return memoryview(b"")

    return Decoder(LIMITS, note)


@pytest.mark.parametrize(
    "gate",
    [b"", bytes(24), b"\xff" * 24, Gate().told()[:8] + bytes(16)],
    ids=["none", "null", "far", "another"],
)
async def test_a_peer_that_proves_nothing_is_offered_nothing(path: str, gate: bytes) -> None:
    async with forger(path, gate) as (peer, b, decoder):
        b.links[0].send(Envelope(Kind.PUBLISH, target="x"))
        came = await read(peer, decoder, Kind.PUBLISH)
        offers = [(e.id, e.credit) for e in came if e.kind is Kind.OFFER]
        assert offers == ([(0, 0)] if gate else [])


@contextmanager
def half_a_landing() -> Iterator[int]:
    """Memory whose second half is read-only; yields its address."""
    memory = mmap.mmap(-1, 2 * WRITE_FROM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(start + WRITE_FROM, WRITE_FROM, mmap.PROT_READ) == 0
    yield start
    memory.close()


@pytest.mark.parametrize("offer", ["nowhere", "half", "small"])
async def test_an_offer_that_is_not_true_sends_the_payload_another_way(
    path: str, offer: str
) -> None:
    gate, arenas = Gate(), list[str]()
    with half_a_landing() as place:
        start, size, sent = {
            "nowhere": (8, LIMITS.shared, WRITE_FROM),
            "half": (place, LIMITS.shared, 2 * WRITE_FROM),
            "small": (place, WRITE_FROM - 1, WRITE_FROM),
        }[offer]
        async with forger(path, gate.told()) as (peer, b, _):
            peer.writer.writelines(encode(Envelope(Kind.OFFER, start, credit=size), LIMITS))
            peer.writer.writelines(encode(Envelope(Kind.PUBLISH, target="x"), LIMITS))
            await b.until_received(1)
            b.links[0].send(request(1, bytes(sent)))
            came = await read(peer, kept_apart(arenas), Kind.REQUEST)
            assert [e.kind for e in came] == [Kind.HELLO, Kind.OFFER, Kind.REQUEST]
    assert len(arenas) == 1
    assert arenas[0] != "landing"


async def ends(path: str, *envelopes: Envelope, gate: bytes = b"") -> type[AgentbusError]:
    """How a link to a peer that sends these ends."""
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
        peer.writer.write(Session(Hello("raw", gate=gate), LIMITS).opening())
        await b.until_opened()
        for envelope in envelopes:
            peer.writer.writelines(encode(envelope, LIMITS))
        await b.until_lost()
        *_, farewell = await peer.read_to_end()
    assert type(b.lost[0]) is type(read_failure(farewell))
    return type(b.lost[0])


def landed(number: int, *fields: Any) -> Envelope:
    return Envelope(Kind.REQUEST, number, payloads=(Reference("landing", *fields),))


@pytest.mark.parametrize("size", [0, MIB])
async def test_a_second_offer_ends_the_link(path: str, size: int) -> None:
    offer = Envelope(Kind.OFFER, 4096, credit=size)
    assert await ends(path, offer, offer) is MalformedFrame


async def test_who_connects_has_the_offer_from_the_start(path: str) -> None:
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS):
        link = await connect_unix(path, Recorder(), HELLO_A, LIMITS, timeout=5)
        link.send(request(1, b"x" * WRITE_FROM))
        assert memory_of(link)._lender._shared is None
        await b.until_received(1)
        await link.aclose()


@asynccontextmanager
async def answering(path: str, hello: bytes, *, hangs_up: bool) -> AsyncIterator[None]:
    """Answers with HELLO, and with nothing after it."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(hello)
        if hangs_up:
            writer.close()

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_who_connects_does_not_wait_for_an_offer_for_ever(path: str) -> None:
    hello = Session(Hello("b", gate=bytes(24)), LIMITS).opening()
    async with answering(path, hello, hangs_up=False):
        with pytest.raises(PeerLost), anyio.fail_after(10):
            await connect_unix(path, Recorder(), HELLO_A, LIMITS, timeout=0.05)


async def test_who_connects_does_not_wait_for_an_offer_of_who_hung_up(path: str) -> None:
    hello, a = Session(Hello("b", gate=bytes(24)), LIMITS).opening(), Recorder()
    async with answering(path, hello, hangs_up=True):
        with anyio.fail_after(10):
            await connect_unix(path, a, HELLO_A, LIMITS, timeout=60)
            await a.until_lost()


async def test_what_landed_where_nothing_was_offered_ends_the_link(path: str) -> None:
    assert await ends(path, landed(1, 0, 6, 1)) is MalformedFrame


@pytest.mark.parametrize(
    "fields",
    [(0, LIMITS.shared + 1, 1), (LIMITS.shared, 1, 1), (-4096, 100, 1), (1, 100, 1), (0, 0, 1)],
    ids=str,
)
async def test_what_landed_beyond_the_offer_ends_the_link(path: str, fields: Any) -> None:
    gate = Gate()
    assert await ends(path, landed(1, *fields), gate=gate.told()) is MalformedFrame


async def test_an_offer_where_nothing_is_shared_changes_nothing() -> None:
    a, b = Recorder(), Recorder()
    link_a, link_b = memory_pair(a, HELLO_A, b, HELLO_B, LIMITS)
    link_a.send(Envelope(Kind.OFFER, 4096, credit=LIMITS.shared))
    link_a.send(request(1))
    await b.until_received(1)
    link_b.send(request(1, b"x" * WRITE_FROM))
    await a.until_received(1)
    assert a.envelopes[0].payloads == (b"x" * WRITE_FROM,)
    await link_a.aclose()
    await link_b.aclose()


# --- how long memory stays


def two_sides(size: int = MIB) -> tuple[Gate, Landing, Gate, PeerMemory]:
    """Gate and memory of a receiver, gate of a sender, and how it writes; all in this process."""
    receiver, sender = Gate(), Gate()
    back = open_peer(HERE, sender.told(), receiver)
    there = open_peer(HERE, receiver.told(), sender)
    assert back is not None and there is not None
    return receiver, Landing.make(size, receiver, back), sender, there


@pytest.mark.parametrize("size", [0, 1, 2, 4097, MIB])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_all_of_a_buffer_is_written_wherever_it_is(size: int, kind: type[Any]) -> None:
    _, landing, _, there = two_sides(2 * MIB)
    body = kind(os.urandom(size + 3))
    there.write(memoryview(body)[3:], landing.address + 5)
    assert landing[5 : 5 + size] == body[3:]
    assert not any(landing[:5]) and not any(landing[5 + size :])
    if kind is bytearray:
        body.append(0)  # nobody holds it


def test_memory_is_unmapped_at_once_when_nobody_writes() -> None:
    _, landing, _, _ = two_sides()
    place = landing.address
    del landing
    assert not is_mapped(place)


def test_nothing_is_written_where_the_memory_is_gone() -> None:
    receiver, landing, _, there = two_sides()
    place = landing.address
    del landing
    assert receiver.told()
    with pytest.raises(OSError, match="shut"):
        there.write(memoryview(b"late"), place)


def test_memory_stays_for_a_peer_that_is_amid_a_write_but_empty() -> None:
    _, landing, sender, _ = two_sides()
    landing[:4] = b"data"
    place = landing.address
    sender.set_writing(True)
    del landing
    assert is_mapped(place)
    assert ctypes.string_at(place, 4) == bytes(4)


def test_who_writes_says_so_before_it_looks_and_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver, landing, sender, there = two_sides()
    seen: list[bool] = []
    back = PeerMemory(HERE, sender.told(), receiver)
    check, move = PeerMemory.check, PeerMemory._move

    def watched_check(self: PeerMemory) -> None:
        seen.append(back.is_writing())
        check(self)

    def watched_move(self: PeerMemory, call: Any, here: int, at: int, size: int) -> None:
        if call is there._write:
            seen.append(back.is_writing())
        move(self, call, here, at, size)

    monkeypatch.setattr(PeerMemory, "check", watched_check)
    monkeypatch.setattr(PeerMemory, "_move", watched_move)
    there.write(memoryview(b"data"), landing.address)
    assert seen == [True] * 3
    assert not back.is_writing()
    with pytest.raises(OSError):
        there.write(memoryview(b"data"), 8)
    assert not back.is_writing()


def test_a_peer_that_forbids_to_look_may_be_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, there = two_sides()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(PeerMemory, "_move", refuse)
    assert there.is_writing()


def test_a_peer_without_its_gate_is_not_writing() -> None:
    receiver, _, sender, _ = two_sides()
    back = PeerMemory(HERE, sender.told(), receiver)
    sender.set_writing(True)
    assert back.is_writing()
    sender.shut()
    assert not back.is_writing()
    assert not PeerMemory(HERE, (8).to_bytes(8, "big") + bytes(16), receiver).is_writing()


CHILD = """
import sys
from agentbus.transport.peer_memory import Gate, Landing, open_peer
gate = Gate()
gate.set_writing(True)
print(gate.told().hex(), flush=True)
told, pid = bytes.fromhex(sys.stdin.readline()), int(sys.stdin.readline())
landing = Landing.make(1 << 30, gate, open_peer(pid, told, gate))
print(landing.address, flush=True)
sys.stdin.readline()
"""


@contextmanager
def child() -> Iterator[tuple[subprocess.Popen[str], PeerMemory, int]]:
    """A process that offers memory and says that it writes; with it, its memory as seen here."""
    gate = Gate()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            there = open_peer(process.pid, bytes.fromhex(process.stdout.readline()), gate)
            assert there is not None
            process.stdin.write(f"{gate.told().hex()}\n{HERE}\n")
            yield process, there, int(process.stdout.readline())
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()


def test_a_receiver_that_is_killed_amid_a_write_is_an_error_here() -> None:
    with child() as (process, there, place):
        body = memoryview(bytes(32 * MIB))
        there.write(body, place)
        killer = threading.Thread(target=process.kill)
        killer.start()
        with pytest.raises(OSError):
            for _ in range(10_000):
                there.write(body, place)
        killer.join()


def test_a_sender_that_was_killed_amid_a_write_writes_no_more() -> None:
    with child() as (process, there, _):
        assert there.is_writing()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet forgotten
        assert not there.is_writing()
        process.wait()
        assert not there.is_writing()


FILTERED = """
import ctypes, os, struct
from agentbus.transport.peer_memory import Gate, open_peer
gate = Gate()
assert open_peer(os.getpid(), gate.told(), gate) is not None
NUMBER, EQUALS, RETURN, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
steps = [(NUMBER, 0, 0, 0), (EQUALS, 1, 0, 310), (EQUALS, 0, 1, 311), (RETURN, 0, 0, REFUSE)]
code = b"".join(struct.pack("HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])
held = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(held))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
assert open_peer(os.getpid(), gate.told(), gate) is None
"""
"""A seccomp filter, as containers have them, that refuses process_vm_readv and process_vm_writev."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls have other numbers")
def test_a_kernel_that_refuses_is_believed() -> None:
    done = subprocess.run([sys.executable, "-c", FILTERED], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_process_may_end_with_memory_set_apart() -> None:
    program = """
from agentbus.transport.peer_memory import Gate, Landing, open_peer
import os
gate = Gate()
landing = Landing.make(1 << 30, gate, open_peer(os.getpid(), gate.told(), gate))
landing.itself = landing
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")

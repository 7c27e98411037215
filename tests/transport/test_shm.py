"""Shared memory under a link: views without copies, loans that end, peers that forge."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentbus.config import Limits
from agentbus.errors import FrameTooLarge, InvalidName, LinkFull, MalformedFrame, TooLarge
from agentbus.messages import Envelope, Kind
from agentbus.transport import Link, listen_unix, memory_pair, shm
from agentbus.wire import Reference, encode, read_failure

from .helpers import HELLO_A, HELLO_B, LIMITS, Pair, Recorder, connected, raw_peer, request

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="shared memory is used on Linux"),
]

KIB = 1024
MIB = 1024 * KIB
SMALL = Limits(shared=MIB, frame=512 * KIB, share_from=64 * KIB)


@pytest.fixture
def path(socket_dir: Path) -> str:
    return str(socket_dir / "bus")


def address(view: memoryview) -> int:
    """Where a buffer is in memory."""
    return np.frombuffer(view, dtype=np.uint8).ctypes.data


@asynccontextmanager
async def pair_of(path: str, limits: Limits = LIMITS) -> AsyncIterator[Pair]:
    a, b = Recorder(), Recorder()
    async with connected(path, a, b, limits) as (link_a, link_b):
        yield Pair(link_a, a, link_b, b)


def lent(link: Link) -> int:
    """How many payloads the peer holds."""
    lender = link._memory._lender  # type: ignore[attr-defined]
    return 0 if lender is None else len(lender.blocks)


async def until_heard(pair: Pair) -> None:
    """Wait until what B had to say so far has come to A, releases included."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    count = len(pair.a.envelopes)
    pair.link_b.send(Envelope(Kind.PUBLISH, target="x"))
    await pair.a.until_received(count + 1)


def take(recorder: Recorder) -> Any:
    return recorder.envelopes.pop().payloads[0]


async def deliver(pair: Pair, number: int, body: Any) -> Any:
    """Send a payload from A to B; returns what B got."""
    count = len(pair.b.envelopes)
    pair.link_a.send(request(number, body))
    await pair.b.until_received(count + 1)
    return take(pair.b)


async def test_a_large_payload_is_copied_once_and_viewed(path: str) -> None:
    async with pair_of(path) as pair:
        body = bytearray(os.urandom(3 * MIB))
        before = pair.link_a.bytes_sent
        copied = bytes(body)
        pair.link_a.send(request(1, memoryview(body)))
        body[:] = bytes(len(body))
        await pair.b.until_received(1)
        view = take(pair.b)
        assert pair.link_a.bytes_sent - before < 200
        assert (type(view), view.readonly, view.format) == (memoryview, True, "B")
        assert view == copied
        place = address(view)
        ranges = [[int(end, 16) for end in m.split()[0].split("-")] for m in memory_maps()]
        assert any(start <= place < end for start, end in ranges)
        assert lent(pair.link_a) == 1


async def test_a_block_is_used_again_when_the_last_view_is_gone(path: str) -> None:
    async with pair_of(path) as pair:
        view = await deliver(pair, 1, bytes(MIB))
        place, part = address(view), view[5:10]
        del view
        await until_heard(pair)
        assert lent(pair.link_a) == 1
        del part
        await until_heard(pair)
        assert lent(pair.link_a) == 0
        again = await deliver(pair, 2, b"\x01" * MIB)
        assert address(again) == place
        assert again[-1] == 1


async def test_the_last_view_may_go_in_another_thread(path: str) -> None:
    async with pair_of(path) as pair:
        views = [await deliver(pair, 1, bytes(MIB))]
        thread = threading.Thread(target=views.clear)
        thread.start()
        thread.join()
        await until_heard(pair)
        assert lent(pair.link_a) == 0


async def test_payloads_under_the_threshold_and_several_in_one_message(path: str) -> None:
    async with pair_of(path, SMALL) as pair:
        bodies = (b"a" * (64 * KIB), b"b" * (64 * KIB - 1), b"", b"c" * (200 * KIB))
        pair.link_a.send(Envelope(Kind.REQUEST, 1, payloads=bodies))
        await pair.b.until_received(1)
        assert pair.b.envelopes[0].payloads == bodies
        assert lent(pair.link_a) == 2
        pair.b.envelopes.clear()
        await until_heard(pair)
        assert lent(pair.link_a) == 0


async def test_what_finds_no_room_goes_through_the_socket_or_is_refused(path: str) -> None:
    async with pair_of(path, SMALL) as pair:
        held = await deliver(pair, 1, bytes(900 * KIB))
        through = await deliver(pair, 2, b"x" * (300 * KIB))
        assert through == b"x" * (300 * KIB)
        assert lent(pair.link_a) == 1
        with pytest.raises(LinkFull) as full:
            pair.link_a.send(request(3, bytes(600 * KIB)))
        assert full.value.limit == MIB
        with pytest.raises(TooLarge) as large:
            pair.link_a.send(request(3, bytes(MIB + 1)))
        assert (large.value.size, large.value.limit) == (MIB + 1, MIB)
        del held
        await until_heard(pair)
        assert len(await deliver(pair, 3, bytes(MIB))) == MIB


async def test_frames_over_the_sockets_limit(path: str) -> None:
    async with pair_of(path) as pair:
        body = bytes(LIMITS.frame + 1)
        assert await deliver(pair, 1, body) == body


async def test_what_could_not_be_sent_is_not_lent(path: str) -> None:
    limits = Limits(write_buffer=100, share_from=64 * KIB)
    async with pair_of(path, limits) as pair:
        with pytest.raises(LinkFull):
            envelope = Envelope(Kind.REQUEST, 1, payloads=(bytes(70 * KIB), bytes(200)))
            pair.link_a.send(envelope)
        with pytest.raises(InvalidName):
            pair.link_a.send(Envelope(Kind.REQUEST, 1, target="é", payloads=(bytes(70 * KIB),)))
        assert lent(pair.link_a) == 0


async def test_what_is_written_to_a_tensor_stays_here_and_is_forgotten(path: str) -> None:
    from agentbus.client.payload import payload_type

    kind = payload_type(torch.Tensor)
    async with pair_of(path) as pair:
        for number, value in ((1, 1.0), (2, 2.0)):
            frames = kind.encode(torch.full((100_000,), value))
            pair.link_a.send(Envelope(Kind.REQUEST, number, payloads=frames))
            await pair.b.until_received(1)
            tensor = kind.decode(pair.b.envelopes.pop().payloads)
            assert tensor.unique().tolist() == [value]
            tensor += 10
            assert tensor.unique().tolist() == [value + 10]
            del tensor, frames
            await until_heard(pair)
            pair.a.envelopes.clear()
            assert lent(pair.link_a) == 0


async def test_views_outlive_their_link_and_nothing_else_does(path: str) -> None:
    gc.collect()
    before = descriptors()
    async with pair_of(path) as pair:
        view = await deliver(pair, 1, b"\x07" * MIB)
        other = await deliver(pair, 2, b"\x07" * MIB)
    assert (view[0], view[-1], len(view)) == (7, 7, MIB)
    del view
    assert memory_maps()
    del other, pair
    gc.collect()
    assert memory_maps() == []
    assert descriptors() == before


def test_a_view_that_a_links_owner_keeps_does_not_keep_the_owner(path: str) -> None:
    async def keep() -> None:
        async with pair_of(path) as pair:
            pair.link_a.send(request(1, bytes(MIB)))
            await pair.b.until_received(1)

    asyncio.run(keep())
    gc.collect()
    assert memory_maps() == []


def descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if "memfd" in target or "socket" in target:
            found.append(target)
    return sorted(found)


def memory_maps() -> list[str]:
    return [m for m in Path("/proc/self/maps").read_text().splitlines() if "memfd:agentbus" in m]


# --- peers that forge


@contextmanager
def arena(size: int = MIB, token: str = "0123", seal: bool = True) -> Iterator[str]:
    """Yields the name of an arena as a peer in this process would have made it."""
    import fcntl

    descriptor = os.memfd_create(f"agentbus-{token}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, b"secret", 0)
        if seal:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield f"{descriptor}:{token}"
    finally:
        os.close(descriptor)


async def ends_with(path: str, kind: type[Exception], *envelopes: Envelope) -> list[Envelope]:
    """A peer that sends these loses its link with that error; returns what was delivered."""
    b = Recorder()
    async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
        peer.hello()
        await b.until_opened()
        for envelope in envelopes:
            peer.writer.writelines(encode(envelope, LIMITS))
        await b.until_lost()
        *_, farewell = await peer.read_to_end()
    assert type(b.lost[0]) is kind
    assert type(read_failure(farewell)) is kind
    return b.envelopes


def referring(number: int, *fields: Any) -> Envelope:
    return Envelope(Kind.REQUEST, number, payloads=(Reference(*fields),))


async def test_an_honest_reference_is_accepted(path: str) -> None:
    b = Recorder()
    with arena() as name:
        async with await listen_unix(path, b, HELLO_B, LIMITS), raw_peer(path) as peer:
            peer.hello()
            peer.writer.writelines(encode(referring(1, name, 0, 6, 1), LIMITS))
            await b.until_received(1)
            assert b.envelopes.pop().payloads == (b"secret",)
            peer.writer.close()
            await b.until_lost()


@pytest.mark.parametrize(
    "fields",
    [
        (0, MIB + 1, 1),
        (4096, MIB, 1),
        (-4096, 100, 1),
        (1, 100, 1),
        (2**62 * 4096, 100, 1),
        (0, 2**63 - 1, 1),
        (0, -1, 1),
        (0, 0, 1),
        (0, 100, 0),
        (0, 100, -5),
        pytest.param((0, 100, True), marks=pytest.mark.pure),
        pytest.param((0, "100", 1), marks=pytest.mark.pure),
        pytest.param((0, 1.0, 1), marks=pytest.mark.pure),
    ],
    ids=str,
)
async def test_a_reference_beyond_its_arena_ends_the_link(path: str, fields: Any) -> None:
    try:
        envelope = referring(1, "5:0123", *fields)
        encode(envelope, LIMITS)
    except OverflowError:
        pytest.skip("msgpack has no such number")
    with arena() as name:
        assert not await ends_with(path, MalformedFrame, referring(1, name, *fields))


async def test_a_reference_beyond_the_limit_ends_the_link(path: str) -> None:
    with arena(2 * LIMITS.shared) as name:
        envelope = referring(1, name, 0, LIMITS.shared + 1, 1)
        assert not await ends_with(path, FrameTooLarge, envelope)


@pytest.mark.parametrize(
    "name",
    ["", "x", ":", "0:", "-1:0123", "0:0123", "99999:0123", "../0:0123", "²:0123", "9" * 20 + ":1"],
)
async def test_a_forged_arena_ends_the_link(path: str, name: str) -> None:
    assert not await ends_with(path, MalformedFrame, referring(1, name, 0, 6, 1))


async def test_another_descriptor_of_the_peer_is_no_arena(path: str) -> None:
    with arena() as name, arena(token="4567", seal=False) as unsealed:
        number = name.partition(":")[0]
        assert not await ends_with(path, MalformedFrame, referring(1, f"{number}:4567", 0, 6, 1))
        assert not await ends_with(path, MalformedFrame, referring(1, unsealed, 0, 6, 1))
    with tempfile.TemporaryDirectory() as folder:
        fake = Path(folder) / "memfd:agentbus-0123 (deleted)"
        fake.write_bytes(bytes(MIB))
        with fake.open("rb") as file:
            forged = f"{file.fileno()}:0123"
            assert not await ends_with(path, MalformedFrame, referring(1, forged, 0, 6, 1))


async def test_an_arena_that_is_gone_ends_the_link(path: str) -> None:
    with arena() as name:
        pass
    assert not await ends_with(path, MalformedFrame, referring(1, name, 0, 6, 1))


async def test_a_second_arena_ends_the_link(path: str) -> None:
    with arena() as name, arena(token="4567") as other:
        envelopes = (referring(1, name, 0, 6, 1), referring(2, other, 0, 6, 2))
        assert len(await ends_with(path, MalformedFrame, *envelopes)) == 1


async def test_a_loan_made_twice_ends_the_link(path: str) -> None:
    with arena() as name:
        envelopes = (referring(1, name, 0, 6, 1), referring(2, name, 0, 6, 1))
        assert len(await ends_with(path, MalformedFrame, *envelopes)) == 1


@pytest.mark.parametrize("generation", [0, 1, 2**63 - 1])
async def test_a_release_of_what_is_not_lent_ends_the_link(path: str, generation: int) -> None:
    assert not await ends_with(path, MalformedFrame, Envelope(Kind.RELEASE, generation))


async def test_a_loan_released_twice_ends_the_link(path: str) -> None:
    async with pair_of(path) as pair:
        view = await deliver(pair, 1, bytes(MIB))
        pair.link_b._loan_ended(1)  # type: ignore[attr-defined]
        del view
        await pair.a.until_lost()
        assert isinstance(pair.a.lost[0], MalformedFrame)


@pytest.mark.parametrize("envelope", [referring(1, "0:0", 0, 6, 1), Envelope(Kind.RELEASE, 1)])
async def test_a_link_without_shared_memory_refuses_both(envelope: Envelope) -> None:
    a, b = Recorder(), Recorder()
    link_a, link_b = memory_pair(a, HELLO_A, b, HELLO_B, LIMITS)
    link_a.send(envelope)
    await b.until_lost()
    assert isinstance(b.lost[0], MalformedFrame)
    await link_a.aclose()
    await link_b.aclose()


async def test_another_process_namespace_uses_the_socket(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    monkeypatch.setattr(shm, "_sees_us", lambda pid: False)
    async with pair_of(path) as pair:
        body = b"x" * MIB
        assert await deliver(pair, 1, body) == body
        assert not memory_maps()


async def test_without_descriptors_the_socket_is_used(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    async with pair_of(path) as pair:
        body = b"x" * MIB
        assert await deliver(pair, 1, body) == body


async def test_views_are_sent_as_they_were(path: str) -> None:
    """Under the threshold too, where the socket writes later than `send` returns."""
    async with pair_of(path) as pair:
        body = bytearray(b"a" * (100 * KIB))
        pair.link_a.send(request(1, memoryview(body)))
        body[:] = bytes(len(body))
        await pair.b.until_received(1)
        assert take(pair.b) == b"a" * (100 * KIB)


def test_the_process_is_looked_for_where_it_is() -> None:
    assert shm._sees_us(os.getpid())
    assert not shm._sees_us(0)
    assert not shm._sees_us(2**22 + 1)

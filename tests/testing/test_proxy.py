"""The proxy does what each fault says, to the byte, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from agentbus.errors import ConfigError
from agentbus.testing import (
    Direction,
    Fault,
    FaultKind,
    FaultProxy,
    Leftovers,
    fault_proxy,
    random_faults,
)

pytestmark = pytest.mark.anyio
THERE, BACK = Direction.TO_LISTENER, Direction.FROM_LISTENER


class Ends(NamedTuple):
    """Both ends of a connection through a proxy."""

    proxy: FaultProxy
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    far: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    async def send(self, data: bytes) -> None:
        self.near[1].write(data)
        await self.near[1].drain()

    async def get(self, size: int) -> bytes:
        with anyio.fail_after(5):
            return await self.far[0].readexactly(size)


@pytest.fixture(params=["unix", "tcp"])
async def ends(request: pytest.FixtureRequest, socket_dir: Path) -> AsyncIterator[Ends]:
    async with connected(request.param, socket_dir) as both:
        yield both


@asynccontextmanager
async def connected(kind: str, folder: Path) -> AsyncIterator[Ends]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    if kind == "unix":
        url = f"unix://{folder}/far"
        server = await asyncio.start_unix_server(accept, f"{folder}/far")
    else:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        url = f"ab://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with fault_proxy(url) as proxy:
        if kind == "unix":
            near = await asyncio.open_unix_connection(proxy.url.removeprefix("unix://"))
        else:
            host, _, port = proxy.url.removeprefix("ab://").partition(":")
            near = await asyncio.open_connection(host, int(port))
        far = await accepted.get()
        try:
            yield Ends(proxy, near, far)
        finally:
            near[1].transport.abort()
            far[1].transport.abort()
            server.close()


async def test_without_faults_all_passes_both_ways(ends: Ends) -> None:
    await ends.send(b"there" * 100_000)
    assert await ends.get(500_000) == b"there" * 100_000
    ends.far[1].write(b"back")
    assert await ends.near[0].readexactly(4) == b"back"
    (connection,) = ends.proxy.connections
    assert (connection.passed(THERE), connection.passed(BACK)) == (500_000, 4)
    assert connection.happened == ()
    ends.near[1].close()
    with anyio.fail_after(5):
        assert await ends.far[0].read() == b""


async def test_a_cut_comes_between_two_bytes_and_both_ends_know(ends: Ends) -> None:
    ends.proxy.inject(Fault(FaultKind.CUT, after_bytes=3))
    await ends.send(b"abc")
    with anyio.fail_after(5):
        assert await ends.near[0].read() == b""
        rest = await ends.far[0].read()
    assert b"abc".startswith(rest)


async def test_what_is_delayed_comes_later_and_in_order(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    ends.proxy.inject(Fault(FaultKind.DELAY, after_bytes=2, seconds=0.5))
    started = loop.time()
    await ends.send(b"abcd")
    assert await ends.get(2) == b"ab"
    assert loop.time() - started < 0.4
    await ends.send(b"ef")
    assert await ends.get(4) == b"cdef"
    # The loop's clock counts whole milliseconds and stands still within a turn.
    assert loop.time() - started > 0.4
    ends.far[1].write(b"back")
    assert await ends.near[0].readexactly(4) == b"back"
    await ends.send(b"last")
    ends.near[1].close()
    assert await ends.get(4) == b"last"


async def test_a_half_open_connection_tells_nobody(ends: Ends) -> None:
    ends.proxy.inject(Fault(FaultKind.HALF_OPEN, after_bytes=1))
    await ends.send(b"abc")
    assert await ends.get(1) == b"a"
    ends.far[1].write(b"back")
    assert await ends.near[0].readexactly(4) == b"back"
    (connection,) = ends.proxy.connections
    ends.near[1].close()
    with anyio.fail_after(5):
        await connection.near.gone.wait()
    await anyio.wait_all_tasks_blocked()
    assert not ends.far[0].at_eof()
    ends.proxy.cut()
    with anyio.fail_after(5):
        assert await ends.far[0].read() == b""


async def test_a_stalled_senders_buffers_fill_until_it_is_read(ends: Ends) -> None:
    ends.proxy.inject(Fault(FaultKind.STALL))
    ends.near[1].write(b"x" * 20_000_000)
    await anyio.wait_all_tasks_blocked()
    assert ends.near[1].transport.get_write_buffer_size() > 1_000_000
    (connection,) = ends.proxy.connections
    assert connection.passed(THERE) < 20_000_000
    ends.proxy.heal()
    assert len(await ends.get(20_000_000)) == 20_000_000


async def test_a_stall_may_be_over_by_itself(ends: Ends) -> None:
    ends.proxy.inject(Fault(FaultKind.STALL, seconds=0.05))
    await ends.send(b"abc")
    assert await ends.get(3) == b"abc"


async def test_a_byte_is_corrupted_once(ends: Ends) -> None:
    ends.proxy.inject(Fault(FaultKind.CORRUPT, after_bytes=1))
    await ends.send(b"abc")
    assert await ends.get(3) == b"a" + bytes((ord("b") ^ 0x55,)) + b"c"
    await ends.send(b"abc")
    assert await ends.get(3) == b"abc"


async def test_one_connection_may_be_harmed_alone(ends: Ends) -> None:
    (connection,) = ends.proxy.connections
    connection.inject(Fault(FaultKind.HALF_OPEN, BACK))
    ends.far[1].write(b"lost")
    await ends.send(b"abc")
    assert await ends.get(3) == b"abc"
    assert [fault.kind for fault in connection.happened] == [FaultKind.HALF_OPEN]


async def test_nobody_behind_the_proxy(socket_dir: Path) -> None:
    async with fault_proxy(f"{socket_dir}/nobody") as proxy:
        reader, writer = await asyncio.open_unix_connection(proxy.url.removeprefix("unix://"))
        with anyio.fail_after(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_proxy_leaves_nothing(socket_dir: Path) -> None:
    async with connected("unix", socket_dir):
        pass
    left, again = Leftovers(), socket_dir / "again"
    again.mkdir()
    async with connected("unix", again) as both:
        both.proxy.inject(Fault(FaultKind.DELAY, seconds=60))
        await both.send(b"abc")
        assert left.descriptors()
    await anyio.wait_all_tasks_blocked()
    assert (left.tasks(), left.descriptors()) == ([], [])


async def test_bad_urls_and_faults() -> None:
    with pytest.raises(ConfigError, match="ab://host:port"):
        async with fault_proxy("ab://127.0.0.1"):
            pass
    with pytest.raises(ConfigError, match="negative"):
        Fault(FaultKind.CUT, after_bytes=-1)


def test_a_seed_makes_the_same_faults() -> None:
    one, two, other = (list(islice(random_faults(seed), 50)) for seed in (1, 1, 2))
    assert one == two != other
    assert {fault.kind for fault in one} == set(FaultKind)
    assert {fault.direction for fault in one} == set(Direction)

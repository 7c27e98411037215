"""Large payloads between buses and processes: whole requests, and processes that are killed."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from agentbus import Bus
from agentbus.errors import NoResponder, PeerLost
from tests.system.processes import TIMEOUT, Running, broker, running, worker

from .shm_agents import Arrays, Bulk, Make

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="shared memory is used on Linux"),
]
ROUNDS = 20
COUNT = 250_000
"""Numbers of 8 bytes: 2 MB."""
COUNTS = pytest.mark.parametrize("count", [COUNT, 4 * COUNT], ids=["shared", "written"])
"""Sizes that go through shared memory, and that are written into the receiver's own."""


def arenas(pid: int | str = "self") -> list[str]:
    """Descriptors and mappings of arenas in a process."""
    folder = Path("/proc") / str(pid)
    found = [m for m in (folder / "maps").read_text().splitlines() if "memfd:agentbus" in m]
    for name in os.listdir(folder / "fd"):
        try:
            target = os.readlink(folder / "fd" / name)
        except FileNotFoundError:
            continue
        if "memfd:agentbus" in target:
            found.append(target)
    return found


def files() -> list[str]:
    """Files in shared memory, but for those of tests that run beside this one."""
    others = ("perf-gpu-", "sem.mp-")
    return sorted(name for name in os.listdir("/dev/shm") if not name.startswith(others))


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    gc.collect()
    before = files()
    assert arenas() == []
    yield
    gc.collect()
    assert arenas() == []
    assert files() == before


@asynccontextmanager
async def two_buses(folder: Path) -> AsyncIterator[Bus]:
    path = str(folder / "run" / "bus.sock")
    async with Bus.open(listen=path) as host, Bus.open(f"unix://{path}") as asker:
        await host.spawn(Bulk, name="bulk")
        yield asker


@COUNTS
async def test_arrays_there_and_back(socket_dir: Path, count: int) -> None:
    async with two_buses(socket_dir) as bus:
        for number in range(ROUNDS):
            total = await bus.request("bulk", np.full(count, float(number)))
            assert total == count * number
            made = await bus.request("bulk", Make(count + number), returns=np.ndarray)
            assert made.shape == (count + number,)
            assert (made[-1], made.flags.writeable) == (count + number - 1, False)
            del made


async def test_several_buffers_in_one_message(socket_dir: Path) -> None:
    async with two_buses(socket_dir) as bus:
        arrays = [np.zeros(count) for count in (COUNT, 3, 0, 10_000, COUNT)]
        assert await bus.request("bulk", Arrays(arrays)) == 2 * COUNT + 10_003
        assert await bus.request("bulk", Arrays([])) == 0


async def test_a_context_goes_along(socket_dir: Path) -> None:
    async with two_buses(socket_dir) as bus:
        context = bus.context().user("Sum.")
        reply = await bus.call("bulk", np.ones(COUNT), context=context)
        assert reply.value == COUNT
        assert reply.context is not None
        assert reply.context.length == context.length + 1
        assert reply.account.sent_bytes < 1000


async def test_parts_are_what_they_were_when_yielded(socket_dir: Path) -> None:
    async with two_buses(socket_dir) as bus:
        async with bus.stream("bulk", 5) as parts:
            values = [part[0] async for part in parts]
        assert values == [1, 2, 3, 4, 5]


@COUNTS
async def test_each_subscriber_gets_its_own(socket_dir: Path, count: int) -> None:
    async with two_buses(socket_dir) as bus, bus.subscribe("t", types=[np.ndarray]) as one:
        async with bus.subscribe("t", types=[np.ndarray]) as two:
            path = str(socket_dir / "run" / "bus.sock")
            async with Bus.open(f"unix://{path}") as third:
                await third.publish("t", np.arange(count))
            with anyio.fail_after(TIMEOUT):
                first, second = (await anext(one)).value, (await anext(two)).value
            assert not np.shares_memory(first, second)
            assert np.array_equal(first, second)
            assert len(first) == count


@asynccontextmanager
async def bulk_worker(folder: Path) -> AsyncIterator[tuple[Bus, Running]]:
    async with broker(folder) as (url, _):
        command = worker(url, "bulk=tests.transport.shm_agents:Bulk")
        async with running(command) as [child], Bus.open(url) as bus:
            yield bus, child


@COUNTS
async def test_a_killed_borrower_frees_what_it_held(socket_dir: Path, count: int) -> None:
    async with bulk_worker(socket_dir) as (bus, child):
        held: list[np.ndarray[Any, Any]] = [np.ones(count), np.ones(count)]
        assert await bus.request("bulk", Arrays(held)) == 2 * count
        assert bool(arenas()) == bool(arenas(child.process.pid)) == (count == COUNT)
        await child.kill()
        with pytest.raises((PeerLost, NoResponder)), anyio.fail_after(TIMEOUT):
            while True:
                await bus.request("bulk", Arrays([]))
        assert arenas() == []


@COUNTS
async def test_what_a_killed_lender_lent_can_still_be_read(socket_dir: Path, count: int) -> None:
    async with bulk_worker(socket_dir) as (bus, child):
        made = await bus.request("bulk", Make(count), returns=np.ndarray)
        await child.kill()
        assert float(made.sum()) == count * (count - 1) / 2
        del made


async def test_a_large_payload_is_placed_where_the_one_before_was(socket_dir: Path) -> None:
    """Memory that is touched already costs a third: it is free again before the reply comes."""
    async with two_buses(socket_dir) as bus:
        array = np.ones(COUNT)
        for _ in range(5):
            assert await bus.request("bulk", array) == COUNT
        (peer,) = bus._sender.peers
        assert peer.link._memory._lender._shared.warm < 2 * array.nbytes  # type: ignore[attr-defined]

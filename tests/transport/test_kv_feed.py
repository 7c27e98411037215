"""KV events from a thread that computes: in order, bounded, and never held up."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus.kv import AllBlocksCleared, BlockRemoved, Event, ReplicaView
from agentbus.transport import kv_feed
from agentbus.transport.kv_events import KVEventSubscriber
from agentbus.transport.kv_feed import KVEventFeed
from tests.waiting import until

from .stored import stored

pytestmark = pytest.mark.anyio


class Read:
    """A feed, and the view of one who reads it."""

    def __init__(self, folder: Path) -> None:
        self.ends = {
            "endpoint": f"ipc://{folder}/events",
            "replay_endpoint": f"ipc://{folder}/replay",
        }
        self.feed = KVEventFeed(**self.ends)
        self.view = ReplicaView()
        self.reader = KVEventSubscriber(self.view, **self.ends)

    def tell(self, *events: Event) -> None:
        """Tell from another thread, while the loop does nothing else."""
        thread = threading.Thread(target=self.feed.tell, args=(events,))
        thread.start()
        thread.join()

    async def joined(self) -> None:
        """Wait until what is published arrives."""
        with anyio.fail_after(20):
            while not self.view.blocks:
                self.tell(stored(10_000))
                await anyio.sleep(0.005)


@asynccontextmanager
async def reading(folder: Path) -> AsyncIterator[Read]:
    read = Read(folder)
    try:
        await read.joined()
        yield read
    finally:
        read.reader.close()
        read.feed.close()


async def test_what_a_thread_tells_arrives_in_order(socket_dir: Path) -> None:
    async with reading(socket_dir) as read:
        for start in range(0, 400, 10):
            read.tell(stored(start))
            read.tell(BlockRemoved(block_hashes=(start,)), stored(start + 1))
        await until(lambda: read.view.blocks == 41)
        assert read.view.missing is None and read.reader.malformed == 0


async def test_what_is_too_much_for_one_batch_goes_in_several(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_feed, "_BATCH", 2000)
    async with reading(socket_dir) as read:
        before = read.view.next
        read.tell(*(stored(start) for start in range(0, 200, 10)))
        await until(lambda: read.view.blocks == 21)
        assert read.view.next - before == 7  # three of 628 bytes each


async def test_a_loop_that_lags_too_far_makes_readers_forget(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_feed, "MAX_WAITING", 10_000)
    async with reading(socket_dir) as read:
        for start in range(0, 200, 10):
            read.tell(stored(start))
        assert isinstance(read.feed._waiting[0], AllBlocksCleared)
        assert read.feed._size <= 10_000
        last = len(read.feed._waiting) - 1
        await until(lambda: read.view.blocks == last)
        read.tell(stored(500))
        await until(lambda: read.view.blocks == last + 1)


async def test_what_waits_is_published_at_the_end(socket_dir: Path) -> None:
    async with reading(socket_dir) as read:
        read.tell(stored(0))
        read.feed.close()
        read.tell(stored(10))
        assert read.feed._publisher._log.replay(0)[-1].payload.count(b"BlockStored") == 1

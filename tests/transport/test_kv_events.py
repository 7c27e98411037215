"""KV events over ZeroMQ: loss, late comers and restarts, between our own sides and vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
import zmq

from agentbus.errors import ConfigError
from agentbus.kv import EventLog, Hints
from agentbus.transport.kv_events import KV_TOPIC, KVEventPublisher, KVEventSubscriber
from tests.waiting import until

from .stored import SIZE, stored

pytestmark = pytest.mark.anyio


class Ends:
    """The endpoints of one replica, a router's hints about it, and how to wait for these."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/events"
        self.replay_endpoint = f"ipc://{folder}/replay"
        self.hints = Hints()
        self.view = self.hints.view("a")

    @contextmanager
    def publisher(self, log: EventLog) -> Iterator[KVEventPublisher]:
        made = KVEventPublisher(log, endpoint=self.endpoint, replay_endpoint=self.replay_endpoint)
        try:
            yield made
        finally:
            made.close()

    @contextmanager
    def subscriber(self) -> Iterator[KVEventSubscriber]:
        made = KVEventSubscriber(
            self.view, endpoint=self.endpoint, replay_endpoint=self.replay_endpoint
        )
        try:
            yield made
        finally:
            made.close()

    def held(self, start: int, blocks: int = 1) -> int:
        return self.hints.overlaps(range(start, start + blocks * SIZE))["a"].tokens // SIZE


@pytest.fixture
def ends(socket_dir: Path) -> Ends:
    return Ends(socket_dir)


async def joined(ends: Ends, publisher: KVEventPublisher) -> None:
    """Wait until what is published arrives: a SUB socket misses what comes before it is known."""
    await until(lambda: ends.held(10_000) == 1, lambda: publisher.publish([stored(10_000)]))


async def test_a_view_follows_what_is_published(ends: Ends) -> None:
    with ends.publisher(EventLog(1)) as publisher, ends.subscriber() as subscriber:
        await joined(ends, publisher)
        publisher.publish([stored(0, 3)])
        await until(lambda: ends.held(0, 3) == 3)
        assert subscriber.malformed == 0


async def test_who_comes_late_gets_the_state(ends: Ends) -> None:
    log = EventLog(1, max_batches=2)
    with ends.publisher(log) as publisher:
        for start in range(0, 100, 10):
            publisher.publish([stored(start)])
        with ends.subscriber():
            await until(lambda: all(ends.held(start) for start in range(0, 100, 10)))


async def test_who_comes_before_the_replica_waits_for_it(ends: Ends) -> None:
    log = EventLog(1)
    log.publish([stored(0)], 0.0)
    with ends.subscriber():
        with ends.publisher(log):
            await until(lambda: ends.held(0) == 1)


@pytest.mark.parametrize("kept", [100, 1])
async def test_what_was_lost_is_asked_for(ends: Ends, kept: int) -> None:
    log = EventLog(1, max_batches=kept)
    with ends.publisher(log) as publisher, ends.subscriber():
        await joined(ends, publisher)
        for start in range(0, 100, 10):
            log.publish([stored(start)], 0.0)  # numbered, and never sent
        publisher.publish([stored(200)])
        await until(lambda: ends.view.missing is None and ends.held(200) == 1)
        assert all(ends.held(start) for start in range(0, 100, 10))


async def test_a_replica_that_was_started_again_holds_nothing_of_before(ends: Ends) -> None:
    with ends.subscriber():
        with ends.publisher(EventLog(1)) as publisher:
            await joined(ends, publisher)
        with ends.publisher(EventLog(2)) as publisher:
            await until(lambda: ends.held(0) == 1, lambda: publisher.publish([stored(0)]))
            assert ends.held(10_000) == 0


class Foreign:
    """A publisher as vLLM's: batches by hand, a replay from what it happens to keep."""

    def __init__(self, ends: Ends, *, with_topic: bool) -> None:
        self.context = zmq.Context()
        self.pub = self.context.socket(zmq.PUB)
        self.router = self.context.socket(zmq.ROUTER)
        self.pub.bind(ends.endpoint)
        self.router.bind(ends.replay_endpoint)
        self.kept: list[tuple[int, bytes]] = []
        self.next = 0
        self.head = [KV_TOPIC] if with_topic else []

    def send(self, *events: object, lost: bool = False) -> None:
        payload = msgpack.packb([1.0, list(events), 0])
        self.kept.append((self.next, payload))
        if not lost:
            self.pub.send_multipart([KV_TOPIC, self.next.to_bytes(8, "big"), payload])
        self.next += 1

    def serve(self) -> None:
        """Answer a request for a replay, if there is one."""
        if not self.router.poll(0):
            return
        identity, empty, start = self.router.recv_multipart()
        assert empty == b""
        for seq, payload in self.kept:
            if seq >= int.from_bytes(start, "big"):
                message = [identity, b"", *self.head, seq.to_bytes(8, "big"), payload]
                self.router.send_multipart(message)
        self.router.send_multipart([identity, b"", *self.head, b"\xff" * 8, b""])


def as_map(start: int) -> dict[str, object]:
    return {
        "type": "BlockStored",
        "block_hashes": [start],
        "parent_block_hash": None,
        "token_ids": list(range(start, start + SIZE)),
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


@pytest.mark.parametrize("with_topic", [True, False], ids=["vllm-0.32", "vllm-0.14"])
async def test_vllm_is_understood(ends: Ends, with_topic: bool) -> None:
    server = Foreign(ends, with_topic=with_topic)
    with ends.subscriber() as subscriber:

        def publish() -> None:
            server.send(as_map(0))
            server.serve()

        await until(lambda: ends.held(0) == 1, publish)
        server.send(as_map(10), lost=True)
        server.send(["BlockStored", [20], None, [20, 21, 22, 23], SIZE, None, "GPU", None])
        await until(lambda: ends.held(10) + ends.held(20) == 2, server.serve)
        server.send(as_map(30), lost=True)
        server.kept.clear()  # nobody can tell any more
        server.send(as_map(40))
        await until(lambda: ends.held(40) == 1, server.serve)
        assert (ends.held(0), ends.held(30), ends.view.missing) == (0, 0, None)
        assert subscriber.malformed == 0
    server.context.destroy(linger=0)


async def test_what_cannot_be_read_is_counted_and_passed_over(ends: Ends) -> None:
    server = Foreign(ends, with_topic=True)
    with ends.subscriber() as subscriber:

        def publish() -> None:
            server.send(as_map(0))
            server.serve()

        await until(lambda: ends.held(0) == 1, publish)
        for frames in ([b"x"], [b"x" * 8, b"\xc1"], [b"x", b"y", b"z"], [b"x" * 8, b""]):
            server.pub.send_multipart([KV_TOPIC, *frames])
        server.send(7)
        server.send(as_map(50))
        await until(lambda: ends.held(50) == 1, server.serve)
        assert subscriber.malformed >= 5
    server.context.destroy(linger=0)


async def test_malformed_requests_are_passed_over(ends: Ends) -> None:
    log = EventLog(1)
    log.publish([stored(0)], 0.0)
    context = zmq.Context()
    with ends.publisher(log):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(ends.replay_endpoint)
        for request in (
            [b""],
            [b"", b"1234567"],
            [b"x", bytes(8)],
            [b"", bytes(8), b""],
            [b"", bytes(8)],
        ):
            dealer.send_multipart(request)
        await until(lambda: bool(dealer.poll(0)))
        first = dealer.recv_multipart()
        assert first[:3] == [b"", KV_TOPIC, bytes(8)]
        await until(lambda: bool(dealer.poll(0)))
        assert dealer.recv_multipart() == [b"", KV_TOPIC, b"\xff" * 8, b""]
        assert not dealer.poll(0)
    context.destroy(linger=0)


async def test_token_ids_do_not_leave_the_host(ends: Ends) -> None:
    for endpoint in ("tcp://*:0", "tcp://0.0.0.0:0", "tcp://10.0.0.1:5557", "nonsense"):
        with pytest.raises(ConfigError, match="kv events"):
            KVEventPublisher(EventLog(1), endpoint=endpoint, replay_endpoint=ends.replay_endpoint)
    with pytest.raises(ConfigError, match="cannot listen"):
        KVEventPublisher(
            EventLog(1), endpoint="ipc:///no/such/folder", replay_endpoint=ends.replay_endpoint
        )
    with pytest.raises(ConfigError, match="cannot connect"):
        KVEventSubscriber(ends.view, endpoint="nonsense", replay_endpoint=ends.replay_endpoint)

"""Tiers under a naive engine: what is reused is always what would have been computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from agentbus.errors import KVExhausted
from agentbus.kv import (
    MEDIA,
    BlockPool,
    Event,
    EventBatch,
    Hints,
    KeyChain,
    KVFingerprint,
    Lease,
    RadixIndex,
    Tier,
    TierIndex,
    TierSizes,
    derive_tenant_key,
)
from agentbus.storage import BlockStore, DiskBlocks, MemoryBlocks, TieredBlocks
from agentbus.storage.block_file import HEADER_BYTES

BLOCK, SLOT = 4, 8
BYTES = BLOCK * SLOT
SECRET = b"s" * 32
FINGERPRINT = KVFingerprint(
    model="tiny",
    weights=b"w",
    dtype="float32",
    rope="none",
    tokenizer=b"t",
    block_size=BLOCK,
)


def chain(tenant: str) -> KeyChain:
    return KeyChain(derive_tenant_key(SECRET, tenant), FINGERPRINT)


class Pool:
    """Device memory: a slot holds a hash of its tenant and all tokens up to it, as KV does."""

    block_bytes = BYTES

    def __init__(self, blocks: int) -> None:
        self.memory = [bytearray(BYTES) for _ in range(blocks)]

    def read_block(self, block: int) -> memoryview:
        return memoryview(self.memory[block])

    def write_block(self, block: int, payload: bytes | bytearray | memoryview) -> None:
        self.memory[block][:] = payload


def slot(namespace: bytes, tokens: Sequence[int]) -> bytes:
    return blake3(namespace + repr(list(tokens)).encode()).digest(SLOT)


class Engine:
    """Computes one prompt at a time, as the torch engine does, over a pool and tiers below it."""

    def __init__(self, blocks: int, sizes: TierSizes, folder: Path | None = None) -> None:
        self.pool = Pool(blocks)
        self.events: list[Event] = []
        self.index = TierIndex(sizes, block_bytes=BYTES, block_tokens=BLOCK)
        self.stores: dict[Tier, BlockStore] = {}
        if sizes.host:
            self.stores[Tier.HOST] = MemoryBlocks(block_bytes=BYTES, max_blocks=sizes.host)
        if folder is not None:
            self.disk = DiskBlocks.open(
                folder,
                fingerprint=FINGERPRINT.digest,
                secret=SECRET,
                block_bytes=BYTES,
                max_bytes=sizes.disk * (BYTES + HEADER_BYTES),
            )
            self.stores[Tier.DISK] = self.disk
        self.now = 0.0
        self.tiered = TieredBlocks(
            self.pool,
            self.index,
            self.stores,
            fingerprint=FINGERPRINT,
            secret=SECRET,
            events=self.events,
            clock=self.clock,
        )
        changes = self.tiered.changes
        self.radix = RadixIndex(BlockPool(blocks), BLOCK, changes=changes)
        self.index.rates.prefill.observe(1, 1.0)

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def run(self, tokens: Sequence[int], tenant: str = "acme") -> int:
        """Compute a prompt, check all of its KV, and return how many of its tokens were reused."""
        names = self.tiered.chain(tenant)
        lease = self.radix.begin(names.namespace, tokens)
        reused = self.tiered.admit(names, tokens, lease) or self.copy_head(lease)
        for position in range(reused, len(tokens)):
            self.write(names, lease, tokens, position)
        for position in range(len(tokens)):
            expected = slot(names.namespace, tokens[: position + 1])
            assert self.read(lease, position) == expected, f"position {position} of {tokens}"
        self.radix.commit(lease, tokens)
        self.tiered.settle()
        self.radix.check_integrity()
        return reused

    def copy_head(self, lease: Lease) -> int:
        for copy in lease.copies:
            size = copy.tokens * SLOT
            self.pool.memory[copy.target][:size] = self.pool.memory[copy.source][:size]
        return lease.reused

    def read(self, lease: Lease, position: int) -> bytes:
        at = position % BLOCK * SLOT
        return bytes(self.pool.memory[lease.blocks[position // BLOCK]][at : at + SLOT])

    def write(self, names: KeyChain, lease: Lease, tokens: Sequence[int], position: int) -> None:
        at = position % BLOCK * SLOT
        block = self.pool.memory[lease.blocks[position // BLOCK]]
        block[at : at + SLOT] = slot(names.namespace, tokens[: position + 1])


def test_what_the_pool_had_to_evict_comes_back_from_host_memory() -> None:
    engine = Engine(4, TierSizes(host=8))
    assert engine.run(range(15)) == 0
    assert engine.run(range(100, 115)) == 0
    assert engine.tiered.stats().host_blocks == 3
    assert engine.run(range(15)) == 12
    stats = engine.tiered.stats()
    assert (stats.fetched, stats.lost) == ({Tier.HOST: 3}, 0)


def test_the_last_token_is_computed_even_where_its_block_lies_below() -> None:
    engine = Engine(4, TierSizes(host=8))
    engine.run(range(16))
    engine.run(range(100, 116))
    assert engine.run(range(16)) == 12


def test_blocks_pass_through_host_memory_to_disk_and_outlive_the_engine(tmp_path: Path) -> None:
    engine = Engine(4, TierSizes(host=2, disk=20), tmp_path)
    for start in (0, 100, 200):
        engine.run(range(start, start + 15))
    assert engine.tiered.stats().disk_blocks == 4
    assert engine.run(range(15)) == 12
    engine.tiered.close()
    engine = Engine(4, TierSizes(host=2, disk=20), tmp_path)
    assert engine.run(range(15)) == 12
    assert engine.tiered.stats().fetched == {Tier.HOST: 0, Tier.DISK: 3}
    engine.tiered.close()


def test_tenants_share_no_block_below_either() -> None:
    engine = Engine(4, TierSizes(host=20))
    engine.run(range(15), "one")
    engine.run(range(100, 115), "one")
    assert engine.run(range(15), "two") == 0
    assert engine.run(range(15), "one") == 12


def test_a_poisoned_block_is_computed_again(tmp_path: Path) -> None:
    engine = Engine(4, TierSizes(disk=20), tmp_path)
    engine.run(range(15))
    engine.run(range(100, 115))
    second = chain("acme").keys(range(8))[1].digest.hex()
    path = tmp_path / second[:2] / f"{second}.kv"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert engine.run(range(15)) == 4  # `run` checks every position
    assert engine.tiered.stats().lost == 1
    assert not path.exists()
    engine.tiered.close()


def test_what_lies_on_disk_and_is_slow_is_computed(tmp_path: Path) -> None:
    engine = Engine(4, TierSizes(disk=20), tmp_path)
    engine.index.rates.read[Tier.DISK].observe(BYTES, BLOCK * 1.1)
    engine.run(range(15))
    engine.run(range(100, 115))
    assert engine.run(range(15)) == 0
    engine.tiered.prefilled(1, 10.0)
    engine.run(range(100, 115))
    assert engine.run(range(15)) == 12
    engine.tiered.close()


def test_behind_a_block_that_is_gone_nothing_is_fetched(tmp_path: Path) -> None:
    engine = Engine(8, TierSizes(host=2, disk=20), tmp_path)
    for tier in (Tier.HOST, Tier.DISK):
        engine.index.rates.read[tier].observe(BYTES, 1e-6)
    engine.run(range(15))
    engine.radix.clear()
    engine.tiered.settle()
    keys = chain("acme").keys(range(12))
    assert [engine.index.tier(key) for key in keys] == [Tier.HOST, Tier.HOST, Tier.DISK]
    engine.stores[Tier.HOST].remove(keys[0])
    assert engine.run(range(15)) == 0  # `run` checks every position
    engine.tiered.close()


def test_a_store_that_has_less_room_than_was_said_is_believed() -> None:
    engine = Engine(4, TierSizes(host=8))
    small = MemoryBlocks(block_bytes=BYTES, max_blocks=2)
    engine.tiered._stores[Tier.HOST] = small
    engine.run(range(15))
    engine.run(range(100, 115))
    assert engine.index.count(Tier.HOST) == len(small.keys()) == 2
    assert engine.tiered.stats().lost == 0


def test_what_a_prompt_wants_is_not_pushed_out_to_make_room_for_it() -> None:
    engine = Engine(4, TierSizes(host=7))
    for start in (0, 100, 200):
        engine.run(range(start, start + 15))
    assert engine.run(range(15)) == 12


def test_tenants_that_were_not_heard_of_for_long_stay_on_the_device_alone() -> None:
    engine = Engine(4, TierSizes(host=8))
    engine.tiered.MAX_TENANTS = 1
    lease = engine.radix.begin(engine.tiered.chain("one").namespace, range(8))
    engine.radix.commit(lease, range(8))
    engine.run(range(8), "two")
    engine.run(range(100, 115), "two")
    stats = engine.tiered.stats()
    assert (stats.host_blocks, stats.demoted) == (2, 2)


@pytest.mark.parametrize("seed", range(12))
def test_reuse_over_all_tiers_is_exact_and_told(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    sizes = TierSizes(host=chance.randint(0, 6), disk=chance.randint(1, 12))
    engine = Engine(10, sizes, tmp_path)
    hints = Hints()
    asked: list[tuple[int, ...]] = [()]
    reused = 0
    for number in range(150):
        origin = chance.choice(asked[-12:])
        more = tuple(chance.choices(range(3), k=chance.randint(1, 9)))
        tokens = (origin[: chance.randint(0, 30)] + more)[:36]
        asked.append(tokens)
        names = chain(tenant := chance.choice(["one", "one", "two"]))
        if chance.random() < 0.1 and (paths := list(tmp_path.rglob("*.kv"))):
            chance.choice(paths).write_bytes(b"poison")
        try:
            reused += engine.run(tokens, tenant)
        except KVExhausted:
            continue
        batch = EventBatch(ts=0.0, events=tuple(engine.events), epoch=1)
        engine.events.clear()
        hints.view("engine").receive(hints.view("engine").next, batch)
        for other in asked[-12:]:
            told = hints.overlaps(other, salt=names.salt)["engine"]
            device = engine.radix.match_length(names.namespace, other) // BLOCK * BLOCK
            assert told.device_tokens == device, f"step {number}"
            assert told.tokens == held_length(engine, names, other)
    assert reused > 0
    assert engine.tiered.stats().demoted > 0
    engine.tiered.close()


def held_length(engine: Engine, names: KeyChain, tokens: Sequence[int]) -> int:
    device = engine.radix.match_length(names.namespace, tokens) // BLOCK
    keys = names.keys(tokens)
    below = [engine.index.tier(key) is not None for key in keys[device:]]
    return (device + [*below, False].index(False)) * BLOCK


def test_media_have_the_names_that_vllm_gives_them() -> None:
    assert list(MEDIA.values()) == ["GPU", "CPU", "STORAGE"]

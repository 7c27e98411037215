"""Blocks of the pool's tensors as bytes, and tiers that an engine's settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from agentbus_torch.kv import KVPool, KVShape
from agentbus_torch.tiers import LayerBlocks, open_tiers

from agentbus.config import EngineSettings
from agentbus.errors import ConfigError
from agentbus.kv import BlockPool, KVFingerprint, RadixIndex, Tier
from agentbus.storage import TieredBlocks
from tests.torch.tiny import DEVICE

SHAPE = KVShape(layers=3, kv_heads=2, head_size=4, block_size=4)


def fingerprint(dtype: torch.dtype) -> KVFingerprint:
    return KVFingerprint(
        model="tiny",
        weights=b"w",
        dtype=str(dtype),
        rope="none",
        tokenizer=b"t",
        block_size=SHAPE.block_size,
    )


def new_pool(dtype: torch.dtype, blocks: int = 4) -> KVPool:
    pool = KVPool(SHAPE, blocks, dtype=dtype, device=DEVICE)
    generator = torch.Generator().manual_seed(1)
    for layer in pool.layers:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    return pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_survives_as_bytes(dtype: torch.dtype) -> None:
    pool = new_pool(dtype)
    blocks = LayerBlocks(pool.blocks)
    assert blocks.block_bytes == 3 * 4 * 2 * 2 * 4 * dtype.itemsize
    before = [layer.clone() for layer in pool.layers]
    saved = blocks.read_block(1)
    assert len(saved) == blocks.block_bytes
    for layer in pool.layers:
        layer[1] = 0
    assert saved.tobytes() != blocks.read_block(1).tobytes()
    for payload in (bytes(saved), bytearray(saved), saved):
        blocks.write_block(3, payload)
        for layer, was in zip(pool.layers, before, strict=True):
            assert torch.equal(layer[3], was[1])
            assert torch.equal(layer[0], was[0])
            assert torch.equal(layer[2], was[2])
            layer[3] = 0


def opened(pool: KVPool, settings: EngineSettings) -> TieredBlocks:
    tiers = open_tiers(pool.blocks, fingerprint(pool.layers[0].dtype), settings)
    assert tiers is not None
    return tiers


def test_without_room_below_there_are_no_tiers() -> None:
    pool = new_pool(torch.float32)
    size = LayerBlocks(pool.blocks).block_bytes
    for settings in (EngineSettings(), EngineSettings(kv_host_bytes=size - 1)):
        assert open_tiers(pool.blocks, fingerprint(torch.float32), settings) is None


def test_a_disk_that_holds_no_block_is_refused(tmp_path: Path) -> None:
    settings = EngineSettings(kv_disk_bytes=100, kv_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="hold no block"):
        opened(new_pool(torch.float32), settings)


@pytest.mark.parametrize("tier", [Tier.HOST, Tier.DISK])
def test_tensors_come_back_through_each_tier(tier: Tier, tmp_path: Path) -> None:
    pool = new_pool(torch.bfloat16)
    settings = (
        EngineSettings(kv_host_bytes=10**6)
        if tier is Tier.HOST
        else EngineSettings(kv_disk_bytes=10**6, kv_dir=str(tmp_path))
    )
    tiers = opened(pool, settings)
    index = RadixIndex(BlockPool(4), SHAPE.block_size, changes=tiers.changes)
    chain = tiers.chain("acme")
    tiers.prefilled(1, 1.0)
    lease = index.begin(chain.namespace, range(13))
    first = [[layer[block].clone() for layer in pool.layers] for block in lease.blocks[:3]]
    index.commit(lease, range(13))
    tiers.settle()
    other = index.begin(chain.namespace, range(50, 63))
    tiers.settle()
    for layer in pool.layers:
        layer[other.blocks] = 0
    index.commit(other, range(50, 63))
    tiers.settle()
    again = index.begin(chain.namespace, range(13))
    assert tiers.admit(chain, range(13), again) == 12
    for block, was in zip(again.blocks, first, strict=False):
        assert all(map(torch.equal, [layer[block] for layer in pool.layers], was))
    assert tiers.stats().fetched == {tier: 3}
    tiers.close()

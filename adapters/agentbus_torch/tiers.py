"""Tiers below the KV pool: its blocks as bytes, and the stores that an engine's settings ask for.

What goes where, and what is worth fetching, is `agentbus.kv.TierIndex`'s business; the copying is
`agentbus.storage.TieredBlocks`'s. Here tensors become bytes and back.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import torch
from torch import Tensor

from agentbus.config import EngineSettings
from agentbus.kv import KEY_SIZE, Event, KVFingerprint, Tier, TierIndex, TierSizes
from agentbus.storage import BlockStore, DiskBlocks, MemoryBlocks, TieredBlocks, load_secret

__all__ = ["LayerBlocks", "open_tiers"]


class LayerBlocks:
    """A pool's blocks as bytes: what a block holds in the first layer, then in the next one."""

    def __init__(self, blocks: Tensor) -> None:
        """View the tensor of a pool, [layers, blocks, …], dense."""
        self._blocks = blocks.flatten(2).view(torch.uint8)
        self.block_bytes = self._blocks.shape[0] * self._blocks.shape[2]
        """Size of one block, all layers."""

    def read_block(self, block: int) -> memoryview:
        """Return a copy of what a block holds."""
        whole = self._blocks[:, block].clone(memory_format=torch.contiguous_format)
        return whole.flatten().cpu().numpy().data

    def write_block(self, block: int, payload: bytes | bytearray | memoryview) -> None:
        """Set what a block holds."""
        if memoryview(payload).readonly:
            payload = bytearray(payload)  # torch warns of tensors on what cannot be written
        target = self._blocks[:, block]
        target.copy_(torch.frombuffer(payload, dtype=torch.uint8).view(target.shape))


def open_tiers(
    blocks: Tensor,
    fingerprint: KVFingerprint,
    settings: EngineSettings,
    events: list[Event] | None = None,
) -> TieredBlocks | None:
    """Put the tiers below a pool that the settings have room for.

    None if they have none and nobody wants to be told of blocks.

    Args:
        blocks: the pool's tensor, [layers, blocks, …].
        fingerprint: of all that shapes their KV but tokens and tenant.
        settings: sizes and folder.
        events: gets what is stored and removed.

    Raises:
        ConfigError: the folder cannot be used.
    """
    device = LayerBlocks(blocks)
    size = device.block_bytes
    stores: dict[Tier, BlockStore] = {}
    host, disk = settings.kv_host_bytes // size, 0
    secret = secrets.token_bytes(KEY_SIZE)
    if host:
        stores[Tier.HOST] = MemoryBlocks(block_bytes=size, max_blocks=host)
    if settings.kv_disk_bytes:
        secret = load_secret(Path(settings.kv_dir))
        stores[Tier.DISK] = store = _open_disk(fingerprint, secret, size, settings)
        disk = store.max_blocks
    if not stores and events is None:
        return None
    sizes = TierSizes(host=host, disk=disk)
    index = TierIndex(sizes, block_bytes=size, block_tokens=fingerprint.block_size)
    return TieredBlocks(
        device, index, stores, fingerprint=fingerprint, secret=secret, events=events
    )


def _open_disk(
    fingerprint: KVFingerprint, secret: bytes, size: int, settings: EngineSettings
) -> DiskBlocks:
    return DiskBlocks.open(
        Path(settings.kv_dir),
        fingerprint=fingerprint.digest,
        secret=secret,
        block_bytes=size,
        max_bytes=settings.kv_disk_bytes,
    )

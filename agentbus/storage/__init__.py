"""Tiers below an engine's KV pool: blocks in host memory and on disk."""

from .base import BlockStore, Buffer, Kept
from .block_file import Rejection
from .disk import DiskBlocks, DiskStats
from .memory import MemoryBlocks
from .secret import load_secret
from .tiered import DevicePool, TieredBlocks, TierStats

__all__ = [
    "BlockStore",
    "Buffer",
    "DevicePool",
    "DiskBlocks",
    "DiskStats",
    "Kept",
    "MemoryBlocks",
    "Rejection",
    "TierStats",
    "TieredBlocks",
    "load_secret",
]

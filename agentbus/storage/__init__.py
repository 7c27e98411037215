"""What outlasts a process, or its fast memory: blocks of KV in host memory and on disk, deliveries."""

from .base import BlockStore, Buffer, Kept
from .block_file import Rejection
from .deliveries import DeliveryFile
from .disk import DiskBlocks, DiskStats
from .memory import MemoryBlocks
from .secret import load_secret
from .tiered import DevicePool, TieredBlocks, TierStats

__all__ = [
    "BlockStore",
    "Buffer",
    "DeliveryFile",
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

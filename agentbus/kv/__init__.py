"""The KV index: prefix reuse over blocks as numbers. It holds no tensors."""

from .blocks import BlockPool
from .policy import LRU, Evictable, EvictionPolicy
from .radix import Copy, Lease, PoolStats, RadixIndex

__all__ = [
    "LRU",
    "BlockPool",
    "Copy",
    "Evictable",
    "EvictionPolicy",
    "Lease",
    "PoolStats",
    "RadixIndex",
]

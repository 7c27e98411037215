"""The KV index: prefix reuse over blocks as numbers. It holds no tensors."""

from .blocks import BlockPool
from .changes import BlocksCached, BlocksEvicted, Change
from .keys import KEY_SIZE, BlockKey, KeyChain, KVFingerprint, derive_tenant_key
from .policy import LRU, Evictable, EvictionPolicy
from .radix import Copy, Lease, PoolStats, RadixIndex

__all__ = [
    "KEY_SIZE",
    "LRU",
    "BlockKey",
    "BlockPool",
    "BlocksCached",
    "BlocksEvicted",
    "Change",
    "Copy",
    "Evictable",
    "EvictionPolicy",
    "KVFingerprint",
    "KeyChain",
    "Lease",
    "PoolStats",
    "RadixIndex",
    "derive_tenant_key",
]

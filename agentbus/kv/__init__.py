"""The KV index: prefix reuse over blocks as numbers. It holds no tensors."""

from .blocks import BlockPool
from .changes import BlocksCached, BlocksEvicted, Change
from .keys import KEY_SIZE, BlockKey, KeyChain, KVFingerprint, derive_tenant_key
from .lease import Computing, Copy, Lease, PoolStats
from .policy import LRU, Evictable, EvictionPolicy
from .radix import MAX_EXPECTED, RadixIndex
from .steps import Owner, Step, WaitsFor, steps_to_execution
from .workflow import MAX_OWNERS, WorkflowAware

__all__ = [
    "KEY_SIZE",
    "LRU",
    "MAX_EXPECTED",
    "MAX_OWNERS",
    "BlockKey",
    "BlockPool",
    "BlocksCached",
    "BlocksEvicted",
    "Change",
    "Computing",
    "Copy",
    "Evictable",
    "EvictionPolicy",
    "KVFingerprint",
    "KeyChain",
    "Lease",
    "Owner",
    "PoolStats",
    "RadixIndex",
    "Step",
    "WaitsFor",
    "WorkflowAware",
    "derive_tenant_key",
    "steps_to_execution",
]

"""The KV index: prefix reuse over blocks as numbers. It holds no tensors."""

from .blocks import BlockPool
from .changes import BlocksCached, BlocksEvicted, Change
from .event_log import EventLog, Numbered
from .events import (
    MAX_BATCH_BYTES,
    MEDIA,
    AllBlocksCleared,
    BlockHash,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
    decode_batch,
    encode_batch,
)
from .hints import Hints, Overlap, Receipt, ReplicaView
from .keys import KEY_SIZE, BlockKey, KeyChain, KVFingerprint, derive_tenant_key
from .policy import LRU, Evictable, EvictionPolicy
from .radix import Copy, Lease, PoolStats, RadixIndex
from .tiers import Drop, FetchPlan, Rate, Rates, Store, Tier, TierIndex, TierSizes

__all__ = [
    "KEY_SIZE",
    "LRU",
    "MAX_BATCH_BYTES",
    "MEDIA",
    "AllBlocksCleared",
    "BlockHash",
    "BlockKey",
    "BlockPool",
    "BlockRemoved",
    "BlockStored",
    "BlocksCached",
    "BlocksEvicted",
    "Change",
    "Copy",
    "Drop",
    "Event",
    "EventBatch",
    "EventLog",
    "Evictable",
    "EvictionPolicy",
    "FetchPlan",
    "Hints",
    "KVFingerprint",
    "KeyChain",
    "Lease",
    "Numbered",
    "Overlap",
    "PoolStats",
    "RadixIndex",
    "Rate",
    "Rates",
    "Receipt",
    "ReplicaView",
    "Store",
    "Tier",
    "TierIndex",
    "TierSizes",
    "decode_batch",
    "derive_tenant_key",
    "encode_batch",
]

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
from .lease import Computing, Copy, Lease, PoolStats
from .policy import LRU, Evictable, EvictionPolicy
from .radix import RadixIndex
from .steps import Owner, Step
from .tiers import Drop, FetchPlan, Rate, Rates, Store, Tier, TierIndex, TierSizes
from .workflow import MAX_OWNERS, WorkflowAware

__all__ = [
    "KEY_SIZE",
    "LRU",
    "MAX_BATCH_BYTES",
    "MAX_OWNERS",
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
    "Computing",
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
    "Owner",
    "PoolStats",
    "RadixIndex",
    "Rate",
    "Rates",
    "Receipt",
    "ReplicaView",
    "Step",
    "Store",
    "Tier",
    "TierIndex",
    "TierSizes",
    "WorkflowAware",
    "decode_batch",
    "derive_tenant_key",
    "encode_batch",
]

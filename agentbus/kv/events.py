"""KV events: which blocks an engine stored and removed, in the format of vLLM.

The format is that of vLLM 0.24 and later (`vllm/distributed/kv_events.py`): a batch is a msgpack
array [ts, events, data_parallel_rank], an event a map with its kind under "type". Events as tagged
arrays, which vLLM wrote before, and batches as maps are read too. agentbus appends its *epoch* to
the array, which readers of the format skip: it tells a replica that was started again from one
that went on, and lets its sequence numbers begin at 0 anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from ..errors import MalformedFrame
from .tiers import Tier

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_EVENTS",
    "MAX_HASHES",
    "MAX_TOKENS",
    "MEDIA",
    "AllBlocksCleared",
    "BlockHash",
    "BlockRemoved",
    "BlockStored",
    "Event",
    "EventBatch",
    "decode_batch",
    "encode_batch",
]

BlockHash = bytes | int
"""Whatever names a block for the engine that holds it; vLLM's are 64-bit numbers or digests."""
ExtraKeys = tuple[tuple[Any, ...] | None, ...]

MAX_BATCH_BYTES = 8 * 2**20
"""Largest batch that is read."""
MAX_EVENTS = 2**16
"""Most events in a batch."""
MAX_HASHES = 2**17
"""Most blocks in an event."""
MAX_TOKENS = 2**20
"""Most token ids in an event."""
_MAX_TEXT = 4096
_MAX_FIELDS = 64
_MAX_HASH = 64
_MAX_INT = 2**64
_MAX_TOKEN = 2**32
_SCALARS = frozenset([str, bytes, int, float, bool, type(None)])

MEDIA: Mapping[Tier, str] = {Tier.DEVICE: "GPU", Tier.HOST: "CPU", Tier.DISK: "STORAGE"}
"""What vLLM calls the tiers; an engine's own pool is "GPU" whatever it runs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStored:
    """Consecutive blocks of one sequence that a medium holds from now on."""

    block_hashes: tuple[BlockHash, ...]
    parent_block_hash: BlockHash | None
    """The block before the first one; None at the beginning of a sequence."""
    token_ids: tuple[int, ...]
    """`block_size` for each block. vLLM leaves them out of what it says about lower tiers."""
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: ExtraKeys | None = None
    """For each block what else tells it from others of the same tokens, a tenant's salt first."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRemoved:
    """Blocks that a medium holds no more."""

    block_hashes: tuple[BlockHash, ...]
    medium: str | None = None
    group_idx: int | None = None


@dataclass(frozen=True, slots=True)
class AllBlocksCleared:
    """Nothing is held any more, in no medium. At the head of a batch it begins a whole state."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """What one engine tells at once, in order."""

    ts: float
    """Seconds since 1970 when it was made."""
    events: tuple[Event, ...]
    data_parallel_rank: int | None = None
    epoch: int | None = None
    """Larger after each start of the engine; None from engines that have none, such as vLLM."""


def encode_batch(batch: EventBatch) -> bytes:
    """Write a batch, as vLLM does, the epoch behind it."""
    events = [_to_map(event) for event in batch.events]
    fields: list[object] = [batch.ts, events, batch.data_parallel_rank]
    if batch.epoch is not None:
        fields.append(batch.epoch)
    packed: bytes = msgpack.packb(fields)
    return packed


_OPTIONAL = ("extra_keys", "group_idx", "kv_cache_spec_kind")
"""Fields that vLLM leaves out where they are None; all others are always there."""


def _to_map(event: Event) -> dict[str, object]:
    fields: dict[str, object] = {"type": type(event).__name__}
    for name in type(event).__slots__:
        value = getattr(event, name)
        if value is not None or name not in _OPTIONAL:
            fields[name] = value
    return fields


def decode_batch(data: bytes | memoryview) -> EventBatch:
    """Read a batch from an engine; events of unknown kinds are left out.

    Raises:
        MalformedFrame: it is none, or is over a bound.
    """
    if len(data) > MAX_BATCH_BYTES:
        raise MalformedFrame(f"a KV event batch of {len(data)} bytes, over {MAX_BATCH_BYTES}")
    try:
        value = msgpack.unpackb(
            data,
            use_list=False,
            max_str_len=_MAX_TEXT,
            max_bin_len=_MAX_TEXT,
            max_array_len=MAX_TOKENS,
            max_map_len=_MAX_FIELDS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"not a KV event batch: {error}") from error
    fields = _named(value, ("ts", "events", "data_parallel_rank", "epoch"))
    ts = fields.get("ts")
    if type(ts) is bool or not isinstance(ts, float | int) or not math.isfinite(ts):
        raise MalformedFrame("a KV event batch without its time")
    events = _array(fields.get("events"), MAX_EVENTS, "events")
    return EventBatch(
        ts=float(ts),
        events=tuple(event for event in map(_read_event, events) if event is not None),
        data_parallel_rank=_optional(fields, "data_parallel_rank", _integer),
        epoch=_optional(fields, "epoch", _integer),
    )


_STORED = (
    "type",
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
)
_REMOVED = ("type", "block_hashes", "medium", "group_idx")


def _read_event(value: object) -> Event | None:
    kind = _named(value, ("type",)).get("type")
    if kind == "BlockStored":
        return _read_stored(_named(value, _STORED))
    if kind == "BlockRemoved":
        fields = _named(value, _REMOVED)
        return BlockRemoved(
            block_hashes=_hashes(fields.get("block_hashes")),
            medium=_optional(fields, "medium", _text),
            group_idx=_optional(fields, "group_idx", _integer),
        )
    if kind == "AllBlocksCleared":
        return AllBlocksCleared()
    _text(kind, "type")
    return None


def _read_stored(fields: Mapping[str, Any]) -> BlockStored:
    hashes = _hashes(fields.get("block_hashes"))
    tokens = _array(fields.get("token_ids"), MAX_TOKENS, "token_ids")
    if not all(type(token) is int and 0 <= token < _MAX_TOKEN for token in tokens):
        raise MalformedFrame("a KV event's token_ids are not token ids")
    size = _integer(fields.get("block_size"), "block_size")
    if tokens and len(tokens) != size * len(hashes):
        raise MalformedFrame(f"{len(tokens)} tokens in {len(hashes)} KV blocks of {size}")
    return BlockStored(
        block_hashes=hashes,
        parent_block_hash=_optional(fields, "parent_block_hash", _hash),
        token_ids=tokens,
        block_size=size,
        lora_id=_optional(fields, "lora_id", _integer),
        medium=_optional(fields, "medium", _text),
        lora_name=_optional(fields, "lora_name", _text),
        extra_keys=_read_extra(fields.get("extra_keys"), len(hashes)),
        group_idx=_optional(fields, "group_idx", _integer),
        kv_cache_spec_kind=_optional(fields, "kv_cache_spec_kind", _text),
    )


def _read_extra(value: object, blocks: int) -> ExtraKeys | None:
    if value is None:
        return None
    extra = _array(value, MAX_HASHES, "extra_keys")
    if len(extra) != blocks or not all(keys is None or _are_extra(keys) for keys in extra):
        raise MalformedFrame("a KV event's extra_keys are not an array of plain ones a block")
    return extra


def _are_extra(keys: object) -> bool:
    """Tell whether these are scalars, or pairs and the like of scalars."""
    return type(keys) is tuple and all(
        all(type(part) in _SCALARS for part in (key if type(key) is tuple else (key,)))
        for key in keys
    )


def _named(value: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the fields of a map, or of an array in that order; further ones are ignored."""
    if type(value) is tuple:
        return dict(zip(names, value, strict=False))
    if type(value) is dict:
        return value
    raise MalformedFrame("a KV event, or batch of them, is a map or an array")


def _optional(fields: Mapping[str, Any], name: str, read: Callable[[object, str], Any]) -> Any:
    value = fields.get(name)
    return None if value is None else read(value, name)


def _array(value: object, limit: int, name: str) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > limit:
        raise MalformedFrame(f"{name} of a KV event are not an array of {limit} at most")
    return value


def _hashes(value: object) -> tuple[BlockHash, ...]:
    return tuple(_hash(item, "block_hashes") for item in _array(value, MAX_HASHES, "block_hashes"))


def _hash(value: object, name: str) -> BlockHash:
    if type(value) is bytes and len(value) <= _MAX_HASH:
        return value
    return _integer(value, name)


def _integer(value: object, name: str) -> int:
    if type(value) is int and -_MAX_INT < value < _MAX_INT:
        return value
    raise MalformedFrame(f"{name} of a KV event is not an integer")


def _text(value: object, name: str) -> str:
    if type(value) is str:
        return value
    raise MalformedFrame(f"{name} of a KV event is not a text")

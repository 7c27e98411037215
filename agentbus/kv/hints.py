"""What a router believes each replica holds: a view built from KV events.

A view is a hint. Events may be late, lost, repeated or of a replica that was started again
meanwhile; a view that is wrong costs a recompute or a worse choice of replica, and nothing else:
the replica's own index alone decides what is reused. Blocks are compared by the tokens that events
carry, not by the engines' own hashes, so that replicas of different kinds are told apart and
together alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import msgpack
from blake3 import blake3

from .events import (
    MEDIA,
    AllBlocksCleared,
    BlockHash,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
)
from .tiers import Tier
from .tree import pack_tokens

__all__ = ["Hints", "Overlap", "Receipt", "ReplicaView"]

_FULL_ATTENTION = "full_attention"
_NAME_SIZE = 16
_ROOT = b""


class Receipt(StrEnum):
    """What became of a batch."""

    APPLIED = "applied"
    WAITING = "waiting"
    """It is kept until those before it came: ask for `ReplicaView.missing`."""
    DUPLICATE = "duplicate"
    STALE = "stale"
    """It is of an epoch that is over."""
    DROPPED = "dropped"
    """Too many wait already; it has to be told again."""


class Overlap(NamedTuple):
    """How much of a prompt a replica is believed to hold, from the first token on."""

    tokens: int
    """In any tier."""
    device_tokens: int
    """At its start, on the device itself."""


@dataclass(slots=True)
class _Block:
    """A block that a replica holds in at least one medium."""

    name: bytes
    """Made of its tokens and all before them."""
    media: set[str] = field(default_factory=set)


def _name(parent: bytes, tokens: Sequence[int], extra: tuple[Any, ...] | None) -> bytes:
    whole = msgpack.packb([parent, pack_tokens(tokens), extra or None])
    return blake3(whole).digest(_NAME_SIZE)


class ReplicaView:
    """What one replica is believed to hold, by its events in the order of their numbers."""

    MAX_WAITING = 1024
    """Most batches that are kept while one before them is missing."""
    MAX_WAITING_ITEMS = 2**20
    """Most blocks and token ids in them; some hundred megabytes."""
    MAX_MEDIA = 8
    """Most media that one block is believed to lie on."""

    def __init__(self, *, max_blocks: int = 2**18) -> None:
        """Begin with nothing.

        Args:
            max_blocks: most blocks that are remembered; a replica that says it has more is
                believed as to the first ones.
        """
        self._max_blocks = max_blocks
        self._epoch: int | None = None
        self._inferred = 0
        self._last = -1
        self._newest = -1
        self._waiting: dict[int, EventBatch] = {}
        self._waiting_items = 0
        self._clear()
        self.unplaced = 0
        """Blocks that could not be placed: their parent is not known, or there are too many."""

    def _clear(self) -> None:
        self._blocks: dict[BlockHash, _Block] = {}
        self._names: dict[bytes, _Block] = {}
        self._groups: set[int | None] = {None}
        self.block_size: int | None = None
        """Tokens in one of its blocks; None before the first one."""

    @property
    def missing(self) -> int | None:
        """The number from which batches are missing, or None while none is."""
        return self._last + 1 if self._waiting else None

    @property
    def next(self) -> int:
        """The number of the batch that would be applied next."""
        return self._last + 1

    @property
    def blocks(self) -> int:
        """How many blocks it is believed to hold."""
        return len(self._blocks)

    def receive(self, seq: int, batch: EventBatch, *, live: bool = True) -> Receipt:
        """Take a batch, once or more, in any order.

        A batch that begins with `AllBlocksCleared` holds the whole state, and needs none before.

        Args:
            seq: its number within its epoch.
            batch: what happened.
            live: false for what was asked for and is told again. An engine that has no epochs was
                started again where a live number is not larger than those before.
        """
        if not self._enter_epoch(seq, batch.epoch, live):
            return Receipt.STALE
        if live:
            self._newest = max(self._newest, seq)
        if seq <= self._last:
            return Receipt.DUPLICATE
        if seq > self._last + 1 and not _is_whole(batch):
            return self._keep_waiting(seq, batch)
        self._apply(seq, batch)
        return Receipt.APPLIED

    def _keep_waiting(self, seq: int, batch: EventBatch) -> Receipt:
        if seq in self._waiting:
            return Receipt.WAITING
        items = self._waiting_items + _items(batch)
        if len(self._waiting) >= self.MAX_WAITING or items > self.MAX_WAITING_ITEMS:
            return Receipt.DROPPED
        self._waiting[seq] = batch
        self._waiting_items = items
        return Receipt.WAITING

    def give_up(self) -> None:
        """Go on without what is missing, since nobody can tell it any more.

        What was believed may be wrong by then, and is forgotten.
        """
        if self._waiting:
            self._clear()
            first = min(self._waiting)
            self._apply(first, self._waiting[first])

    def overlap(self, names: Iterable[bytes]) -> Overlap:
        """Compare with a prompt's blocks, named as `Hints.overlaps` does."""
        size = self.block_size or 0
        total = device = 0
        for name in names:
            block = self._names.get(name)
            if block is None:
                break
            if device == total and MEDIA[Tier.DEVICE] in block.media:
                device += 1
            total += 1
        return Overlap(total * size, device * size)

    def _enter_epoch(self, seq: int, epoch: int | None, live: bool) -> bool:
        """Say whether a batch is of the present epoch, which it may begin."""
        if epoch is None:
            if live and seq <= self._newest:
                self._inferred += 1
            epoch = self._inferred
        if self._epoch is not None and epoch < self._epoch:
            return False
        if epoch != self._epoch:
            self._epoch = epoch
            self._last = self._newest = -1
            self._waiting.clear()
            self._waiting_items = 0
            self._clear()
        return True

    def _apply(self, seq: int, batch: EventBatch) -> None:
        """Apply a batch, and those that waited for it."""
        following: EventBatch | None = batch
        while following is not None:
            for event in following.events:
                self._take(event)
            self._last = seq
            seq += 1
            following = self._waiting.get(seq)
        for passed in [number for number in self._waiting if number <= self._last]:
            self._waiting_items -= _items(self._waiting.pop(passed))

    def _take(self, event: Event) -> None:
        if isinstance(event, AllBlocksCleared):
            self._clear()
        elif isinstance(event, BlockRemoved):
            if event.group_idx in self._groups:
                for name in event.block_hashes:
                    self._remove(name, event.medium)
        elif event.kv_cache_spec_kind in (None, _FULL_ATTENTION):
            self._groups.add(event.group_idx)
            self._store(event)

    def _store(self, event: BlockStored) -> None:
        if event.token_ids:
            self.block_size = event.block_size
        parent = self._parent(event)
        medium = event.medium or MEDIA[Tier.DEVICE]
        for number, name in enumerate(event.block_hashes):
            block = self._blocks.get(name) or self._add(event, number, parent)
            if block is None:
                self.unplaced += len(event.block_hashes) - number
                return
            if len(block.media) < self.MAX_MEDIA:
                block.media.add(medium)
            self._names[block.name] = block
            parent = block.name

    def _parent(self, event: BlockStored) -> bytes | None:
        if event.parent_block_hash is None:
            return _ROOT
        above = self._blocks.get(event.parent_block_hash)
        return None if above is None else above.name

    def _add(self, event: BlockStored, number: int, parent: bytes | None) -> _Block | None:
        size = event.block_size
        tokens = event.token_ids[number * size : (number + 1) * size]
        if parent is None or not tokens or len(self._blocks) >= self._max_blocks:
            return None
        extra = None if event.extra_keys is None else event.extra_keys[number]
        name = _name(parent, tokens, _with_adapter(extra, event.lora_name))
        block = self._names.get(name) or _Block(name)
        self._blocks[event.block_hashes[number]] = block
        return block

    def _remove(self, hashed: BlockHash, medium: str | None) -> None:
        block = self._blocks.get(hashed)
        if block is None:
            return
        block.media.discard(medium or MEDIA[Tier.DEVICE])
        if not block.media:
            del self._blocks[hashed]
            self._names.pop(block.name, None)


def _items(batch: EventBatch) -> int:
    """Return what a batch takes, in blocks, token ids and events."""
    total = 0
    for event in batch.events:
        total += 1
        if not isinstance(event, AllBlocksCleared):
            total += len(event.block_hashes)
        if isinstance(event, BlockStored):
            total += len(event.token_ids)
    return total


def _is_whole(batch: EventBatch) -> bool:
    return bool(batch.events) and isinstance(batch.events[0], AllBlocksCleared)


def _with_adapter(extra: tuple[Any, ...] | None, adapter: str | None) -> tuple[Any, ...]:
    """Put an adapter's name first in a block's extra keys, where vLLM has it, exactly once."""
    if adapter and (not extra or extra[0] != adapter):
        return (adapter, *(extra or ()))
    return extra or ()


class Hints:
    """The views of all replicas that a router may choose from."""

    def __init__(self) -> None:
        self._views: dict[str, ReplicaView] = {}

    def view(self, replica: str) -> ReplicaView:
        """Return a replica's view; a new one for a name that is not known."""
        return self._views.setdefault(replica, ReplicaView())

    def forget(self, replica: str) -> None:
        """Drop a replica that is gone."""
        self._views.pop(replica, None)

    def overlaps(
        self, tokens: Sequence[int], *, salt: str = "", adapter: str = ""
    ) -> Mapping[str, Overlap]:
        """Return how much of a prompt each replica is believed to hold.

        Args:
            tokens: the prompt's ids.
            salt: the tenant's (`KeyChain.salt`, vLLM's `cache_salt`); empty for none.
            adapter: name of a LoRA adapter; empty for none.
        """
        names: dict[int, list[bytes]] = {}
        found: dict[str, Overlap] = {}
        for replica, view in self._views.items():
            size = view.block_size
            if size is not None and size not in names:
                names[size] = _prompt_names(tokens, size, salt, adapter)
            found[replica] = Overlap(0, 0) if size is None else view.overlap(names[size])
        return found


def _prompt_names(tokens: Sequence[int], size: int, salt: str, adapter: str) -> list[bytes]:
    """Name a prompt's whole blocks; as in vLLM the salt is the first one's alone."""
    names: list[bytes] = []
    parent = _ROOT
    for start in range(0, len(tokens) - size + 1, size):
        extra = (adapter, salt) if start == 0 else (adapter,)
        block = tokens[start : start + size]
        parent = _name(parent, block, tuple(key for key in extra if key))
        names.append(parent)
    return names

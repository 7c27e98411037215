"""Performs what `kv.TierIndex` decides: copies blocks down before they are freed, and up again.

One engine has one of these and calls it from the thread that computes: `admit` when a lease has
begun, `settle` after each other change of a lease, `prefilled` when some of a prompt was computed.
It measures what it does, since the index decides by measured rates.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from ..kv import (
    MEDIA,
    BlockKey,
    BlockRemoved,
    BlocksCached,
    BlocksEvicted,
    BlockStored,
    Change,
    Drop,
    Event,
    KeyChain,
    KVFingerprint,
    Lease,
    Store,
    Tier,
    TierIndex,
    derive_tenant_key,
)
from .base import BlockStore, Buffer

__all__ = ["DevicePool", "TierStats", "TieredBlocks"]


class DevicePool(Protocol):
    """The blocks of an engine's own pool, as bytes."""

    @property
    def block_bytes(self) -> int:
        """Size of one block, all layers."""
        ...

    def read_block(self, block: int) -> Buffer:
        """Return what a block holds; valid until the pool is written to."""
        ...

    def write_block(self, block: int, payload: Buffer) -> None:
        """Set what a block holds."""
        ...


@dataclass(frozen=True, slots=True)
class TierStats:
    """What lies below the device, and what was moved."""

    host_blocks: int
    disk_blocks: int
    demoted: int
    """Blocks that went from the device to a lower tier."""
    fetched: Mapping[Tier, int]
    """Blocks that came up, by the tier they came from."""
    lost: int
    """Blocks that a tier should have had and had not, or not unchanged."""


class TieredBlocks:
    """The tiers below one engine's pool. Not thread-safe."""

    MAX_TENANTS = 4096
    """Tenants whose blocks can be named; those of others stay on the device."""

    def __init__(
        self,
        device: DevicePool,
        index: TierIndex,
        stores: Mapping[Tier, BlockStore],
        *,
        fingerprint: KVFingerprint,
        secret: bytes,
        events: list[Event] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put tiers below a pool.

        Args:
            device: the pool.
            index: says what goes where.
            stores: of the lower tiers that `index` has room in; what they hold is taken over.
            fingerprint: of all that shapes the pool's KV but tokens and tenant.
            secret: `KEY_SIZE` bytes; names the tenants.
            events: gets what is stored and removed, in each tier; who gives it empties it.
            clock: seconds, for the rates.
        """
        self._device = device
        self._index = index
        self._stores = dict(stores)
        self._fingerprint = fingerprint
        self._secret = secret
        self._events = events
        self._clock = clock
        self.changes: list[Change] = []
        """For the `RadixIndex` of the pool to tell in."""
        self._chains: OrderedDict[bytes, KeyChain] = OrderedDict()
        self._keys: dict[int, BlockKey] = {}
        self._demoted = 0
        self._lost = 0
        self._fetched = dict.fromkeys(self._stores, 0)
        for tier, store in self._stores.items():
            for drop in index.adopt(tier, store.keys()):
                store.remove(drop.key)

    def chain(self, tenant: str) -> KeyChain:
        """Return what names a tenant's blocks, and its namespace for the index."""
        chain = KeyChain(derive_tenant_key(self._secret, tenant), self._fingerprint)
        chain = self._chains.setdefault(chain.namespace, chain)
        self._chains.move_to_end(chain.namespace)
        if len(self._chains) > self.MAX_TENANTS:
            self._chains.popitem(last=False)
        return chain

    @property
    def is_lasting(self) -> bool:
        """Whether what goes down is found at the next start."""
        return Tier.DISK in self._stores

    def settle(self) -> None:
        """Perform what the index told in `changes` since the last time.

        To be called after each change of a lease, once what was committed is in the pool and
        before anything else is written there.
        """
        for change in self.changes:
            if isinstance(change, BlocksEvicted):
                self._evict(change.blocks)
            elif (chain := self._chains.get(change.namespace)) is not None:
                self._cache(change, chain)
        self.changes.clear()

    def admit(self, chain: KeyChain, prompt: Sequence[int], lease: Lease) -> int:
        """Bring up what is worth it of a prompt whose lease has just begun, instead of `settle`.

        The last token of the prompt is never among it: its logits have to be computed.

        Args:
            chain: names the prompt's blocks.
            prompt: its ids.
            lease: on them; its own blocks are written.

        Returns:
            How many of the prompt's first tokens have their KV in the lease's blocks: whole
            blocks, so that the lease's copies are not needed; 0 if nothing came up.
        """
        keys = chain.keys(prompt[:-1])
        cached = lease.reused // chain.block_size
        self._index.touch(keys, cached)
        self.settle()
        came = 0
        for tier, run in groupby(self._index.plan(keys, cached).blocks, key=lambda item: item[1]):
            wanted = [key for key, _ in run]
            started = self._clock()
            count = self._bring(tier, wanted, lease.blocks[cached + came :])
            size = count * self._device.block_bytes
            self._index.rates.read[tier].observe(size, self._clock() - started)
            self._fetched[tier] += count
            came += count
            if count < len(wanted):
                break
        return (cached + came) * chain.block_size if came else 0

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Note how long it took to compute so many tokens of a prompt."""
        self._index.rates.prefill.observe(tokens, seconds)

    def stats(self) -> TierStats:
        """Return what lies below, and what was moved."""
        return TierStats(
            host_blocks=self._index.count(Tier.HOST),
            disk_blocks=self._index.count(Tier.DISK),
            demoted=self._demoted,
            fetched=dict(self._fetched),
            lost=self._lost,
        )

    def close(self) -> None:
        """Let go of the stores; what host memory holds goes to disk, and stays for the next time."""
        for action in self._index.flush():
            self._perform(action, -1)
        for store in self._stores.values():
            store.close()

    def _cache(self, change: BlocksCached, chain: KeyChain) -> None:
        keys = chain.keys(change.tokens)
        for number, block in enumerate(change.blocks, change.first):
            self._keys[block] = keys[number]
        if self._events is not None:
            self._events.append(_stored(change, chain, keys))

    def _evict(self, blocks: Sequence[int]) -> None:
        """Copy evicted blocks down, the end of a sequence first."""
        for block in reversed(blocks):
            key = self._keys.pop(block, None)
            if key is None:
                continue  # of a tenant that was not heard of for long: it has no name
            for action in self._index.demote(key):
                self._perform(action, block)
            self._tell_removed([key], Tier.DEVICE)

    def _perform(self, action: Store | Drop, block: int) -> None:
        if isinstance(action, Drop):
            self._stores[action.tier].remove(action.key)
            self._tell_removed([action.key], action.tier)
            return
        key, source, target = action
        on_device = source is Tier.DEVICE
        payload = self._device.read_block(block) if on_device else self._stores[source].get(key)
        if payload is None:
            self._lose(key, target)
            return
        kept = self._stores[target].put(key, payload)
        for evicted in kept.evicted:
            self._index.lost(evicted, target)
        self._tell_removed(kept.evicted, target)
        if not kept.stored:
            self._lose(key, target)
            return
        self._demoted += on_device
        self._tell_stored(key, target)

    def _bring(self, tier: Tier, keys: Sequence[BlockKey], table: Sequence[int]) -> int:
        """Copy blocks to the device up to the first that is not there; return how many."""
        store = self._stores[tier]
        for number, (key, block) in enumerate(zip(keys, table, strict=False)):
            payload = store.get(key)
            if payload is None:
                self._lose(key, tier)
                self._tell_removed([key], tier)
                return number
            self._device.write_block(block, payload)
        return min(len(keys), len(table))

    def _lose(self, key: BlockKey, tier: Tier) -> None:
        self._index.lost(key, tier)
        self._lost += 1

    def _tell_stored(self, key: BlockKey, tier: Tier) -> None:
        """Say that a lower tier has a block; its tokens were told when the device stored it."""
        if self._events is not None:
            event = BlockStored(
                block_hashes=(key.digest,),
                parent_block_hash=None,
                token_ids=(),
                block_size=0,
                medium=MEDIA[tier],
            )
            self._events.append(event)

    def _tell_removed(self, keys: Iterable[BlockKey], tier: Tier) -> None:
        hashes = tuple(key.digest for key in keys)
        if self._events is not None and hashes:
            self._events.append(BlockRemoved(block_hashes=hashes, medium=MEDIA[tier]))


def _stored(change: BlocksCached, chain: KeyChain, keys: Sequence[BlockKey]) -> BlockStored:
    """Say in vLLM's terms which blocks the device keeps; the tenant's salt is the first one's."""
    first, size = change.first, chain.block_size
    adapter = chain.fingerprint.adapter
    common = (adapter,) if adapter else None
    extra = [common] * len(change.blocks)
    if first == 0:
        extra[0] = (*(common or ()), chain.salt)
    return BlockStored(
        block_hashes=tuple(key.digest for key in keys[first:]),
        parent_block_hash=keys[first - 1].digest if first else None,
        token_ids=tuple(change.tokens[first * size :]),
        block_size=size,
        medium=MEDIA[Tier.DEVICE],
        lora_name=adapter or None,
        extra_keys=tuple(extra),
    )

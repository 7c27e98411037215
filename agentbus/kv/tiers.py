"""Which tier holds which KV block, and when a block is worth fetching. It moves no bytes.

A block that the device's pool evicts goes down to host memory, and from there to disk; what a
prompt matches comes up again, where fetching it beats computing it. That is decided from rates
measured in this process, never guessed. What is to be moved comes back as actions, in the order in
which whoever holds the bytes must perform them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ..errors import MisuseError
from .keys import BlockKey

__all__ = ["Drop", "FetchPlan", "Rate", "Rates", "Store", "Tier", "TierIndex", "TierSizes"]


class Tier(StrEnum):
    """Where a block lies, fastest first."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class Store(NamedTuple):
    """Order to copy a block from one tier to another; the source keeps it."""

    key: BlockKey
    source: Tier
    target: Tier


class Drop(NamedTuple):
    """Order to remove a block from a tier."""

    key: BlockKey
    tier: Tier


class FetchPlan(NamedTuple):
    """What to bring to the device for a prompt, in the order of its blocks.

    The first of them follows what the device has; what stands behind the last is computed.
    """

    blocks: tuple[tuple[BlockKey, Tier], ...]
    is_probe: bool
    """Whether some of it is fetched to measure a tier, not because that is known to be faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSizes:
    """Most blocks that each lower tier holds; 0 for no such tier.

    Raises:
        MisuseError: one is negative.
    """

    host: int = 0
    disk: int = 0

    def __post_init__(self) -> None:
        if min(self.host, self.disk) < 0:
            raise MisuseError(f"a tier holds 0 blocks or more, not {min(self.host, self.disk)}")


class Rate:
    """Units a second, as measured; later measurements count more."""

    _KEPT = 0.8
    """Share of what was known that is left when as much again is measured."""

    __slots__ = ("_seconds", "_units")

    def __init__(self) -> None:
        self._units = 0.0
        self._seconds = 0.0

    @property
    def value(self) -> float | None:
        """The rate, or None before the first measurement."""
        return self._units / self._seconds if self._seconds > 0 else None

    def observe(self, units: float, seconds: float) -> None:
        """Count `units` that took `seconds`; what took no time at all tells nothing."""
        if units > 0 and seconds > 0:
            self._units = self._units * self._KEPT + units
            self._seconds = self._seconds * self._KEPT + seconds


@dataclass(slots=True)
class Rates:
    """What this process measured of itself."""

    prefill: Rate = field(default_factory=Rate)
    """Tokens a second."""
    read: dict[Tier, Rate] = field(
        default_factory=lambda: {Tier.HOST: Rate(), Tier.DISK: Rate()},
    )
    """Bytes a second, from a lower tier into the device's pool, checks included."""


class TierIndex:
    """Holds which blocks lie in host memory and on disk, within their sizes.

    A block may lie in several tiers: one that was fetched stays below until it is evicted there,
    and costs nothing to store when the device evicts it again. Within a tier the least recently
    used block goes first, of a sequence its end: what is left of it is still a prefix.
    """

    PROBE_BLOCKS = 4
    """Most blocks that are fetched from a tier to measure it."""
    RETRY = 256
    """Prompts that are computed though a tier has their blocks, before that tier is measured
    again: a disk that was busy once may be fast now."""

    def __init__(self, sizes: TierSizes, *, block_bytes: int, block_tokens: int) -> None:
        """Begin with empty tiers.

        Args:
            block_bytes: size of one block, for what fetching it takes.
            block_tokens: tokens in one block, for what computing it takes.

        Raises:
            MisuseError: a block's size is not positive.
        """
        if min(block_bytes, block_tokens) <= 0:
            raise MisuseError("a block has at least one byte and one token")
        self._sizes = {Tier.HOST: sizes.host, Tier.DISK: sizes.disk}
        self._held: dict[Tier, OrderedDict[BlockKey, None]] = {
            tier: OrderedDict() for tier in self._sizes
        }
        self._block_bytes = block_bytes
        self._block_tokens = block_tokens
        self._declined = dict.fromkeys(self._sizes, 0)
        self.rates = Rates()
        """Fed by who computes and fetches."""

    def tier(self, key: BlockKey) -> Tier | None:
        """Return the fastest lower tier that holds a block."""
        return next((tier for tier, held in self._held.items() if key in held), None)

    def count(self, tier: Tier) -> int:
        """Return how many blocks a lower tier holds."""
        return len(self._held[tier])

    def adopt(self, tier: Tier, keys: Iterable[BlockKey]) -> list[Drop]:
        """Take over blocks that a tier has from before, least recently used first."""
        self._held[tier].update(dict.fromkeys(keys))
        actions = []
        while len(self._held[tier]) > self._sizes[tier]:
            key, _ = self._held[tier].popitem(last=False)
            actions.append(Drop(key, tier))
        return actions

    def demote(self, key: BlockKey) -> list[Store | Drop]:
        """Take a block that the device evicts; say what to move, to be done before it is freed."""
        return self._put(key, Tier.DEVICE)

    def flush(self) -> list[Store | Drop]:
        """Say what to move so that what host memory holds lies on disk, the latest used for sure."""
        return [move for key in self._held[Tier.HOST] for move in self._put(key, Tier.HOST)]

    def lost(self, key: BlockKey, tier: Tier) -> None:
        """Forget a block that a tier turned out not to have."""
        self._held[tier].pop(key, None)

    def touch(self, keys: Sequence[BlockKey], cached: int) -> None:
        """Keep what a prompt may want from going next; the arguments are `plan`'s.

        To be called before room for the prompt is made, which may push other blocks down.
        """
        for key, _ in reversed(self._found(keys, cached)):  # its head is used last
            for held in self._held.values():
                if key in held:
                    held.move_to_end(key)

    def plan(self, keys: Sequence[BlockKey], cached: int) -> FetchPlan:
        """Say which of a prompt's blocks to fetch; all others are to be computed.

        Time is compared from what the device has on: the prefix is fetched whose time saved is
        most. A tier that was never measured is tried with a few blocks, once computing was.

        Args:
            keys: of all whole blocks of the prompt that may be reused.
            cached: how many of them the device has.
        """
        found = self._found(keys, cached)
        compute = self.rates.prefill.value
        if compute is None or not found:
            return FetchPlan((), False)
        best, probes = self._best(found, self._block_tokens / compute)
        wanted = found[:best]
        self._count_declined(found, wanted)
        return FetchPlan(tuple(wanted), probes)

    def _found(self, keys: Sequence[BlockKey], cached: int) -> list[tuple[BlockKey, Tier]]:
        found: list[tuple[BlockKey, Tier]] = []
        for key in keys[cached:]:
            tier = self.tier(key)
            if tier is None:
                break
            found.append((key, tier))
        return found

    def _best(self, found: Sequence[tuple[BlockKey, Tier]], compute: float) -> tuple[int, bool]:
        """Return how many blocks to fetch, and whether that measures a tier.

        Args:
            compute: seconds to compute one block.
        """
        best, saved, most = 0, 0.0, 0.0
        for number, (_, tier) in enumerate(found, 1):
            rate = None if self._is_due(tier) else self.rates.read[tier].value
            if rate is None:
                if best < number - 1:
                    break  # what stands before is not worth fetching: the probe would be late
                return best + self._probe_length(found[best:]), True
            saved += compute - self._block_bytes / rate
            if saved > most:
                best, most = number, saved
        return best, False

    def _probe_length(self, found: Sequence[tuple[BlockKey, Tier]]) -> int:
        """Return how many blocks at the beginning are of one tier, as many as a probe takes."""
        tiers = [tier for _, tier in found[: self.PROBE_BLOCKS]]
        return next((n for n, tier in enumerate(tiers) if tier is not tiers[0]), len(tiers))

    def _is_due(self, tier: Tier) -> bool:
        return self._declined[tier] >= self.RETRY

    def _count_declined(
        self, found: Sequence[tuple[BlockKey, Tier]], wanted: Sequence[tuple[BlockKey, Tier]]
    ) -> None:
        for tier in {tier for _, tier in found}:
            used = any(other is tier for _, other in wanted)
            self._declined[tier] = 0 if used else self._declined[tier] + 1

    def _put(self, key: BlockKey, source: Tier) -> list[Store | Drop]:
        """Store a block in the next tier below that has room at all, making that room."""
        below = {Tier.DEVICE: (Tier.HOST, Tier.DISK), Tier.HOST: (Tier.DISK,)}[source]
        target = next((tier for tier in below if self._sizes[tier]), None)
        if target is None:
            return []
        held = self._held[target]
        if key in held:
            held.move_to_end(key)
            return []
        actions: list[Store | Drop] = []
        while len(held) >= self._sizes[target]:
            oldest, _ = held.popitem(last=False)
            if target is Tier.HOST:
                actions += self._put(oldest, Tier.HOST)
            actions.append(Drop(oldest, target))
        held[key] = None
        actions.append(Store(key, source, target))
        return actions

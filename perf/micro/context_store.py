"""A store of very many contexts: what resolving a message's context takes, and how much memory.

The store is full: for each context that comes, one is forgotten.
"""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from agentbus.config import Limits
from agentbus.context import (
    CHECK_SIZE,
    CONTEXT_BYTES,
    ContextStore,
    Delta,
    SegmentKind,
    TenantKey,
    pack,
    unpack,
)

from ..workloads import NS_PER_S, Load, resident_mib, tail

__all__ = ["Stored", "contend", "measure"]

LENGTH = 100
"""Segments of one conversation."""
AUTHOR = "speaker"
TEXT_CHARACTERS = 200
SEED = 11
MIB = 1024 * 1024
_TENANT = TenantKey(b"k" * 32)
_EMPTY = _TENANT.empty().root
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Stored:
    """A full store, and the ends of the conversations in it."""

    store: ContextStore
    ends: list[bytes]
    choose: random.Random
    rss_growth_mib: float
    rss_per_segment_bytes: float
    counted_per_segment_bytes: float

    def messages(self) -> Iterator[bytes]:
        """Yield contexts as messages bring them: what the store holds of one, a segment longer."""
        for number in itertools.count(len(self.ends) * LENGTH):
            place = self.choose.randrange(len(self.ends))
            base = self.ends[place]
            if base not in self.store:
                base = self.store.beginning(base) or _EMPTY
            data, self.ends[place] = _message(base, f"{number}")
            yield data


def _message(base: bytes, text: str) -> tuple[bytes, bytes]:
    """Return a context as a message brings it, and its root."""
    segment = _TENANT.segment(SegmentKind.MESSAGE, AUTHOR, text.ljust(TEXT_CHARACTERS, "x"))
    root = _TENANT.root(base, segment.digest)
    return pack(Delta(base, (segment,), root[:CHECK_SIZE], _TENANT)), root


@asynccontextmanager
async def contend(segments: str) -> AsyncGenerator[Stored, None]:
    """Fill a store with conversations, as messages bring them."""
    count = int(segments)
    store = ContextStore(count * (CONTEXT_BYTES + len(AUTHOR) + TEXT_CHARACTERS))
    ends: list[bytes] = []
    gc.collect()
    gc.disable()  # what is made here stays
    before = resident_mib()
    for conversation in range(count // LENGTH):
        root = _EMPTY
        for number in range(LENGTH):
            data, root = _message(root, f"{conversation}-{number}")
            store.resolve(unpack(data, _LIMITS, _TENANT))
        ends.append(root)
    growth = resident_mib() - before
    gc.enable()
    if len(store) != count:
        raise ValueError(f"the store holds {len(store)} contexts, not {count}")
    each = growth * MIB / count
    yield Stored(store, ends, random.Random(SEED), growth, each, store.held_bytes / count)


async def measure(stored: Stored, load: Load) -> dict[str, float]:
    """Drive one round: resolve one message after another; making them is not timed."""
    taken: list[int] = []
    end = perf_counter_ns() + int(load.latency_s * NS_PER_S)
    for data in stored.messages():
        before = perf_counter_ns()
        if before >= end:
            break
        context = stored.store.resolve(unpack(data, _LIMITS, _TENANT))
        taken.append(perf_counter_ns() - before)
        if context is None:
            raise ValueError("a context that the store holds was not found")
    return {
        "rss_growth_mib": stored.rss_growth_mib,
        "rss_per_segment_bytes": stored.rss_per_segment_bytes,
        "counted_per_segment_bytes": stored.counted_per_segment_bytes,
        **tail("resolve_", taken),
    }

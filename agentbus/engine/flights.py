"""Single flight: prompts that need the same new prefix have it computed once.

A prompt is known by the chain of its turns, each link the hash of all up to there, so that this
holds for every engine, whatever its tokens and blocks are. Who computes a prompt has a *flight*;
who needs a part of it waits until that has landed and goes on from there. The table only decides:
it waits for nobody and reads no clock.

That a prefix was computed before is remembered as a hint. Where an engine has evicted it since,
prompts that come at once each compute it: a wrong hint costs tokens, never correctness.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgpack
from blake3 import blake3

from ..context.layout import Prompt, Turn

__all__ = ["Chain", "Flight", "Link", "SingleFlight", "chain_of"]

KNOWN_LINKS = 16384
"""Prefixes that are remembered as computed, the least recently used forgotten first."""
LEAST_SHARED = 64
"""What two prompts share beyond what is known has to be as long as this, or nobody waits for it."""
_IDS_IN_LINK = 64
_CHARACTERS_OF_ID = 4
"""A token of a prompt of ids is reckoned as so many characters."""


class Link(NamedTuple):
    """One prefix of a prompt: its name, and its length in characters, markup left out."""

    key: bytes
    end: int


Chain = tuple[Link, ...]


def chain_of(prompt: Prompt | Sequence[int], tenant: str) -> Chain:
    """Return a prompt's prefixes, from the shortest on; its cue counts if it has text."""
    if isinstance(prompt, Prompt):
        turns = (*prompt.turns, prompt.cue) if prompt.cue.text else prompt.turns
        parts = [(_packed(turn), len(turn.text)) for turn in turns]
    else:
        blocks = [prompt[i : i + _IDS_IN_LINK] for i in range(0, len(prompt), _IDS_IN_LINK)]
        parts = [(msgpack.packb(list(ids)), len(ids) * _CHARACTERS_OF_ID) for ids in blocks]
    key, end, links = blake3(tenant.encode()).digest(), 0, []
    for packed, length in parts:
        key, end = blake3(key + packed).digest(), end + length
        links.append(Link(key, end))
    return tuple(links)


def _packed(turn: Turn) -> bytes:
    return bytes(msgpack.packb((turn.role, turn.name, turn.text)))


class Flight:
    """A prompt that is being computed."""

    __slots__ = ("chain",)

    def __init__(self, chain: Chain) -> None:
        self.chain = chain


class SingleFlight:
    """Which prefixes are known, and which are being computed by whom."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._flying: dict[bytes, Flight] = {}

    def knows(self, chain: Chain) -> bool:
        """Return whether all of a prompt was computed before."""
        return self._known_links(chain) == len(chain)

    def awaited(self, chain: Chain) -> Flight | None:
        """Return the flight that a prompt should wait for: it computes what the prompt needs.

        None if there is none, or if it has more to compute for itself than both share.
        """
        known = self._known_links(chain)
        start = chain[known - 1].end if known else 0
        for link in reversed(chain[known:]):
            flight = self._flying.get(link.key)
            if flight is None:
                continue
            shared, rest = link.end - start, flight.chain[-1].end - link.end
            if shared >= max(LEAST_SHARED, rest):
                return flight
        return None

    def begin(self, chain: Chain) -> Flight:
        """Note that a prompt is being computed from here on; `land` or `fail` has to follow."""
        flight = Flight(chain)
        for link in chain[self._known_links(chain) :]:
            self._flying.setdefault(link.key, flight)
        return flight

    def land(self, flight: Flight) -> None:
        """Note that a prompt has been computed."""
        self.fail(flight)
        for link in flight.chain:
            self._known[link.key] = None
            self._known.move_to_end(link.key)
        while len(self._known) > KNOWN_LINKS:
            self._known.popitem(last=False)

    def fail(self, flight: Flight) -> None:
        """Note that a prompt is no longer being computed, and may be by whoever comes next."""
        for link in flight.chain:
            if self._flying.get(link.key) is flight:
                del self._flying[link.key]

    def _known_links(self, chain: Chain) -> int:
        for count in range(len(chain), 0, -1):
            if chain[count - 1].key in self._known:
                return count
        return 0

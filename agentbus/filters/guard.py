"""What each filter does on each edge, all told, and where it is turned off for doing harm.

The ledger counts in tokens of the receiver's tokenizer. It nets what was saved against what that
provoked: texts fetched back, tool calls made again, the turns these took, prefixes computed again.
Only counts decide, never a clock, and the same events in the same order give the same state.

A demoted filter stays demoted on its edge. Turned off, it delivers nothing that could speak for it,
so turning it on again would be a guess that its receiver pays for. What may change the verdict has
another name: a new version of a filter begins with a record of its own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from ..errors import MisuseError

__all__ = ["EDGES", "FEW", "REPEATS_BORNE", "Balance", "Edge", "Guard", "harm"]

EDGES = 10_000
"""Edges that a guard keeps records of; of more, those that were longest unused are summed up."""
FEW = 8
"""After fewer deliveries there is no verdict: one long text fetched back proves nothing."""
REPEATS_BORNE = 0.1
"""The share of deliveries after which the receiver may make the same tool call again. Agents do so
after about one result in a hundred that is whole (3 of 230 calls of tau-bench's airline agents)."""

_ONE_SIDED_95 = 1.6449
"""The normal quantile of a one-sided bound at 95 %."""


class Edge(NamedTuple):
    """From whom to whom, and through which filter."""

    sender: str
    receiver: str
    filter: str
    """Its name with its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What a filter did, in tokens unless it says otherwise. Balances add up."""

    deliveries: int = 0
    """Texts that it shortened."""
    sent: int = 0
    """Of these texts, as they were said."""
    delivered: int = 0
    """Of what was delivered in their place, marks included."""
    retrievals: int = 0
    """How often the receiver fetched back what was left out."""
    retrieved: int = 0
    """Of what it fetched."""
    repeats: int = 0
    """How often it made a tool call again whose result was shortened."""
    repeated: int = 0
    """Of what these calls gave."""
    turns: int = 0
    """Of the extra turns that retrievals and repeats took, decoded ones weighted by their cost."""
    lost: int = 0
    """Held in a cache, and of no use any more, since a prefix was changed."""

    @property
    def saved(self) -> int:
        """Tokens that the deliveries were shorter, net of marks."""
        return self.sent - self.delivered

    @property
    def net(self) -> int:
        """Tokens saved in the end; negative if the filter did harm."""
        provoked = self.retrieved + self.repeated + self.turns
        return self.saved - provoked - self.lost

    def __add__(self, other: Balance) -> Balance:
        names = (field.name for field in fields(self))
        return Balance(**{name: getattr(self, name) + getattr(other, name) for name in names})


def harm(balance: Balance) -> str:
    """Say why a filter with this balance does harm; empty if that does not show.

    It does after `FEW` deliveries if nothing was saved in the end; or if receivers make their tool
    calls again more often than is borne, with 95 % confidence (Wilson's lower bound, 1927). A call
    made again may do twice what was to be done once, which tokens do not tell; a retrieval is what
    marks are for, and only its tokens count.
    """
    count = balance.deliveries
    if count < FEW:
        return ""
    if balance.net <= 0:
        return f"after {count:,} deliveries it has saved {balance.net:,} tokens in the end"
    if _at_least(min(balance.repeats, count), count) > REPEATS_BORNE:
        return f"after {count:,} deliveries, {balance.repeats:,} tool calls were made again"
    return ""


def _at_least(hits: int, count: int) -> float:
    """Return the lower bound of a share that `hits` out of `count` were seen of."""
    z = _ONE_SIDED_95
    share = hits / count
    spread = math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    return (share + z * z / count / 2 - z * spread) / (1 + z * z / count)


class Guard:
    """The records of all edges, as events come in. `report_rows` sums them up.

    A filter of which nothing is lost is never demoted: what it wrote is all there, and what agents
    ask for again they would have asked for anyway.

    An edge that is forgotten for room begins anew. So that a crowd of new edges does not turn
    demoted filters on again, each of the two kinds of records has half of the room for its own.

    Args:
        keeps: says by a filter's name that nothing is lost by it.
    """

    __slots__ = ("_demoted", "_edges", "_forgotten", "_keeps", "_on", "_whys")

    def __init__(self, edges: int = EDGES, keeps: Callable[[str], bool] = lambda _: False) -> None:
        if edges < 2:
            raise MisuseError(f"a guard keeps records of 2 edges or more, not {edges}")
        self._edges = edges
        self._keeps = keeps
        self._on: OrderedDict[Edge, Balance] = OrderedDict()
        self._demoted: OrderedDict[Edge, Balance] = OrderedDict()
        self._whys: dict[Edge, str] = {}
        self._forgotten = Balance()

    @property
    def forgotten(self) -> Balance:
        """What the records that were forgotten for room amount to."""
        return self._forgotten

    def why_off(self, edge: Edge) -> str:
        """Say why the filter is off on this edge; empty if it is on."""
        if edge in self._demoted:
            self._demoted.move_to_end(edge)
        return self._whys.get(edge, "")

    def delivered(self, edge: Edge, *, sent: int, delivered: int) -> None:
        """Note a text that was shortened: its tokens, and those of what was delivered instead."""
        self._note(edge, Balance(deliveries=1, sent=sent, delivered=delivered))

    def lost(self, edge: Edge, tokens: int) -> None:
        """Note what a cache held for nothing, since this filter changed a prefix: `Change.lost`."""
        self._note(edge, Balance(lost=tokens))

    def retrieved(self, edge: Edge, tokens: int, *, turn: int) -> None:
        """Note that the receiver fetched so many tokens of what was left out.

        `turn` is what else the extra turn took, as prefilled tokens: `Costs.as_prefilled`.
        """
        self._note(edge, Balance(retrievals=1, retrieved=tokens, turns=turn))

    def repeated(self, edge: Edge, tokens: int, *, turn: int) -> None:
        """Note that the receiver made a tool call again, which gave so many tokens.

        `turn` is as in `retrieved`. `find_repeats` finds such calls.
        """
        self._note(edge, Balance(repeats=1, repeated=tokens, turns=turn))

    def balances(self) -> dict[Edge, tuple[Balance, str]]:
        """Return each edge's balance, and why the filter is off there, if it is."""
        return {
            edge: (balance, self._whys.get(edge, ""))
            for records in (self._on, self._demoted)
            for edge, balance in records.items()
        }

    def _note(self, edge: Edge, what: Balance) -> None:
        if any(getattr(what, field.name) < 0 for field in fields(what)):
            raise MisuseError(f"tokens are 0 or more: {what}")
        demoted = self._demoted.pop(edge, None)
        if demoted is not None:
            self._demoted[edge] = demoted + what
            return
        balance = self._on.pop(edge, Balance()) + what
        why = "" if self._keeps(edge.filter) else harm(balance)
        if why:
            self._whys[edge] = why
        (self._demoted if why else self._on)[edge] = balance
        self._make_room()

    def _make_room(self) -> None:
        while len(self._on) + len(self._demoted) > self._edges:
            crowd = self._demoted if len(self._demoted) > self._edges // 2 else self._on
            edge, balance = crowd.popitem(last=False)
            self._whys.pop(edge, None)
            self._forgotten += balance

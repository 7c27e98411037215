"""What the guard is told: each delivery, and what its receiver does that speaks against it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from ..context import CONTEXT_TOOL_NAMES, Context, Segment, SegmentKind
from ..context.ledger import Given, Receipt
from .guard import Edge, Guard
from .mask import MASK
from .repeats import find_repeats
from .worth import Costs

__all__ = ["Watch"]

_LOOKED_BACK = 64
"""Segments before a tool call among which an equal one is looked for."""
_REFERENCE = re.compile(r"ctx:([0-9a-f]{8,64})")
_HEAD = 200
"""Characters in which an answer of the context's tool names what it is from."""


class Watch:
    """Watches what is delivered to one model, and keeps the guard's records."""

    def __init__(self, guard: Guard, count: Callable[[str], int]) -> None:
        self.guard = guard
        self.costs = Costs()
        """What tokens cost the engine, as far as it was measured."""
        self._count = count

    def is_off(self, sender: str, reader: str, name: str) -> bool:
        """Say whether a filter was found to do harm from a sender to a reader."""
        return bool(self.guard.why_off(Edge(sender, reader, name)))

    def delivered(self, given: Given) -> None:
        """Note what was decided on the last segment, when it is first delivered."""
        receipt = given.receipt
        if receipt is not None and receipt.decision.text is not None:
            sent, delivered = receipt.decision.sent_tokens, receipt.decision.delivered_tokens
            self.guard.delivered(_edge(receipt), sent=sent, delivered=delivered)

    def lost(self, given: Given, tokens: int) -> None:
        """Note what a cache holds for nothing since old results were masked, on the latest's edge."""
        masked = (receipt for receipt in given.receipts() if receipt.decision.filters == MASK)
        receipt = next(masked, None)
        if receipt is not None:
            self.guard.lost(_edge(receipt), tokens)

    def said(self, node: Context, before: Given) -> None:
        """Look at the last segment of a context; `before` is what was given of all before it."""
        segment = node.last
        if segment is None:
            return
        if segment.kind is SegmentKind.TOOL_RESULT and segment.author in CONTEXT_TOOL_NAMES:
            self._retrieved(segment, before)
        elif segment.kind is SegmentKind.TOOL_CALL:
            self._repeated(segment, node, before)

    def _retrieved(self, answer: Segment, before: Given) -> None:
        named = _REFERENCE.search(answer.text[:_HEAD])
        if named is None:
            return
        for receipt in before.receipts():
            if receipt.digest.hex().startswith(named[1]):
                if receipt.decision.text is not None:
                    tokens = self._count(answer.text)
                    self.guard.retrieved(_edge(receipt), tokens, turn=self._turn(""))
                return

    def _repeated(self, call: Segment, node: Context, before: Given) -> None:
        nodes = list(islice(node.ancestors(), _LOOKED_BACK))
        segments = [one.last for one in reversed(nodes) if one.last is not None]
        receipts = [one.receipt for one in islice(before.chain(), len(segments) - 1)]
        receipts.reverse()
        shortened = {
            place: receipt
            for place, receipt in enumerate(receipts)
            if receipt is not None and receipt.decision.text is not None
        }
        for repeat in find_repeats(segments, shortened, start=len(segments) - 1):
            receipt = shortened[repeat.result]
            tokens = receipt.decision.delivered_tokens
            self.guard.repeated(_edge(receipt), tokens, turn=self._turn(call.text))

    def _turn(self, call: str) -> int:
        """Return what a call of a tool costs beside its result, as prefilled tokens."""
        return self.costs.as_prefilled(decoded=self._count(call) if call else 0)


def _edge(receipt: Receipt) -> Edge:
    return Edge(receipt.sender, receipt.reader, receipt.decision.filters)

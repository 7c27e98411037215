"""When a prompt is begun anew: old tools' results give way to marks, where that pays.

All that was delivered before the first of them stays. What comes behind is decided again, since it
is read again, and may not refer to what is left out. The new prompt then only grows, as the old did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ..context import Context, SegmentKind, reference
from ..context.ledger import Decision, Given
from .choose import Count
from .mask import KEPT_RESULTS, MASK, Masking, Standing, mask_results
from .plan import MASKING, Plan, use_for
from .worth import Costs, Outlook, weigh

__all__ = ["Epoch", "Epochs"]

_MARKUP = 8
"""Tokens that a chat template puts around a turn, about."""
_COUNTED = 4096
"""Texts whose tokens are remembered."""
_CONVERSATIONS = 4096
"""Conversations of which it is remembered what was missed so far."""


class Epoch(NamedTuple):
    """A new beginning of what is delivered."""

    decisions: dict[int, Decision]
    """What is delivered in the place of segments, by their places in the context."""
    lost_tokens: int
    """Of the old prompt, computed and of no use any more."""


class Epochs:
    """Decides for one model.

    Args:
        count: tokens of a text, by the model's tokenizer.
        must_stay: whether the text of a result has what is never left out, such as an error.
    """

    def __init__(self, count: Count, must_stay: Callable[[str], bool]) -> None:
        self._count = count
        self._must_stay = must_stay
        self._tokens: OrderedDict[bytes, int] = OrderedDict()
        self._missed: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()

    def begin(
        self,
        context: Context,
        given: Given,
        plan: Plan,
        *,
        held: int,
        costs: Costs,
        outlook: Outlook,
        talk: tuple[bytes, bytes],
    ) -> Epoch | None:
        """Return a new epoch of a context; None if none is to begin.

        Args:
            given: what the model would be given as it is.
            held: how many of the first segments the model was given before.
            talk: names the conversation, of which is remembered what its calls missed so far.
        """
        pieces = self._pieces(context, given, plan)
        if sum(piece.segment is not None and not piece.masked for piece in pieces) <= KEPT_RESULTS:
            return None
        nodes = list(context.ancestors())[-2::-1]
        known = dict(zip((node.last for node in nodes), nodes, strict=True))
        missed = self._missed.get(talk, 0.0)
        masking = mask_results(
            pieces,
            sum(piece.tokens + piece.markup for piece in pieces[:held]),
            refer=lambda segment: reference(segment, known[segment]),
            must_stay=self._must_stay,
            count=self._count,
            weigh=lambda change: weigh(change, costs, replace(outlook, missed=missed)),
        )
        self._missed[talk] = masking.worth.missed
        if len(self._missed) > _CONVERSATIONS:
            self._missed.popitem(last=False)
        return self._epoch(masking, pieces) if masking.marks else None

    def _pieces(self, context: Context, given: Given, plan: Plan) -> list[Standing]:
        """Return what the model is given, segment by segment."""
        pieces: list[Standing] = []
        for segment, node in zip(reversed(context.segments()), given.chain(), strict=False):
            last = node.context.last
            tokens = self._tokens_of(last.digest, last.text) if last is not None else 0
            is_result = segment.kind is SegmentKind.TOOL_RESULT
            masks = is_result and MASKING in use_for(plan, segment).use
            masked = node.receipt is not None and node.receipt.decision.filters == MASK
            pieces.append(Standing(tokens, _MARKUP, segment if masks else None, masked))
        pieces.reverse()
        return pieces

    def _tokens_of(self, digest: bytes, text: str) -> int:
        tokens = self._tokens.get(digest)
        if tokens is None:
            tokens = self._tokens[digest] = self._count(text)
            if len(self._tokens) > _COUNTED:
                self._tokens.popitem(last=False)
        return tokens

    def _epoch(self, masking: Masking, pieces: list[Standing]) -> Epoch:
        decisions = {}
        for place, mark in masking.marks.items():
            segment = pieces[place].segment
            lines = segment.text.count("\n") + 1 if segment is not None else 0
            decisions[place] = Decision(
                mark,
                MASK,
                masking.worth.why,
                pieces[place].tokens,
                self._count(mark),
                ((1, lines),),
            )
        return Epoch(decisions, masking.change.again)

"""When a prompt is begun anew: old tools' results give way to marks, where that pays.

All that was delivered before the first of them stays. What comes behind is decided again, since it
is read again, and may not refer to what is left out. The new prompt then only grows, as the old did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from ..context import Context, References, Segment, SegmentKind
from ..context.ledger import Decision, Given
from .choose import Count
from .decide import estimate_tokens
from .mask import KEPT_RESULTS, MASK, Masking, Standing, mask_results
from .plan import MASKING, Rules
from .worth import Change, Costs, Outlook, Worth, weigh

__all__ = ["Epoch", "Epochs"]

T = TypeVar("T")

_MARKUP = 8
"""Tokens that a chat template puts around a turn, about."""
_REMEMBERED = 1 << 16
"""Texts of which is remembered what was found, which takes a few hundred bytes each."""
_MORE = 1.5
"""So many times what was in vain, an epoch must be taken to save to be tried again."""
_CONVERSATIONS = 4096
"""Conversations of which it is remembered what was missed so far."""


class Epoch(NamedTuple):
    """A new beginning of what is delivered."""

    decisions: dict[int, Decision]
    """What is delivered in the place of segments, by their places in the context."""
    stood: dict[int, int]
    """How many tokens stood there."""
    change: Change
    """What it was taken to change."""
    weigh: Callable[[Change], Worth]
    talk: bytes
    """Names the conversation."""


class Epochs:
    """Decides for one model.

    Args:
        count: tokens of a text, by the model's tokenizer.
        must_stay: whether the text of a result has what is never left out, such as an error.
        is_off: whether masks are off for a sender's results. They are delivered even so where a
            prompt would not fit in the window.
    """

    def __init__(
        self, count: Count, must_stay: Callable[[str], bool], is_off: Callable[[str], bool]
    ) -> None:
        self._count = count
        self._must_stay = must_stay
        self._is_off = is_off
        self._tokens = _Memo[int](_REMEMBERED)
        self._stays = _Memo[bool](_REMEMBERED)
        self._references = References()
        self._refs = _Memo[str](_REMEMBERED)
        self._missed = _Memo[float](_CONVERSATIONS)
        self._in_vain = _Memo[int](_CONVERSATIONS)
        """What an epoch was taken to save that did not."""

    def begin(
        self,
        context: Context,
        given: Given,
        rules: Rules,
        *,
        held: int,
        costs: Costs,
        outlook: Outlook,
    ) -> Epoch | None:
        """Return a new epoch of a context; None if none is to begin.

        Args:
            given: what the model would be given as it is.
            held: how many of the first segments the model was given before.
        """
        nodes = list(context.ancestors())[-2::-1]
        before = list(given.chain())[-2::-1]
        pieces = self._pieces(nodes, before, rules, outlook.room)
        if sum(piece.segment is not None and not piece.masked for piece in pieces) <= KEPT_RESULTS:
            return None
        known = {node.last: node for node in reversed(nodes)}  # where each was said first
        talk = _begun(nodes).root + rules.view
        missed = self._missed.get(talk, lambda: 0.0)

        def worth(change: Change) -> Worth:
            return weigh(change, costs, replace(outlook, missed=missed))

        masking = mask_results(
            pieces,
            sum(piece.tokens + piece.markup for piece in pieces[:held]),
            refer=lambda result: self._refs.get(
                known[result].root, lambda: self._references.of(known[result])
            ),
            must_stay=lambda result: self._stays.get(
                result.digest, lambda: self._must_stay(result.text)
            ),
            count=lambda mark: self._tokens.get(mark, lambda: self._count(mark)),
            weigh=worth,
        )
        if not masking.marks:
            self._missed.put(talk, masking.worth.missed)
            return None
        if masking.change.saved < _MORE * self._in_vain.get(talk, lambda: 0):
            return None
        decisions, stood = self._decisions(masking, pieces, before)
        return Epoch(decisions, stood, masking.change, worth, talk)

    def lost(self, epoch: Epoch, given: Given, anew: Given) -> int | None:
        """Return how many tokens of the old prompt are of no use any more; None if that stays.

        What is left out cannot be referred to: where much was, what comes behind takes more tokens
        than it did. So an epoch is weighed again once it is known.
        """
        first = min(epoch.decisions)
        old, new = (
            sum(
                self._tokens_of(node.last)
                for node in whole.context.ancestors()
                if node.length > first
            )
            for whole in (given, anew)
        )
        change = replace(epoch.change, saved=max(0, old - new))
        worth = epoch.weigh(change)
        self._missed.put(epoch.talk, worth.missed)
        if worth.pays:
            return change.again
        self._in_vain.put(epoch.talk, epoch.change.saved)
        return None

    def _pieces(
        self, nodes: Sequence[Context], before: Sequence[Given], rules: Rules, room: float
    ) -> list[Standing]:
        """Return what the model is given, segment by segment."""
        pieces: list[Standing] = []
        for node, given in zip(nodes, before, strict=True):
            result = node.last if _is_masked(node.last, rules) else None
            masked = given.receipt is not None and given.receipt.decision.filters == MASK
            tokens = self._tokens_of(given.context.last)
            pieces.append(Standing(tokens, _MARKUP, result, masked))
        if sum(piece.tokens + piece.markup for piece in pieces) <= room:
            pieces = [
                replace(piece, segment=None)
                if piece.segment and self._is_off(piece.segment.author)
                else piece
                for piece in pieces
            ]
        return pieces

    def _tokens_of(self, delivered: Segment | None) -> int:
        if delivered is None:
            return 0
        return self._tokens.get(
            delivered.digest, lambda: estimate_tokens(delivered.text, self._count)
        )

    def _decisions(
        self, masking: Masking, pieces: Sequence[Standing], before: Sequence[Given]
    ) -> tuple[dict[int, Decision], dict[int, int]]:
        """Return what is delivered, and what stood there."""
        decisions = {}
        for place, mark in masking.marks.items():
            segment, receipt = pieces[place].segment, before[place].receipt
            lines = segment.text.count("\n") + 1 if segment is not None else 0
            sent = receipt.decision.sent_tokens if receipt is not None else 0
            sent = sent or pieces[place].tokens
            tokens = self._count(mark)
            why = f"{sent - tokens} of {sent} tokens fewer, with all old results at once"
            decisions[place] = Decision(mark, MASK, why, sent, tokens, ((1, lines),))
        return decisions, {place: pieces[place].tokens for place in decisions}


def _begun(nodes: Sequence[Context]) -> Context:
    """Return the context with the first that was said, which tells conversations apart."""
    return next((node for node in nodes if node.last and node.last.is_said), nodes[-1])


def _is_masked(segment: Segment | None, rules: Rules) -> bool:
    """Say whether a rule would have a segment masked."""
    if segment is None or segment.kind is not SegmentKind.TOOL_RESULT:
        return False
    return MASKING in rules.use_for(segment).use


class _Memo(Generic[T]):
    """Remembers what was found; the least recently used makes room."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: OrderedDict[bytes | str, T] = OrderedDict()

    def get(self, key: bytes | str, find: Callable[[], T]) -> T:
        """Return what is known, or find it."""
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key]
        return self.put(key, find())

    def put(self, key: bytes | str, value: T) -> T:
        """Remember."""
        self._found[key] = value
        self._found.move_to_end(key)
        if len(self._found) > self._size:
            self._found.popitem(last=False)
        return value

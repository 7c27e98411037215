"""A context on its way to a model: each segment is filtered once, when it is first delivered.

What is decided on a segment depends on the segment, on what was delivered before it and, for what
leaves something out, on the question behind it, as far as that is there. Nothing that was delivered
is touched again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..context import Context, Segment, SegmentKind
from ..context.earlier import Earlier
from ..context.ledger import Decision, Given, Ledger, Receipt
from .choose import Count
from .decide import Decider, question
from .epoch import Epochs
from .guard import Guard
from .lossy import Lossy
from .mask import MASK
from .plan import FOR_A_QUERY, MASKING, NOTHING, Plan, Use, use_for, view_of, without_query
from .sharing import Sharing, view_for
from .watch import Watch
from .worth import Outlook

__all__ = ["Pipeline"]

_IN_PROMPT = frozenset(
    {
        SegmentKind.DOCUMENT,
        SegmentKind.USER,
        SegmentKind.ASK,
        SegmentKind.MESSAGE,
        SegmentKind.SUMMARY,
        SegmentKind.TOOL_CALL,
        SegmentKind.TOOL_RESULT,
    }
)
"""What all layouts show in the order in which it was said, so that later texts may refer to it."""
_CHARACTERS = 4
"""About so many make a token."""
_WRITTEN = Decision(None, "", "the model has written it")


class Pipeline:
    """Delivers contexts to one model.

    Not thread-safe: contexts that grew out of one another share an index.

    Args:
        count: tokens of a text, by the model's tokenizer.
        ledger: what the model was given so far.
        lossy: returns a filter that leaves something out, by its name and the rule that names it.
        guard: where it is counted what filters do, and said which are off.
        must_stay: whether a text has what is never left out, such as an error.
    """

    def __init__(
        self,
        count: Count,
        ledger: Ledger,
        lossy: Callable[[str, Use], Lossy | None],
        guard: Guard | None = None,
        must_stay: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.watch = Watch(guard or Guard(), count)
        self._ledger = ledger
        self._reader = ""
        self._decider = Decider(count, lossy, self._is_off)
        self._epochs = Epochs(count, must_stay)
        self._sharing = Sharing()
        self.outlook = Outlook()
        """What is known of the calls to come."""
        self.reuses = True
        """The engine holds what it has read."""

    def deliver(self, context: Context, plan: Plan, reader: str) -> Given:
        """Return a context as the model of `reader` is given it.

        Takes time linear in what was not delivered before.
        """
        view = view_of(plan)
        self._reader = reader
        given, new = self._known(context, view)
        held = given.context.length
        for place, node in enumerate(new):
            self.watch.said(node, given)
            use = use_for(plan, node.last) if node.last else NOTHING
            if FOR_A_QUERY in use.use:
                given = self._for_a_query(node, use, new[place + 1 :], view, given)
            else:
                given = self._once(node, use, "", view, given)
        if new and any(MASKING in use.use for use in plan):
            given = self._masked(context, given, plan, held)
        return given

    def _once(self, node: Context, use: Use, query: str, view: bytes, given: Given) -> Given:
        """Return what is given once a context's last segment is, which may be decided already."""
        known = self._ledger.given(node.root, view)
        if known is not None and known.parent is given:
            return known
        decision = known.receipt.decision if known and known.receipt else None
        decision = decision or self._ledger.decided(node.root, view)
        if decision is None:
            decision = self._decider.decide(node, use, query, given.earlier)
        return self._append(given, node, view, decision)

    def _for_a_query(
        self, node: Context, use: Use, later: Sequence[Context], view: bytes, given: Given
    ) -> Given:
        """As `_once`, of a text that may be shortened for a query, or else is the same for all."""
        query = question(node, later)
        own = view_for(view, query)
        if self._ledger.given(node.root, own) or self._ledger.decided(node.root, own):
            return self._once(node, use, query, own, given)
        decision = self._decider.decide(node, use, query, given.earlier)
        if decision.left_out and decision.filters.startswith(FOR_A_QUERY):
            before = sum(len(text.text) for text in given.context.segments()) // _CHARACTERS
            place = node.root + view
            whole = self._decider.decide(node, without_query(use), query, given.earlier)
            tokens = whole.delivered_tokens or decision.sent_tokens
            if self._sharing.is_cheaper(place, own, decision, tokens, before, self.watch.costs):
                return self._append(given, node, own, whole)
        return self._append(given, node, own, decision)

    def _masked(self, context: Context, given: Given, plan: Plan, held: int) -> Given:
        """Return what is given from a new epoch on, if one begins; else what is given."""
        nodes = list(context.ancestors())[-2::-1]
        view = view_of(plan)
        epoch = self._epochs.begin(
            context,
            given,
            plan,
            held=held if self.reuses else 0,
            costs=self.watch.costs,
            outlook=self.outlook,
            talk=(nodes[0].root, view),
        )
        if epoch is None:
            return given
        first = min(epoch.decisions)
        before = list(given.chain())[-2::-1]
        given = before[first].parent or given
        for place, node in enumerate(nodes[first:], first):
            if node.last is None:
                continue
            decision = epoch.decisions.get(place) or _mask(before[place])
            if decision is None:
                use = use_for(plan, node.last)
                query = question(node, nodes[place + 1 :])
                decision = self._decider.decide(node, use, query, given.earlier)
            given = _after(given, node.last, decision, self._reader)
            if place in epoch.decisions:
                self.watch.delivered(given)
        self.watch.lost(given, epoch.lost_tokens)
        self._ledger.begin(context.root, view, given)
        return given

    def pending(self, context: Context, plan: Plan) -> int:
        """Return how many characters of a context were not delivered yet."""
        _, new = self._known(context, view_of(plan))
        return sum(len(node.last.text) for node in new if node.last is not None)

    def written_here(self, asked: Context, answered: Context, plan: Plan, reader: str) -> None:
        """Note that the model has written what one context has beyond another that it was given."""
        view = view_of(plan)
        given = self.deliver(asked, plan, reader)
        written = [node for node in answered.ancestors() if node.length > asked.length]
        for node in reversed(written):
            self.watch.said(node, given)
            given = self._append(given, node, view, _WRITTEN)

    def _known(self, context: Context, view: bytes) -> tuple[Given, list[Context]]:
        """Return what was given of a context's longest such beginning, and the contexts after it."""
        new: list[Context] = []
        given = None
        for node in context.ancestors():
            given = self._ledger.given(node.root, view)
            if given is not None or node.last is None:
                break
            new.append(node)
        new.reverse()
        return given or Given(context.tenant.empty(), Earlier()), new

    def _append(self, given: Given, node: Context, view: bytes, decision: Decision) -> Given:
        if node.last is None:
            return given
        after = _after(given, node.last, decision, self._reader)
        self.watch.delivered(after)
        self._ledger.keep(node.root, view, after, decision)
        return after

    def _is_off(self, sender: str, name: str) -> bool:
        return self.watch.is_off(sender, self._reader, name)


def _mask(given: Given) -> Decision | None:
    """Return what was decided on a segment if it is a mask, which stays."""
    receipt = given.receipt
    return receipt.decision if receipt and receipt.decision.filters == MASK else None


def _after(given: Given, segment: Segment, decision: Decision, reader: str) -> Given:
    """Return what is given once a segment is delivered as was decided."""
    changed = decision.text is not None
    delivered = _with_text(given.context, segment, decision.text) if changed else segment
    earlier = given.earlier
    if segment.kind in _IN_PROMPT:
        earlier = earlier.given(delivered.text)
    saved = decision.sent_tokens - decision.delivered_tokens
    return Given(
        given.context.append(delivered),
        earlier,
        given,
        Receipt(segment.kind, segment.author, reader, segment.digest, decision),
        given.saved_tokens + saved,
        given.left_out_tokens + (saved if decision.left_out else 0),
    )


def _with_text(context: Context, segment: Segment, text: str | None) -> Segment:
    return context.tenant.segment(segment.kind, segment.author, text or "", refers=segment.refers)

"""A context on its way to a model: each segment is filtered once, when it is first delivered.

What is decided on a segment depends on the segment, on what was delivered before it and, for what
leaves something out, on the question behind it, as far as that is there. Nothing that was delivered
is touched again.
"""

from __future__ import annotations

from collections.abc import Callable

from ..context import Context, Segment, SegmentKind
from .choose import Count
from .decide import Decider
from .earlier import Earlier
from .epoch import Epochs
from .guard import Guard
from .ledger import Decision, Given, Ledger, Receipt
from .lossy import Lossy
from .mask import MASK
from .plan import MASKING, NOTHING, Plan, Use, use_for, view_of
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
            decision = self._ledger.decided(node.root, view)
            if decision is None:
                use = use_for(plan, node.last) if node.last else NOTHING
                decision = self._decider.decide(node, use, new[place + 1 :], given.earlier)
            given = self._append(given, node, view, decision)
        if new and any(MASKING in use.use for use in plan):
            given = self._masked(context, given, plan, held)
        return given

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
                decision = self._decider.decide(node, use, nodes[place + 1 :], given.earlier)
            given = _after(given, node.last, decision, self._reader)
            if place in epoch.decisions and given.receipt is not None:
                self.watch.delivered(given.receipt)
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
        if after.receipt is not None:
            self.watch.delivered(after.receipt)
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
        Receipt(segment.kind, segment.author, reader, segment.digest, decision)
        if decision.sent_tokens
        else None,
        given.saved_tokens + saved,
        given.left_out_tokens + (saved if decision.left_out else 0),
    )


def _with_text(context: Context, segment: Segment, text: str | None) -> Segment:
    return context.tenant.segment(segment.kind, segment.author, text or "", refers=segment.refers)

"""A context on its way to a model: each segment is filtered once, when it is first delivered.

What is decided on a segment depends on the segment, on what was delivered before it and, for what
leaves something out, on the question behind it, as far as that is there. Nothing that was delivered
is touched again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from ..context import Context, Segment, SegmentKind
from ..context.earlier import ANY_MARK, Earlier
from ..context.ledger import Decision, Given, Ledger, Receipt
from .asked import NOT_ASKED, asked_about, is_settling
from .choose import Count
from .decide import Decider
from .epoch import Epochs
from .guard import Guard
from .lossy import Lossy
from .mask import MASK
from .plan import FOR_A_QUERY, NOTHING, Plan, Rules, Use, without_query
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
_EACH = 64
"""Characters that take about as long as a segment that has none."""
_PLANS = 64
"""Plans that are remembered, the latest used."""
_REMEMBERED = 1 << 16
"""Segments of which is remembered that they were delivered; each takes about 150 bytes."""
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
        self._reader = self._salt = ""
        self._decider = Decider(count, lossy, self._is_off)
        self._epochs = Epochs(count, must_stay, lambda sender: self._is_off(sender, MASK))
        self._sharing = Sharing()
        self._rules: dict[tuple[Plan, str], Rules] = {}
        self.outlook = Outlook()
        """What is known of the calls to come."""
        self._told: OrderedDict[bytes, bool] = OrderedDict()
        """What was delivered once under a view, and whether the model has written it: remembered for
        longer than the ledger has room for what was given."""
        self.reuses = True
        """The engine holds what it has read."""

    def deliver(self, context: Context, plan: Plan, reader: str, salt: str = "") -> Given:
        """Return a context as the model of `reader` is given it, in calls of that salt.

        Takes time linear in what was not delivered before.
        """
        rules = self._rules_of(plan, salt)
        view = rules.view
        self._reader, self._salt = reader, salt
        given, new = self._known(context, view)
        held = given.context.length
        asked = asked_about(new) if rules.asks else []
        for place, node in enumerate(new):
            is_new = node.root + view not in self._told
            if is_new:
                self.watch.said(node, given)
            use = rules.use_for(node.last) if node.last else NOTHING
            about = asked[place] if FOR_A_QUERY in use.use else NOT_ASKED
            if about.is_settled and is_new:
                given = self._for_a_query(node, use, about.query, view, given)
            else:
                given = self._once(node, use, about.before, view, given)
        if new and rules.masks:
            given = self._masked(context, given, rules, held)
        return given

    def _once(self, node: Context, use: Use, query: str, view: bytes, given: Given) -> Given:
        """Return what is given once a context's last segment is, which may be decided already."""
        known = self._ledger.given(node.root, view)
        if known is not None and known.parent is given:
            return known
        decision = self._ledger.decided(node.root, view, given)
        if decision is None and self._told.get(node.root + view):
            decision = _WRITTEN
        if decision is None:
            decision = self._decider.decide(node, use, query, given.earlier, self._salt)
        return self._append(given, node, view, decision)

    def _for_a_query(self, node: Context, use: Use, query: str, view: bytes, given: Given) -> Given:
        """As `_once`, of a text that may be shortened for a query, or else is the same for all.

        So is one that was delivered before it was known what would be asked.
        """
        own = view_for(view, query)
        if self._ledger.given(node.root, own) or self._ledger.decided(node.root, own, given):
            return self._once(node, use, query, own, given)
        if self._ledger.decided(node.root, view, given):
            return self._once(node, use, "", view, given)
        decision = self._decider.decide(node, use, query, given.earlier, self._salt)
        if decision.left_out and decision.filters.startswith(FOR_A_QUERY):
            before = sum(len(text.text) for text in given.context.segments()) // _CHARACTERS
            place = node.root + view
            whole = self._decider.decide(node, without_query(use), query, given.earlier, self._salt)
            tokens = whole.delivered_tokens or decision.sent_tokens
            if self._sharing.is_cheaper(place, own, decision, tokens, before, self.watch.costs):
                return self._append(given, node, view, whole)
        return self._append(given, node, own, decision)

    def _masked(self, context: Context, given: Given, rules: Rules, held: int) -> Given:
        """Return what is given from a new epoch on, if one begins; else what is given."""
        nodes = list(context.ancestors())[-2::-1]
        epoch = self._epochs.begin(
            context,
            given,
            rules,
            held=held if self.reuses else 0,
            costs=self.watch.costs,
            outlook=self.outlook,
        )
        if epoch is None:
            return given
        anew = self._anew(nodes, given, epoch.decisions, rules)
        lost = self._epochs.lost(epoch, given, anew)
        if lost is None:
            return given
        for place, node in enumerate(list(anew.chain())[-2::-1]):
            if place in epoch.decisions:
                self.watch.delivered(node, epoch.stood[place])
        self.watch.lost(anew, lost)
        self._ledger.begin(context.root, rules.view, anew)
        return anew

    def _anew(
        self,
        nodes: Sequence[Context],
        given: Given,
        decisions: Mapping[int, Decision],
        rules: Rules,
    ) -> Given:
        """Return what is given with other decisions, and with all behind them decided anew."""
        first = min(decisions)
        before = list(given.chain())[-2::-1]
        given = before[first].parent or given
        asked = asked_about(nodes[first:]) if rules.asks else []
        for place, node in enumerate(nodes[first:], first):
            if node.last is None:
                continue
            decision = decisions.get(place) or _stays(before[place])
            if decision is None:
                use = rules.use_for(node.last)
                about = asked[place - first] if FOR_A_QUERY in use.use else NOT_ASKED
                decision = self._decider.decide(node, use, about.query, given.earlier, self._salt)
            given = _after(given, node.last, decision, self._reader)
        return given

    def settled(self, context: Context, plan: Plan, salt: str = "") -> Context:
        """Return the longest beginning of a context that is delivered the same whatever is asked next."""
        rules = self._rules_of(plan, salt)
        if not rules.asks:
            return context
        settled = context
        for node in context.ancestors():
            if node.last is None or is_settling(node) or self._ledger.given(node.root, rules.view):
                break
            if FOR_A_QUERY in rules.use_for(node.last).use and node.parent is not None:
                settled = node.parent
        return settled

    def pending(self, context: Context, plan: Plan, salt: str = "") -> int:
        """Return how many characters of a context it may take to deliver it, at most.

        However short a segment is, it counts as so many as take that time.
        """
        rules = self._rules_of(plan, salt)
        _, new = self._known(context, rules.view)
        if new and rules.masks:
            new = list(context.ancestors())
        return sum(_EACH + len(node.last.text) for node in new if node.last is not None)

    def written_here(
        self, asked: Context, plan: Plan, reader: str, answered: Context, salt: str = ""
    ) -> None:
        """Note that the model has written what a context has beyond one that it was given."""
        view = self._rules_of(plan, salt).view
        given = self.deliver(asked, plan, reader, salt)
        written = [node for node in answered.ancestors() if node.length > asked.length]
        for node in reversed(written):
            self.watch.said(node, given)
            given = self._append(given, node, view, _WRITTEN)

    def _rules_of(self, plan: Plan, salt: str) -> Rules:
        rules = self._rules.pop((plan, salt), None) or Rules(plan, salt)
        self._rules[plan, salt] = rules
        if len(self._rules) > _PLANS:
            del self._rules[next(iter(self._rules))]
        return rules

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
        if node.root + view not in self._told:
            self.watch.delivered(after)
            self._told[node.root + view] = decision == _WRITTEN
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        self._ledger.keep(node.root, view, after, decision)
        return after

    def _is_off(self, sender: str, name: str) -> bool:
        return self.watch.is_off(sender, self._reader, name)


def _stays(given: Given) -> Decision | None:
    """Return what was decided on a segment if that stays: a mask, or what the model has written."""
    decision = given.receipt.decision if given.receipt else _WRITTEN
    return decision if decision.filters == MASK or decision == _WRITTEN else None


def _after(given: Given, segment: Segment, decision: Decision, reader: str) -> Given:
    """Return what is given once a segment is delivered as was decided."""
    changed = decision.text is not None
    delivered = _with_text(given.context, segment, decision.text) if changed else segment
    earlier = given.earlier
    if segment.kind in _IN_PROMPT:
        earlier = earlier.given(_as_read(delivered))
    saved = decision.sent_tokens - decision.delivered_tokens
    return Given(
        given.context.append(delivered),
        earlier,
        given,
        Receipt(segment.kind, segment.author, reader, segment.digest, decision),
        given.saved_tokens + saved,
        given.left_out_tokens + (saved if decision.left_out else 0),
    )


def _as_read(segment: Segment) -> str:
    """Return a text as its reader has it, whatever the layout.

    Where a turn names its author, layouts leave one blank before the text: nothing is to refer to a
    first line that begins with more.
    """
    text = segment.text
    if segment.kind is SegmentKind.TOOL_RESULT or not text.startswith("  "):
        return text
    _, end, rest = text.partition("\n")
    return f"{ANY_MARK}{end}{rest}"


def _with_text(context: Context, segment: Segment, text: str | None) -> Segment:
    return context.tenant.segment(segment.kind, segment.author, text or "", refers=segment.refers)

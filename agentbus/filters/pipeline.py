"""A context on its way to a model: each segment is filtered once, when it is first delivered.

What is decided on a segment depends on the segment, on what was delivered before it and, for what
leaves something out, on the question behind it, as far as that is there. Nothing that was delivered
is touched again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..context import Context, Segment, SegmentKind
from .base import Form
from .choose import JOINT, Count, Delivered, Reference, Ways
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .ledger import Decision, Given, Ledger, Receipt
from .lossy import Lossy, Shortened
from .plan import LOSSY, NOTHING, STRIP, Plan, Use, use_for, view_of

__all__ = ["FORMS", "REFERENCES", "Pipeline"]

FORMS: Final[Mapping[str, tuple[Form, ...]]] = {
    "json": (CompactJSON(), PlainJSON(), PlainJSONLines()),
    "fold": (Fold(),),
}
"""Forms of a text alone, by the filters that bring them."""
REFERENCES: Final[Mapping[str, Reference]] = {"dedupe": Dedupe(), "diff": Diff()}
"""Forms that refer to what was delivered before, likewise."""
_MEMO = 1024
"""Texts whose forms are remembered."""
_MEMO_TEXT = 16_384
"""Characters of the longest of them."""
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
_QUESTIONS = (SegmentKind.ASK, SegmentKind.USER)
_AS_IT_IS = Decision(None, "", "no filter is for it")


class Pipeline:
    """Delivers contexts to one model.

    Not thread-safe: contexts that grew out of one another share an index.

    Args:
        count: tokens of a text, by the model's tokenizer.
        ledger: what the model was given so far.
        lossy: returns a filter that leaves something out, by its name and the rule that names it.
    """

    def __init__(
        self, count: Count, ledger: Ledger, lossy: Callable[[str, Use], Lossy | None]
    ) -> None:
        self._count = count
        self._ledger = ledger
        self._lossy = lossy
        self._memo: OrderedDict[tuple[bytes, tuple[str, ...]], Ways] = OrderedDict()

    def deliver(self, context: Context, plan: Plan, reader: str) -> Given:
        """Return a context as the model of `reader` is given it.

        Takes time linear in what was not delivered before.
        """
        view = view_of(plan)
        given, new = self._known(context, view)
        for place, node in enumerate(new):
            decision = self._ledger.decided(node.root, view)
            if decision is None:
                decision = self._decide(node, plan, new[place + 1 :], given.earlier)
            given = self._append(given, node, view, decision, reader)
        return given

    def pending(self, context: Context, plan: Plan) -> int:
        """Return how many characters of a context were not delivered yet."""
        _, new = self._known(context, view_of(plan))
        return sum(len(node.last.text) for node in new if node.last is not None)

    def written_here(self, asked: Context, answered: Context, plan: Plan, reader: str) -> None:
        """Note that the model has written what one context has beyond another that it was given."""
        view = view_of(plan)
        given = self.deliver(asked, plan, reader)
        decision = Decision(None, "", "the model has written it")
        written = [node for node in answered.ancestors() if node.length > asked.length]
        for node in reversed(written):
            given = self._append(given, node, view, decision, reader)

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

    def _append(
        self, given: Given, node: Context, view: bytes, decision: Decision, reader: str
    ) -> Given:
        segment = node.last
        if segment is None:
            return given
        after = _after(given, segment, decision, reader)
        self._ledger.keep(node.root, view, after, decision)
        return after

    def _decide(
        self, node: Context, plan: Plan, later: Sequence[Context], earlier: Earlier
    ) -> Decision:
        """Decide what is delivered of a context's last segment."""
        segment = node.last
        use = NOTHING if segment is None else use_for(plan, segment)
        if segment is None or not use.use:
            return _AS_IT_IS
        best = self._without_loss(segment, use, earlier)
        query = _question(node, later) if LOSSY.intersection(use.use) else ""
        for name in use.use:
            lossy = self._lossy(name, use) if name in LOSSY else None
            found = lossy and lossy.shorten(
                segment.text, ref=_ref(segment), query=query, count=self._count
            )
            if lossy and found:
                best = self._fewer(best, segment, found, lossy.name)
        return best

    def _fewer(self, best: Decision, segment: Segment, found: Shortened, name: str) -> Decision:
        """Return what takes fewer tokens: what was decided, or what a lossy filter has left."""
        sent = best.sent_tokens or self._count(segment.text)
        tokens = self._count(found.text)
        if tokens >= (best.delivered_tokens or sent):
            return best
        return Decision(found.text, name, _why(sent, tokens), sent, tokens, found.left_out)

    def _without_loss(self, segment: Segment, use: Use, earlier: Earlier) -> Decision:
        """Decide which forms a text is delivered in, stripped first where that is to be done."""
        strip = self._lossy(STRIP, use) if STRIP in use.use else None
        stripped = strip and strip.shorten(
            segment.text, ref=_ref(segment), query="", count=self._count
        )
        text = stripped.text if stripped else segment.text
        references = [REFERENCES[name] for name in use.use if name in REFERENCES]
        ways = self._ways(segment.digest, text, use)
        best = ways.shortest_after(references, earlier)
        if strip and stripped:
            best = best or ways.shortest()
            form = JOINT.join(filter(None, (strip.name, best.form)))
            best = Delivered(best.text, form, self._count(segment.text), best.delivered_tokens)
        if best is None:
            return Decision(None, "", "no filter is for such a text")
        sent, tokens = best.sent_tokens, best.delivered_tokens
        if not best.form:
            return Decision(None, "", "no filter makes it shorter", sent, sent)
        left_out = stripped.left_out if stripped else ()
        return Decision(best.text, best.form, _why(sent, tokens), sent, tokens, left_out)

    def _ways(self, digest: bytes, text: str, use: Use) -> Ways:
        """Return the ways to write a text that need nothing else; many contexts may ask for them."""
        key = digest, use.use
        found = self._memo.get(key)
        if found is None:
            forms = [form for name in use.use for form in FORMS.get(name, ())]
            found = Ways(text, forms, self._count)
            if len(text) <= _MEMO_TEXT:
                self._memo[key] = found
            if len(self._memo) > _MEMO:
                self._memo.popitem(last=False)
        return found


def _why(sent: int, delivered: int) -> str:
    return f"{sent - delivered} of {sent} tokens fewer"


def _ref(segment: Segment) -> str:
    return f"ctx:{segment.digest.hex()[:8]}"


def _question(node: Context, later: Sequence[Context]) -> str:
    """Return what is asked about a segment: by what follows it directly, else by what came before."""
    for after in later:
        if after.last is None or after.last.kind is SegmentKind.MESSAGE:
            break
        if after.last.kind in _QUESTIONS:
            return after.last.text
    asked = (one.last for one in node.ancestors() if one.last and one.last.kind in _QUESTIONS)
    first = next(asked, None)
    return first.text if first else ""


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

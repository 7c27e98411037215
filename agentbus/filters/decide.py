"""What is delivered in the place of one text: lossless first, then what leaves something out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..context import CONTEXT_TOOL_NAMES, Context, Segment, SegmentKind, reference
from ..context.earlier import Earlier
from ..context.ledger import Decision
from .choose import JOINT, Count, Delivered, Ways
from .lossy import Lossy, Shortened
from .named import FORMS, REFERENCES
from .plan import LOSSY, STRIP, Use

__all__ = ["Decider", "question"]

LARGEST = 1 << 22
"""Characters of the largest text that is delivered in another form: no model reads more."""
_COUNTED = 1 << 20
"""Characters of the largest text whose tokens are counted; of larger ones, those of so many are."""
_MEMO = 1024
"""Texts whose forms are remembered."""
_MEMO_TEXT = 16_384
"""Characters of the longest of them."""
_QUESTIONS = (SegmentKind.ASK, SegmentKind.USER)
_AS_IT_IS = Decision(None, "", "no filter is for it")


class Decider:
    """Decides for one model.

    Args:
        count: tokens of a text, by the model's tokenizer.
        lossy: returns a filter that leaves something out, by its name and the rule that names it.
        is_off: says that a filter, by its name with its version, is off for a sender's texts.
    """

    def __init__(
        self,
        count: Count,
        lossy: Callable[[str, Use], Lossy | None],
        is_off: Callable[[str, str], bool],
    ) -> None:
        self._count = count
        self._lossy = lossy
        self._is_off = is_off
        self._memo: OrderedDict[tuple[bytes, tuple[str, ...]], Ways] = OrderedDict()

    def decide(self, node: Context, use: Use, query: str, earlier: Earlier) -> Decision:
        """Decide on the last segment of a context.

        Args:
            query: what is asked about it; see `question`.
            earlier: what the model was given before.
        """
        segment = node.last
        if segment is None or not use.use or segment.author in CONTEXT_TOOL_NAMES:
            return _AS_IT_IS
        loses = LOSSY.intersection(use.use)
        ref = reference(segment, node) if loses or STRIP in use.use else ""
        best = self._without_loss(segment, use, ref, earlier)
        for name in use.use:
            lossy = self._lossy(name, use) if name in LOSSY else None
            if lossy is None or self._is_off(segment.author, lossy.name):
                continue
            found = lossy.shorten(segment.text, ref=ref, query=query, count=self._count)
            if found is not None:
                shorter = self._fewer(best, segment, found, lossy.name)
                if shorter is not best:
                    return shorter
        return best

    def _fewer(self, best: Decision, segment: Segment, found: Shortened, name: str) -> Decision:
        """Return what takes fewer tokens: what was decided, or what a lossy filter has left."""
        sent = best.sent_tokens or self._about(segment.text)
        tokens = self._count(found.text)
        if tokens >= (best.delivered_tokens or sent):
            return best
        return Decision(found.text, name, _why(sent, tokens), sent, tokens, found.left_out)

    def _about(self, text: str) -> int:
        """Count the tokens of a text; of a very large one, about."""
        if len(text) <= _COUNTED:
            return self._count(text)
        return self._count(text[:_COUNTED]) * len(text) // _COUNTED

    def _without_loss(self, segment: Segment, use: Use, ref: str, earlier: Earlier) -> Decision:
        """Decide which forms a text is delivered in, stripped first where that is to be done."""
        if len(segment.text) > LARGEST:
            return Decision(None, "", "it is too large for other forms")
        strip = self._lossy(STRIP, use) if STRIP in use.use else None
        stripped = strip and strip.shorten(segment.text, ref=ref, query="", count=self._count)
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


def question(node: Context, later: Sequence[Context]) -> str:
    """Return what is asked about a context's last segment: by what follows it directly, else by what came before."""
    for after in later:
        if after.last is None or after.last.kind is SegmentKind.MESSAGE:
            break
        if after.last.kind in _QUESTIONS:
            return after.last.text
    asked = (one.last for one in node.ancestors() if one.last and one.last.kind in _QUESTIONS)
    first = next(asked, None)
    return first.text if first else ""

"""What is delivered in the place of one text: lossless first, then what leaves something out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..context import CONTEXT_TOOL_NAMES, Context, References, Segment
from ..context.earlier import Earlier
from ..context.ledger import Decision
from .choose import JOINT, Count, Ways
from .json_value import flaw
from .lossy import Lossy, Shortened
from .named import FORMS, REFERENCES
from .plan import LOSSY, STRIP, Use

__all__ = ["ESTIMATED", "Decider", "estimate_tokens"]

LARGEST = 1 << 22
"""Characters of the largest text that is delivered in another form: no model reads more."""
ESTIMATED = 1 << 20
"""Characters from which on a text's tokens are not counted, but estimated from so many."""
_MEMO = 1024
"""Texts whose forms are remembered."""
_MEMO_TEXT = 16_384
"""Characters of the longest of them."""
_WORTH_A_LOSS = 0.8
"""Share of the tokens that a text takes without loss. A lossy filter has to leave no more."""
_AS_IT_IS = Decision(None, "", "no rule has a filter for it")
_FOR_OTHERS = "no filter is for such a text"


class _Stripped(NamedTuple):
    """What `strip` has left of a text."""

    name: str
    found: Shortened
    ref: str
    """What its mark names."""


class _Key(NamedTuple):
    """What the forms of a text depend on, and for whom they are remembered."""

    digest: bytes
    use: tuple[str, ...]
    ref: str
    salt: str


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
        self._references = References()
        self._memo: OrderedDict[_Key, Ways] = OrderedDict()

    def decide(
        self, node: Context, use: Use, query: str, earlier: Earlier, salt: str = ""
    ) -> Decision:
        """Decide on the last segment of a context.

        Args:
            query: what is asked about it; see `Asked`.
            earlier: what the model was given before.
            salt: what is remembered of a text is so for calls of this salt alone.
        """
        segment = node.last
        if segment is None or not use.use or segment.author in CONTEXT_TOOL_NAMES:
            return _AS_IT_IS
        loses = LOSSY.intersection(use.use)
        ref = self._references.of(node) if loses or STRIP in use.use else ""
        best = self._without_loss(segment, use, ref, earlier, salt)
        told: dict[str, list[str]] = {}
        for lossy in filter(None, (self._lossy(name, use) for name in use.use if name in LOSSY)):
            if self._is_off(segment.author, lossy.name):
                told.setdefault("did harm here, hence off", []).append(lossy.name)
                continue
            found = lossy.shorten(segment.text, ref=ref, query=query, count=self._count)
            shorter = found and self._lossy_decision(best, segment, found, lossy.name)
            if shorter:
                return _also(shorter, told)
            what = "would spare too little to lose something" if found else "left nothing out"
            told.setdefault(what, []).append(lossy.name)
        if told and best.why == _FOR_OTHERS:
            best = replace(best, why="")
        return _also(best, told)

    def _lossy_decision(
        self, best: Decision, segment: Segment, found: Shortened, name: str
    ) -> Decision | None:
        """Return the decision for what a lossy filter has left, if it is worth the loss."""
        sent = best.sent_tokens or estimate_tokens(segment.text, self._count)
        tokens = estimate_tokens(found.text, self._count)
        if tokens > _WORTH_A_LOSS * (best.delivered_tokens or sent):
            return None
        return Decision(found.text, name, _why(sent, tokens), sent, tokens, found.left_out)

    def _without_loss(
        self, segment: Segment, use: Use, ref: str, earlier: Earlier, salt: str
    ) -> Decision:
        """Decide which forms a text is delivered in, stripped first where that is to be done."""
        if len(segment.text) > LARGEST:
            return Decision(None, "", "it is too large for other forms")
        strip = self._lossy(STRIP, use) if STRIP in use.use else None
        found = strip and strip.shorten(segment.text, ref=ref, query="", count=self._count)
        if strip and found:
            stripped = _Stripped(strip.name, found, ref)
            decision = self._in_forms(segment, use, earlier, salt, stripped)
            names = strip.name, decision.filters
            if not any(self._is_off(segment.author, name) for name in names):
                return decision
        return self._in_forms(segment, use, earlier, salt, None)

    def _in_forms(
        self,
        segment: Segment,
        use: Use,
        earlier: Earlier,
        salt: str,
        stripped: _Stripped | None,
    ) -> Decision:
        """Decide which forms a text is delivered in, that may have been stripped."""
        strip, found, ref = stripped or _Stripped("", Shortened(segment.text, ()), "")
        references = [REFERENCES[name] for name in use.use if name in REFERENCES]
        ways = self._ways(_Key(segment.digest, use.use, ref, salt), found.text)
        best = ways.shortest_after(references, earlier)
        if best is None and not stripped:
            bad = flaw(segment.text) if "json" in use.use else ""
            return Decision(None, "", f"{_FOR_OTHERS}: {bad}" if bad else _FOR_OTHERS)
        best = best or ways.shortest()
        form = JOINT.join(filter(None, (strip, best.form)))
        sent = self._count(segment.text) if stripped else best.sent_tokens
        tokens = best.delivered_tokens
        if not form:
            return Decision(None, "", "no filter makes it shorter", sent, sent)
        return Decision(best.text, form, _why(sent, tokens), sent, tokens, found.left_out)

    def _ways(self, key: _Key, text: str) -> Ways:
        """Return the ways to write a text that need nothing else; many contexts may ask for them."""
        found = self._memo.get(key)
        if found is None:
            forms = [form for name in key.use for form in FORMS.get(name, ())]
            found = Ways(text, forms, self._count)
            if len(text) <= _MEMO_TEXT:
                self._memo[key] = found
            if len(self._memo) > _MEMO:
                self._memo.popitem(last=False)
        return found


def _also(decision: Decision, told: Mapping[str, Sequence[str]]) -> Decision:
    """Say of other filters, too, why they did nothing."""
    whys = [f"{' and '.join(names)} {what}" for what, names in told.items()]
    return replace(decision, why="; ".join(filter(None, [decision.why, *whys])))


def estimate_tokens(text: str, count: Count) -> int:
    """Return the tokens of a text; of a very large one (`ESTIMATED`), about how many it has."""
    if len(text) <= ESTIMATED:
        return count(text)
    return count(text[:ESTIMATED]) * len(text) // ESTIMATED


def _why(sent: int, delivered: int) -> str:
    return f"{sent - delivered} of {sent} tokens fewer"

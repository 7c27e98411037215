"""A text behind which several things are asked: a form for each ask, or the whole text for all.

What is left of a text for one ask may leave out what another is about. So each ask gets a form of
its own, which its model reads anew, until that would have cost as much as to read the whole text
once, which all asks to come can share. Nobody need say in advance how many there will be.
"""

from __future__ import annotations

from collections import OrderedDict

from blake3 import blake3

from ..context.ledger import Decision
from .fanout import Receiver, fan_out
from .worth import Costs, Outlook

__all__ = ["Sharing", "view_for"]

_TEXTS = 4096
"""Texts whose forms are remembered, the latest."""


def view_for(view: bytes, query: str) -> bytes:
    """Name a view of a context in which a text was shortened for a query."""
    return view + blake3(query.encode(errors="surrogatepass")).digest(8)


class Sharing:
    """Counts what forms of one text have cost one model."""

    def __init__(self) -> None:
        self._forms: OrderedDict[bytes, dict[bytes, int]] = OrderedDict()

    def is_cheaper(
        self, place: bytes, own: bytes, shortened: Decision, whole: int, before: int, costs: Costs
    ) -> bool:
        """Say whether the whole text, for all from now on, costs no more than one more own form.

        Args:
            place: names the text and all that the model was given before it.
            own: names the view of the receiver in question.
            shortened: what it would get of its own.
            whole: tokens of the whole text.
            before: tokens that stand before the text, about.
        """
        forms = self._forms.setdefault(place, {})
        self._forms.move_to_end(place)
        if len(self._forms) > _TEXTS:
            self._forms.popitem(last=False)
        forms[own] = shortened.delivered_tokens
        receivers = [
            Receiver(prompt=place, before=before, form=form, tokens=tokens)
            for form, tokens in forms.items()
        ]
        return len(forms) > 1 and fan_out(whole, receivers, costs, Outlook()).shared

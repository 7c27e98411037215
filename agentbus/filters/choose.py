"""The one place where it is decided in which form a text is delivered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import FormBroken
from .base import Form

__all__ = ["Delivered", "shortest"]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a receiver is given in the place of a text."""

    text: str
    form: str
    """The form's name; empty where the text is delivered as it is."""
    sent_tokens: int
    """Of the text, as its receiver's tokenizer counts them."""
    delivered_tokens: int


def shortest(text: str, forms: Sequence[Form], count: Callable[[str], int]) -> Delivered:
    """Return a text in the form that takes fewest tokens; as it is, where none takes fewer.

    A form is taken only if reading it back gives the same: what it wrote by mistake is not delivered.

    Args:
        forms: in order of preference, where two take as many tokens.
        count: tokens of a text, by the receiver's tokenizer.
    """
    sent = count(text)
    best = Delivered(text, "", sent, sent)
    for form in forms:
        written = form.write(text)
        if written is None:
            continue
        tokens = count(written)
        if tokens < best.delivered_tokens and _can_be_had_back(form, text, written):
            best = Delivered(written, form.name, sent, tokens)
    return best


def _can_be_had_back(form: Form, text: str, written: str) -> bool:
    try:
        return form.is_same(text, form.read(written))
    except FormBroken:
        return False

"""The one place where it is decided in which form a text is delivered without loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import FormBroken
from .base import Form
from .earlier import Earlier

__all__ = [
    "JOINT",
    "Count",
    "Delivered",
    "Reference",
    "read_back",
    "shortest",
    "shortest_after",
    "written_in",
]

Count = Callable[[str], int]
"""Tokens of a text, by its receiver's tokenizer."""
JOINT = " + "
"""Stands between the names of forms that were applied one after the other."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a receiver is given in the place of a text."""

    text: str
    form: str
    """The form's name; empty where the text is delivered as it is."""
    sent_tokens: int
    """Of the text, as its receiver's tokenizer counts them."""
    delivered_tokens: int


class Reference(Protocol):
    """A form that refers to what its receiver was given before; byte-exact."""

    @property
    def name(self) -> str:
        """As `Form.name`."""
        ...

    def write(self, text: str, earlier: Earlier) -> str | None:
        """As `Form.write`."""
        ...

    def read(self, written: str, earlier: Earlier) -> str:
        """Return the text. Raises `FormBroken` as `Form.read`."""
        ...


def written_in(text: str, forms: Sequence[Form], count: Count) -> list[Delivered]:
    """Return a text as it is, and in each form that is for it and reads back the same.

    Args:
        forms: in order of preference, where two take as many tokens.
        count: tokens of a text, by the receiver's tokenizer.
    """
    sent = count(text)
    found = [Delivered(text, "", sent, sent)]
    for form in forms:
        written = form.write(text)
        if written is not None and _can_be_had_back(form, text, written):
            found.append(Delivered(written, form.name, sent, count(written)))
    return found


def shortest(text: str, forms: Sequence[Form], count: Count) -> Delivered:
    """Return a text in the form that takes fewest tokens; as it is, where none takes fewer.

    A form is taken only if reading it back gives the same: what it wrote by mistake is not
    delivered. The arguments are those of `written_in`.
    """
    return min(written_in(text, forms, count), key=_tokens)


def shortest_after(
    ways: Sequence[Delivered],
    references: Sequence[Reference],
    earlier: Earlier,
    count: Count,
) -> Delivered:
    """Return the shortest of the ways to write a text, with references to what its receiver has.

    Args:
        ways: what `written_in` gave.
        earlier: what the receiver was given before.
    """
    best = min(ways, key=_tokens)
    for way in ways:
        for reference in references:
            written = reference.write(way.text, earlier)
            if written is None:
                continue
            tokens = count(written)
            if tokens < best.delivered_tokens and _is_read(reference, way.text, written, earlier):
                name = JOINT.join(filter(None, (way.form, reference.name)))
                best = Delivered(written, name, way.sent_tokens, tokens)
    return best


def _tokens(way: Delivered) -> int:
    return way.delivered_tokens


def read_back(
    written: str,
    form: str,
    forms: Sequence[Form],
    references: Sequence[Reference],
    earlier: Earlier,
) -> tuple[str, Literal["bytes", "value"]]:
    """Return the text that was delivered, or one of equal value, and which of both it is.

    Args:
        form: name of the form that it was delivered in, or of two; empty for none.

    Raises:
        FormBroken: it is not what these forms write.
    """
    text, exact = written, "bytes"
    known = {form.name: form for form in forms}
    referring = {reference.name: reference for reference in references}
    for name in reversed(form.split(JOINT)) if form else ():
        if name in referring:
            text = referring[name].read(text, earlier)
        elif name in known:
            text, exact = known[name].read(text), known[name].exact
        else:
            raise FormBroken(name, "no such form is known")
    return text, exact  # type: ignore[return-value]


def _can_be_had_back(form: Form, text: str, written: str) -> bool:
    try:
        return form.is_same(text, form.read(written))
    except FormBroken:
        return False


def _is_read(reference: Reference, text: str, written: str, earlier: Earlier) -> bool:
    try:
        return reference.read(written, earlier) == text
    except FormBroken:
        return False

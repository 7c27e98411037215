"""The one place where it is decided in which form a text is delivered without loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ..context.earlier import Earlier
from ..errors import FormBroken
from .base import Form

__all__ = [
    "JOINT",
    "Count",
    "Delivered",
    "Reference",
    "read_back",
    "shortest",
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


class _Way(NamedTuple):
    """A text in one form."""

    text: str
    form: Form | None
    """None where it is the text as it is."""

    @property
    def name(self) -> str:
        return self.form.name if self.form else ""


class Ways:
    """A text as it is, and in each form that is for it.

    Tokens are counted, and forms read back, when that is first asked for, since it takes longer than
    to write.

    Args:
        forms: in order of preference, where two take as many tokens.
        count: tokens of a text, by the receiver's tokenizer.
    """

    __slots__ = ("_count", "_exact", "_text", "_tokens", "_ways")

    def __init__(self, text: str, forms: Sequence[Form], count: Count) -> None:
        self._text = text
        self._count = count
        written = ((form.write(text), form) for form in forms)
        self._ways = [_Way(text, None), *(_Way(t, form) for t, form in written if t is not None)]
        self._tokens: dict[str, int] = {}
        self._exact: dict[str, bool] = {"": True}
        """By form, whether it read back the same."""

    def shortest(self) -> Delivered:
        """Return the way that takes fewest tokens, of those that read back the same."""
        ways = sorted(self._ways, key=lambda way: self._size(way.text))  # of equals, the first
        text, name = next((way.text, way.name) for way in ways if self._can_be_had_back(way))
        return Delivered(text, name, self._size(self._text), self._size(text))

    def shortest_after(self, references: Sequence[Reference], earlier: Earlier) -> Delivered | None:
        """Return the shortest way with references to what the receiver has, where these are shorter.

        None if there is only the text as it is.
        """
        referring = [
            (way, reference, written)
            for way in self._ways
            for reference in references
            if (written := reference.write(way.text, earlier)) is not None
        ]
        if not referring and len(self._ways) == 1:
            return None
        best = self.shortest()
        least = best.delivered_tokens
        shorter: list[tuple[_Way, Reference, str, int]] = []
        for way, reference, written in referring:
            # each character that it leaves out was a token at most
            if self._size(way.text) - (len(way.text) - len(written)) >= least:
                continue
            tokens = self._count(written)
            if tokens < least:
                shorter.append((way, reference, written, tokens))
                least = tokens
        for way, reference, written, tokens in reversed(shorter):
            if self._can_be_had_back(way) and _is_read(reference, way.text, written, earlier):
                name = JOINT.join(filter(None, (way.name, reference.name)))
                return Delivered(written, name, best.sent_tokens, tokens)
        return best

    def _size(self, text: str) -> int:
        found = self._tokens.get(text)
        if found is None:
            found = self._tokens[text] = self._count(text)
        return found

    def _can_be_had_back(self, way: _Way) -> bool:
        found = self._exact.get(way.name)
        if found is None and way.form:
            found = self._exact[way.name] = _is_same(way.form, self._text, way.text)
        return bool(found)


def shortest(text: str, forms: Sequence[Form], count: Count) -> Delivered:
    """Return a text in the form that takes fewest tokens; as it is, where none takes fewer.

    A form is taken only if reading it back gives the same: what it wrote by mistake is not
    delivered. The arguments are those of `Ways`.
    """
    return Ways(text, forms, count).shortest()


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


def _is_same(form: Form, text: str, written: str) -> bool:
    try:
        return form.is_same(text, form.read(written))
    except FormBroken:
        return False


def _is_read(reference: Reference, text: str, written: str, earlier: Earlier) -> bool:
    try:
        return reference.read(written, earlier) == text
    except FormBroken:
        return False

"""The one place where it is decided in which form a text is delivered without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

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


_LITTLE: Final = 0.2
"""Share of a text's characters. Where references leave no more, forms would win next to nothing."""


_FEWER: Final = 0.97
"""Share of the tokens that a form takes of what a form before it takes, or the text as it is, and of
the characters that references leave: models read best what is as they know it."""


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


class _Referring(NamedTuple):
    """A way with references."""

    way: _Way
    reference: Reference
    text: str


class Ways:
    """A text as it is, and in each form that is for it.

    Forms are written and read back, and tokens counted, when that is first asked for.

    Args:
        forms: in order of preference, where two take about as many tokens.
        count: tokens of a text, by the receiver's tokenizer.
    """

    __slots__ = ("_as_it_is", "_count", "_exact", "_forms", "_others", "_tokens")

    def __init__(self, text: str, forms: Sequence[Form], count: Count) -> None:
        self._as_it_is = _Way(text, None)
        self._forms = forms
        self._count = count
        self._others: list[_Way] | None = None
        self._tokens: dict[str, int] = {}
        self._exact: dict[str, bool] = {"": True}
        """By form, whether it read back the same."""

    def shortest(self) -> Delivered:
        """Return the way that takes fewest tokens, of those that read back the same.

        One that is less preferred has to take clearly fewer.
        """
        better = [self._as_it_is]
        for way in self._in_forms():
            if self._size(way.text) <= _FEWER * self._size(better[-1].text):
                better.append(way)
        return self._delivered(next(way for way in reversed(better) if self._can_be_had_back(way)))

    def shortest_after(self, references: Sequence[Reference], earlier: Earlier) -> Delivered | None:
        """Return the shortest way with references to what the receiver has, where these are shorter.

        Of a text that references make much shorter, no form is tried. None if there is only the text
        as it is.
        """
        text = self._as_it_is.text
        referring = list(_referring(self._as_it_is, references, earlier))
        if any(len(found.text) <= _LITTLE * len(text) for found in referring):
            best = self._delivered(self._as_it_is)
        else:
            for way in self._in_forms():
                referring += _referring(way, references, earlier)
            if not referring and not self._in_forms():
                return None
            best = self.shortest()
        return self._shortest_of(referring, earlier, best)

    def _shortest_of(
        self, referring: Sequence[_Referring], earlier: Earlier, best: Delivered
    ) -> Delivered:
        """Return the shortest of ways that refer, if it is shorter than another and reads back."""
        least = best.delivered_tokens
        shorter: list[tuple[_Referring, int]] = []
        for found in referring:
            # each character that it leaves out was a token at most
            if self._size(found.way.text) - (len(found.way.text) - len(found.text)) >= least:
                continue
            tokens = self._count(found.text)
            if tokens < least:
                shorter.append((found, tokens))
                least = tokens
        for found, tokens in reversed(shorter):
            if self._can_be_had_back(found.way) and _is_read(found, earlier):
                name = JOINT.join(filter(None, (found.way.name, found.reference.name)))
                return Delivered(found.text, name, best.sent_tokens, tokens)
        return best

    def _in_forms(self) -> list[_Way]:
        if self._others is None:
            written = ((form.write(self._as_it_is.text), form) for form in self._forms)
            self._others = [_Way(text, form) for text, form in written if text is not None]
        return self._others

    def _delivered(self, way: _Way) -> Delivered:
        sent = self._size(self._as_it_is.text)
        return Delivered(way.text, way.name, sent, self._size(way.text))

    def _size(self, text: str) -> int:
        found = self._tokens.get(text)
        if found is None:
            found = self._tokens[text] = self._count(text)
        return found

    def _can_be_had_back(self, way: _Way) -> bool:
        found = self._exact.get(way.name)
        if found is None and way.form:
            found = self._exact[way.name] = _is_same(way.form, self._as_it_is.text, way.text)
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


def _referring(
    way: _Way, references: Sequence[Reference], earlier: Earlier
) -> Iterator[_Referring]:
    for reference in references:
        written = reference.write(way.text, earlier)
        if written is not None and len(written) <= _FEWER * len(way.text):
            yield _Referring(way, reference, written)


def _is_read(found: _Referring, earlier: Earlier) -> bool:
    try:
        return found.reference.read(found.text, earlier) == found.way.text
    except FormBroken:
        return False

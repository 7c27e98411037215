"""The one place where it is decided in which form a text is delivered without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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


class Ways:
    """A text as it is, and in each form that is for it and reads back the same.

    Tokens are counted when they are first asked for, since that takes longer than to write.

    Args:
        forms: in order of preference, where two take as many tokens.
        count: tokens of a text, by the receiver's tokenizer.
    """

    __slots__ = ("_count", "_tokens", "written")

    def __init__(self, text: str, forms: Sequence[Form], count: Count) -> None:
        self._count = count
        self.written = [(text, ""), *_written_in(text, forms)]
        """Texts, and the names of their forms."""
        self._tokens: dict[str, int] = {}

    def tokens(self, text: str) -> int:
        """Return how many tokens one of the texts takes."""
        found = self._tokens.get(text)
        if found is None:
            found = self._tokens[text] = self._count(text)
        return found

    def shortest(self) -> Delivered:
        """Return the way that takes fewest tokens."""
        sent = self.tokens(self.written[0][0])
        text, form = min(self.written, key=lambda way: self.tokens(way[0]))
        return Delivered(text, form, sent, self.tokens(text))

    def shortest_after(self, references: Sequence[Reference], earlier: Earlier) -> Delivered | None:
        """Return the shortest way with references to what the receiver has, where these are shorter.

        None if there is only the text as it is.
        """
        referring = [
            (text, reference, written, JOINT.join(filter(None, (form, reference.name))))
            for text, form in self.written
            for reference in references
            if (written := reference.write(text, earlier)) is not None
        ]
        if not referring and len(self.written) == 1:
            return None
        best = self.shortest()
        for text, reference, written, form in referring:
            # each character that it leaves out was a token at most
            if self.tokens(text) - (len(text) - len(written)) >= best.delivered_tokens:
                continue
            tokens = self._count(written)
            if tokens < best.delivered_tokens and _is_read(reference, text, written, earlier):
                best = Delivered(written, form, best.sent_tokens, tokens)
        return best


def _written_in(text: str, forms: Sequence[Form]) -> Iterator[tuple[str, str]]:
    for form in forms:
        written = form.write(text)
        if written is not None and _can_be_had_back(form, text, written):
            yield written, form.name


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

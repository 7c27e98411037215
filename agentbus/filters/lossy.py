"""What lossy filters have in common.

A lossy filter leaves whole lines or sentences of a text out, says so in the text with a mark that
its reader understands, and names the original, which stays intact. What it leaves is verbatim and in
the original's order. Filters are pure and deterministic: the same arguments give the same text for
ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Lossy", "Shortened"]


@dataclass(frozen=True, slots=True)
class Shortened:
    """What a lossy filter left of a text."""

    text: str
    """With marks where something was left out."""
    left_out: tuple[tuple[int, int], ...]
    """Lines of the original that are not there, or not wholly: first and last, counted from 1."""


class Lossy(Protocol):
    """One way to leave something of a text out."""

    @property
    def name(self) -> str:
        """Its name and version, such as `offload/1`: a version leaves out the same for ever."""
        ...

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        """Return what is left of a text; None where the filter is not for it, or gains nothing.

        Takes time linear in the text, but for a logarithm, and any text.

        Args:
            ref: the original's name, such as `ctx:ab12cd34`, for marks.
            query: what the reader is asked about the text; empty if that is not known.
            count: tokens of a text, by the receiver's tokenizer.
        """
        ...

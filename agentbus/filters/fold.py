"""Folding of logs and command output: what lines have in common is written once, all in order.

A text of lines becomes a text of lines that a model reads from the top:

- a line like an earlier one is written as that one's letter, and what differs;
- how most lines start (a date, a host) stands in a line of its own, again where it changes;
- equal lines, or blocks of lines, that follow each other are counted.

Byte-exact: `fold_head` and `fold_templates` find what lines share, `fold_marks` has the marks.
"""

from __future__ import annotations

from typing import Final, Literal

from ..errors import FormBroken
from .fold_marks import EXPLAINED, MAX_TEXT, NAME, PAIRS
from .fold_reader import Reader
from .fold_writer import written

__all__ = ["WORTH", "Fold"]

WORTH: Final = 0.85
"""What is folded must be so short at least: later texts cannot refer to its lines as they were. Of
conversations in which code is sent again and again, less would take more than it saves."""


class Fold:
    """Logs and command output with what lines have in common written once. Byte-exact."""

    name = NAME
    exact: Literal["bytes"] = "bytes"

    def write(self, text: str) -> str | None:
        """See `Form.write`. None where it leaves more than `WORTH` of a text's characters."""
        pair = next((pair for pair in PAIRS if pair[0] not in text and pair[1] not in text), None)
        if pair is None or "\n" not in text or len(text) >= MAX_TEXT:
            return None
        folded = written(text, pair)
        return folded if len(folded) <= WORTH * len(text) else None

    def read(self, written: str) -> str:
        """See `Form.read`. A text that would be longer than any that is folded is refused too."""
        first, newline, rest = written.partition("\n")
        if not newline or first not in EXPLAINED:
            raise FormBroken(NAME, "it does not start with how to read it")
        reader = Reader(EXPLAINED[first])
        for line in rest.split("\n"):
            reader.take(line)
        return "\n".join(reader.lines)

    def is_same(self, text: str, read: str) -> bool:
        """Compare bytes."""
        return text == read

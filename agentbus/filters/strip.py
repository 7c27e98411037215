"""Text from terminals without what only a terminal shows.

Left out are escape sequences (colours, movements of the cursor, titles, where links lead), what text
behind a carriage return overwrote, as progress bars do, and spaces and tabs at the ends of lines. A
last line says which of these there were:

    [colour codes and trailing spaces left out; the source is intact: get ctx:ab12cd34]

All lines stand in their places, and carriage returns at their ends stay. So does overwritten text
that tells of a failure, or of which the end was still to be seen. Content that looks like a mark has
`[quoted] ` before it.

Unlike what other lossy filters write, the result may go on to lossless forms: what was there to be
read is there, and a form keeps the mark, as it keeps any line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from .keep import is_short, tells_of_failure
from .left_out import MAX_LINES, merged, note, quoted
from .lossy import Shortened

__all__ = ["Strip"]

_SAMPLE: Final = 1 << 16
"""Characters of a text, or of its changed lines, that are counted."""
_ESCAPE: Final = re.compile(
    r"""\x1b (?:
        \[ [0-?]*+ [ -/]*+ [@-~]                        # colours, movements of the cursor
      | [\]PX^_] [^\x07\x1b]*+ (?: \x07 | \x1b\\ )      # titles, links, commands
      | [ -/]*+ [0-OQ-WYZ\\`-~]                         # character sets and the like
    )""",
    re.VERBOSE,
)
_NARROW: Final = re.compile("[ -~\xa1-\xac\xae-\xff\u2500-\u259f\u2800-\u28ff]*+")
"""Characters that take one column each; others overwrite nothing, and are not overwritten."""


class Strip:
    """The filter `strip/1`."""

    name = "strip/1"

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        """See `Lossy.shorten`. However long the text is, only a bounded part of it is counted."""
        if is_short(text, count) or text.count("\n") >= MAX_LINES:
            return None
        stripper = _Stripper()
        lines = text.split("\n")
        stripped = list(map(stripper.strip, lines))
        changed = [n for n, line in enumerate(lines) if line != stripped[n]]
        if not changed:
            return None
        mark = note(stripper.said(), ref)
        shown = list(map(quoted, stripped))
        written = "\n".join([*shown, mark])
        if len(text) <= _SAMPLE:
            fewer = count(written) < count(text)
        else:
            added = sum(map(len, shown)) - sum(map(len, stripped))
            fewer = _saved([lines[n] for n in changed], count) > count(mark) + added
        return Shortened(written, merged((n + 1, n + 1) for n in changed)) if fewer else None


def _saved(changed: Sequence[str], count: Callable[[str], int]) -> int:
    """Return how many tokens at least are saved in lines."""
    sample = "\n".join(changed[:_SAMPLE])[:_SAMPLE]
    return count(sample) - count("\n".join(map(_Stripper().strip, sample.split("\n"))))


class _Stripper:
    """Strips lines, and knows what it took from them."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def said(self) -> str:
        """Return what was taken, in words."""
        *others, last = sorted(self._taken)
        return f"{', '.join(others)} and {last}" if others else last

    def strip(self, line: str) -> str:
        """Return a line, as it stands in its text, without what only a terminal shows."""
        if "\x1b" in line:
            line = _ESCAPE.sub(self._code, line)
        body = line.rstrip("\r")
        end = line[len(body) :]
        if "\r" in body:
            body = self._seen(body)
        kept = body.rstrip(" \t\r")
        if kept != body:
            self._taken.add("trailing spaces")
        return kept + end

    def _code(self, found: re.Match[str]) -> str:
        colour = found[0].startswith("\x1b[") and found[0].endswith("m")
        self._taken.add("colour codes" if colour else "terminal codes")
        return ""

    def _seen(self, line: str) -> str:
        """Return a line without what was overwritten, from the column where it began to its end."""
        seen: list[str] = []
        width = -1
        for part in reversed(line.split("\r")):
            narrow = _NARROW.fullmatch(part) is not None
            if not narrow or len(part) > width or tells_of_failure(part):
                seen.append(part)
            if narrow:
                width = max(width, len(part))
        left = "\r".join(reversed(seen))
        if left != line:
            self._taken.add("overwritten text")
        return left

"""Counting tokens line by line: a filter's ways to write a text share most of their lines.

Most tokenizers split a text before they merge characters, and then also where a line that ends in no
space is followed by one that begins with none. Whether a tokenizer does is found out by trying, on
texts of all sorts. Where it does, lines are counted once and remembered, and the sum is exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["LineCounts"]

_BORDER = re.compile(r"(?<=\S\n)(?=\S)")
_REMEMBERED = 1 << 23
"""Characters of lines whose counts are remembered; then it begins anew."""
_SHORT = 200
"""A text of no more characters is counted as a whole."""
_SAMPLES = (
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\nA()\n# end;\n}\n{\n",
    '[\n{"a": 1.50,\n"b": null},\n{"c": "d\\n"}\n]\n',
    "2024-01-02 03:04:05 INFO it's 12345.\r\nWARN it isn't\r\n\r\n  indented \n trailing \nx\n",
    "漢字\nかな。\nπ≈3\né\u0301\n🙂\n...\n---\n'tis\n's\n",
    "a\n1\n.\n(\n_\n<\n<|im_end|>\nab\n A\n\n\n\nB\n",
)


class LineCounts:
    """Counts the tokens of texts. Any thread may ask.

    Args:
        encode: returns the numbers of tokens of texts, one by one.
    """

    def __init__(self, encode: Callable[[Sequence[str]], list[int]]) -> None:
        self._encode = encode
        self._known: dict[str, int] = {}
        self._room = _REMEMBERED
        self._by_line = all(map(self._adds_up, _texts()))

    def count(self, text: str) -> int:
        """Return how many tokens a text takes."""
        if not self._by_line or len(text) <= _SHORT:
            return self._encode([text])[0] if text else 0
        if self._room < 0:
            self._known, self._room = {}, _REMEMBERED
        known = self._known  # which is only taken the place of, whatever other threads do
        lines = _BORDER.split(text)
        fresh = [line for line in dict.fromkeys(lines) if line not in known]
        known.update(zip(fresh, self._encode(fresh), strict=True))
        self._room -= sum(map(len, fresh))
        return sum(known[line] for line in lines)

    def _adds_up(self, text: str) -> bool:
        return self._encode([text])[0] == sum(self._encode(_BORDER.split(text)))


def _texts() -> list[str]:
    """Return texts in which lines of all sorts stand before lines of all sorts."""
    lines = [line for sample in _SAMPLES for line in sample.splitlines(keepends=True)]
    mixed = ["".join(lines[start::step]) for step in (1, 2, 3, 5, 7) for start in range(step)]
    return [*_SAMPLES, *mixed, "".join(reversed(lines))]

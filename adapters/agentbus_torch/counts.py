"""Counting tokens word by word: what models are given says the same words again and again.

Most tokenizers split a text before they merge characters, and then always before white space behind
a word, or behind the line ends after it. Whether a tokenizer does is found out by trying, on texts
of all sorts. Where it does, words are counted once and remembered, and the sum is exact.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

__all__ = ["TokenCounts"]

_SPACE: Final = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's white space; Python's `\\s` has more."""
_WORDS: Final = (
    re.compile(rf"[{_SPACE}]*+[^{_SPACE}]+|[{_SPACE}]+"),  # as GPT-2 splits
    re.compile(rf"[{_SPACE}]*+[^{_SPACE}]+[\r\n]*|[{_SPACE}]+"),  # as cl100k, Llama 3 and Qwen
)
"""Words with the white space before them; together they are the text."""
_PARTED: Final = re.compile(f"[{_SPACE}]")
_LINE: Final = " .\n"
"""A word with a line end."""
_REMEMBERED: Final = 1 << 20
"""Characters of words whose counts are remembered; then it begins anew."""
_LONGEST: Final = 1 << 12
"""Characters of a word that is remembered: long hexadecimal numbers are counted once, too."""
_SHORT: Final = 40
"""A text of no more characters is counted as a whole."""
_SAMPLES: Final = (
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\nA()\n# end;\n}\n{\n",
    '[\n{"a": 1.50,\n"b": null},\n{"c": "d\\n"}\n]\n',
    "2024-01-02 03:04:05 INFO it's 12345.\r\nWARN it isn't\r\n\r\n  indented \n trailing \nx\n",
    "漢字\nかな。\nπ≈3\né\u0301\n🙂\n...\n---\n'tis\n's\n",
    "a\n1\n.\n(\n_\n<\n<|im_end|>\nab\n A\n\n\n\nB\n",
    "a\xa0 b.\u3000\n c\x1c d\x1f\n.\x1d. \x85\n \u2028e  f   12  .  ) \t\t g\t h \n\n\t\n  i\n",
    ") }\n\n] ;\r\n\r\n, .\n \n! ?\n\t'll 've\nxx   \n",
)


class TokenCounts:
    """Counts the tokens of texts. Any thread may ask.

    Args:
        starts: returns where in a text each of its tokens begins, in characters.
    """

    def __init__(self, starts: Callable[[str], Sequence[int]]) -> None:
        self._starts = starts
        self._known: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        """Of words that a text began or ended with."""
        self._room = _REMEMBERED
        texts = _texts()
        self._words = next((words for words in _WORDS if self._adds_up(words, texts)), None)

    def count(self, text: str) -> int:
        """Return how many tokens a text takes."""
        if self._words is None or len(text) <= _SHORT:
            return len(self._starts(text)) if text else 0
        if self._room < 0:
            self._known, self._ends, self._room = {}, {}, _REMEMBERED
        known = self._known  # which is only taken the place of, whatever other threads do
        first, *words = self._words.findall(text)
        fresh = [word for word in dict.fromkeys(words[:-1]) if word not in known]
        counts = dict(zip(fresh, self._counted(fresh), strict=True))
        kept = {word: tokens for word, tokens in counts.items() if len(word) <= _LONGEST}
        known.update(kept)
        self._room -= sum(map(len, kept))
        # What a text begins and ends with may have no word, or no white space to part it.
        ends = sum(map(self._end, (first, *words[-1:])))
        if len(kept) == len(counts):
            return ends + sum(map(known.__getitem__, words[:-1]))
        return ends + sum(known[word] if word in known else counts[word] for word in words[:-1])

    def _end(self, word: str) -> int:
        found = self._ends.get(word)
        if found is None:
            found = len(self._starts(word))
            if len(word) <= _LONGEST:
                self._ends[word] = found
                self._room -= len(word)
        return found

    def _counted(self, words: Sequence[str]) -> list[int]:
        """Count the tokens of words in one go; none of them is the first of its text.

        What stands before a word here need not be what stood before it in its text. It is parted
        from that by the white space that it begins with, or else stands behind the end of a line.
        """
        parts = [word if _PARTED.match(word) else _LINE + word for word in words]
        starts = self._starts("".join(parts)) if words else ()
        ends = accumulate(map(len, parts))
        return [
            bisect_left(starts, end) - bisect_left(starts, end - len(word))
            for word, end in zip(words, ends, strict=True)
        ]

    def _adds_up(self, words: re.Pattern[str], texts: Sequence[str]) -> bool:
        return all(
            len(self._starts(text)) == sum(len(self._starts(word)) for word in words.findall(text))
            for text in texts
        )


def _texts() -> list[str]:
    """Return texts in which lines of all sorts stand before lines of all sorts."""
    lines = [line for sample in _SAMPLES for line in sample.splitlines(keepends=True)]
    mixed = ["".join(lines[start::step]) for step in (1, 2, 3, 5, 7) for start in range(step)]
    return [*_SAMPLES, *mixed, "".join(reversed(lines))]

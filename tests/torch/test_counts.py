"""Tokens counted line by line are as many as those of the whole text, or it is not done."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from agentbus_torch.convert import converted
from agentbus_torch.counts import LineCounts
from agentbus_torch.locate import SMALL_MODEL, locate
from agentbus_torch.tokens import Vocabulary
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import ModelNotFound


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    try:
        return Vocabulary.load(converted(locate(SMALL_MODEL).path, ""))
    except ModelNotFound:
        pytest.skip("the small model is not installed")


LINES = st.text(st.sampled_from("ab1 .,;{}[]()'\"\t\r\n_<|>é漢🙂-"), max_size=40)


@given(st.lists(LINES, min_size=3, max_size=30))
def test_the_small_models_counts_are_exact(vocabulary: Vocabulary, lines: list[str]) -> None:
    text = "\n".join(lines) * 3
    assert vocabulary.count(text) == len(vocabulary.plain(text))


class Words:
    """Counts what a pattern finds, and how many texts it was asked about."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[int]:
        self.asked += texts
        return [len(self._pattern.findall(text)) for text in texts]


def test_a_line_is_counted_once() -> None:
    words = Words(r"\w+|\W")
    counts = LineCounts(words.encode)
    text = "\n".join(f"line {number} of many lines" for number in range(50))
    words.asked.clear()
    assert counts.count(text) == len(re.findall(r"\w+|\W", text))
    assert len(words.asked) == 50
    assert counts.count(text + "\nand one more") == counts.count(text) + 6
    assert len(words.asked) == 52, "the last line has a line end now"


def test_a_tokenizer_that_looks_past_lines_is_asked_about_whole_texts() -> None:
    words = Words(r"\w+\n\w+|\w+|\W")
    counts = LineCounts(words.encode)
    text = "\n".join("ab" for _ in range(200))
    words.asked.clear()
    assert counts.count(text) == len(re.findall(r"\w+\n\w+|\w+|\W", text))
    assert words.asked == [text]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbus_torch.counts._REMEMBERED", 10_000)
    words = Words(r"\w+|\W")
    counts = LineCounts(words.encode)
    for number in range(100):
        text = "\n".join(f"{number} {line} of many" for line in range(50))
        assert counts.count(text) == len(re.findall(r"\w+|\W", text))
        assert sum(map(len, counts._known)) < 12_000

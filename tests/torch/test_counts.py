"""Tokens counted word by word are as many as those of the whole text, or it is not done."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from agentbus_torch.convert import converted
from agentbus_torch.counts import TokenCounts
from agentbus_torch.locate import SMALL_MODEL, locate
from agentbus_torch.tokens import Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from agentbus.errors import ModelNotFound

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How GPT-2 splits, and how Llama 3 does, by their `tokenizer.json`."""
CHARACTERS = "ab1 .,;{}[]()'\"\t\r\n_<|>é漢🙂-\xa0\u3000\x1c\u2028"
TEXTS = st.lists(st.text(st.sampled_from(CHARACTERS), max_size=40), min_size=3, max_size=30)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    try:
        return Vocabulary.load(converted(locate(SMALL_MODEL).path, ""))
    except ModelNotFound:
        pytest.skip("the small model is not installed")


def trained(pattern: str) -> Tokenizer:
    """Return a tokenizer that splits so, and has merged what it could."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words = ("ab", "a", "1", "12", ".", "};", ")", "é")
    ends = ("\n", "\n\n", " ", "  ", "\r\n", "\n  ", "\t", " \n", "\xa0")
    texts = [word + end + other for word in words for end in ends for other in words]
    tokenizer.train_from_iterator(texts * 3, trainer)
    return tokenizer


class Counted:
    """A tokenizer, and what it was asked about."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.asked: list[str] = []

    def starts(self, text: str) -> list[int]:
        self.asked.append(text)
        return [start for start, _ in self.tokenizer.encode(text).offsets]


@settings(deadline=None)
@given(TEXTS)
def test_the_small_models_counts_are_exact(vocabulary: Vocabulary, lines: list[str]) -> None:
    text = "\n".join(lines) * 3
    assert vocabulary.count(text) == len(vocabulary.plain(text))


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3])
def test_known_ways_to_split_are_counted_by_words(pattern: str) -> None:
    counted = Counted(trained(pattern))
    counts = TokenCounts(counted.starts)
    text = "\n".join(f"line {number} of }};\n\n  many (lines)" for number in range(200))
    counted.asked.clear()
    assert counts.count(text) == len(counted.tokenizer.encode(text))
    assert sum(map(len, counted.asked)) < 2 * len("".join(set(text.split(" "))))

    @settings(deadline=None)
    @given(TEXTS)
    def exact(lines: list[str]) -> None:
        text = "\n".join(lines)
        assert counts.count(text) == len(counted.tokenizer.encode(text))

    exact()


def test_words_behind_line_ends_are_counted_apart_from_other_words() -> None:
    tokenizer = trained(LLAMA3)
    counts = TokenCounts(Counted(tokenizer).starts)
    text = "x\n" * 20 + "ab x\n" + "1 xa x\n" + "bab\n" + "x a"
    assert counts.count(text) == len(tokenizer.encode(text)), "bab stands behind no xa"


class Words:
    """Tokens are what a pattern finds."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self.asked: list[str] = []

    def starts(self, text: str) -> Sequence[int]:
        self.asked.append(text)
        return [found.start() for found in self._pattern.finditer(text)]


def test_a_word_is_counted_once() -> None:
    words = Words(r"\w+|\W")
    counts = TokenCounts(words.starts)
    text = "\n".join(f"line {number} of many lines" for number in range(50))
    words.asked.clear()
    assert counts.count(text) == len(re.findall(r"\w+|\W", text))
    assert words.asked[0].count("many") == 1
    words.asked.clear()
    assert counts.count(text + "\nand one more") == counts.count(text) + 6
    assert words.asked[0] == "\nand one", "but for what a text begins and ends with"


def test_a_tokenizer_that_looks_past_words_is_asked_about_whole_texts() -> None:
    words = Words(r"\w+\s\w+|\w+|\W")
    counts = TokenCounts(words.starts)
    text = "\n".join("ab" for _ in range(200))
    words.asked.clear()
    assert counts.count(text) == len(re.findall(r"\w+\s\w+|\w+|\W", text))
    assert words.asked == [text]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbus_torch.counts._REMEMBERED", 10_000)
    words = Words(r"\w+|\W")
    counts = TokenCounts(words.starts)
    for number in range(100):
        text = "\n".join(f"{number} {number * 100 + line} of many" for line in range(50))
        assert counts.count(text) == len(re.findall(r"\w+|\W", text))
        assert sum(map(len, (*counts._known, *counts._ends))) < 12_000
    long = " ".join(["x" * 5000] * 10)
    assert counts.count(long) == 19
    assert not any("x" in word for word in (*counts._known, *counts._ends))


def test_what_a_text_begins_and_ends_with_is_counted_once() -> None:
    words = Words(r"\w+|\W")
    counts = TokenCounts(words.starts)
    long = "0" * 1000
    assert counts.count(f"{long} a {long}") == 5
    words.asked.clear()
    assert counts.count(f"{long} b {long}") == 5
    assert words.asked == [" b"]

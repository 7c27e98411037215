"""Parts of texts: ranges as slices of the whole, searches as a look at every line."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import SEARCH_LINES, SEARCH_WORDS, Fetched, FetchStatus, FoundLine
from agentbus.context.excerpt import excerpt, search_lines
from agentbus.errors import MisuseError

UNHURRIED = settings(deadline=None)
"""A busy machine is no failure."""
TEXTS = st.text("ab\n\r ", max_size=40) | st.text("ßİaSı\n", max_size=20)
LONG = "\n".join(f"line {number}" for number in range(1, 20_001))
"""Longer than what is counted at once."""


def parts_of(fetched: Fetched) -> tuple[str, tuple[int, int], tuple[int, int]]:
    return fetched.text, fetched.lines, fetched.characters


def test_without_a_range_the_whole_is_given() -> None:
    whole = Fetched(FetchStatus.FOUND, "a\nb", (1, 2), (1, 3), 2, 3)
    assert excerpt("a\nb") == whole
    assert excerpt("") == Fetched(FetchStatus.FOUND, "", (1, 1), (1, 0), 1, 0)


def test_lines_are_what_stands_between_line_ends() -> None:
    text = "one\r\n\n\u2028three\x0b\nfour\n"
    assert parts_of(excerpt(text, (1, 1))) == ("one\r", (1, 1), (1, 4))
    assert parts_of(excerpt(text, (2, 2))) == ("", (2, 2), (6, 5))
    assert parts_of(excerpt(text, (2, 3))) == ("\n\u2028three\x0b", (2, 3), (6, 13))
    assert parts_of(excerpt(text, (4, 5))) == ("four\n", (4, 5), (15, 19))
    assert excerpt(text, (1, 5)) == excerpt(text)


def test_what_is_beyond_the_end_is_not_given() -> None:
    assert parts_of(excerpt("a\nb", (2, 10**30))) == ("b", (2, 2), (3, 3))
    assert parts_of(excerpt("a\nb", None, (3, 10**30))) == ("b", (2, 2), (3, 3))
    for beyond in (excerpt("a\nb", (3, 4)), excerpt("a\nb", None, (4, 4))):
        assert beyond == Fetched(FetchStatus.FOUND, "", (0, 0), (0, 0), 2, 3)


def test_a_line_end_belongs_to_the_line_that_it_ends() -> None:
    assert parts_of(excerpt("a\nb", None, (1, 2))) == ("a\n", (1, 1), (1, 2))
    assert parts_of(excerpt("a\nb", None, (2, 3))) == ("\nb", (1, 2), (2, 3))


@pytest.mark.parametrize(
    "asked", [2, "1-2", b"12", (1,), (1, 2, 3), ("1", "2"), (1.0, 2.0), {1, 2}, ()]
)
def test_what_is_no_pair_of_numbers_is_refused(asked: Any) -> None:
    for ranges in ((asked, None), (None, asked), ((1, 1), asked)):
        with pytest.raises(MisuseError, match=r"its first and its last, as in \(3, 12\), not "):
            excerpt("text", *ranges)


def test_a_range_may_be_a_list() -> None:
    asked: Any = [2, 2]
    assert excerpt("a\nb", asked).text == "b"


@pytest.mark.parametrize("asked", [(0, 1), (-3, -1), (3, 2), (1, 0)])
def test_what_is_no_range_is_refused(asked: tuple[int, int]) -> None:
    with pytest.raises(MisuseError, match="a range has a first from 1 on"):
        excerpt("text", asked)
    with pytest.raises(MisuseError, match="a range has a first from 1 on"):
        excerpt("text", None, asked)
    with pytest.raises(MisuseError, match="a range has a first from 1 on"):
        excerpt("text", (1, 1), asked)


def test_characters_are_counted_in_lines_that_are_named() -> None:
    text = "one\ntwenty\nthree"
    assert parts_of(excerpt(text, (2, 2), (2, 4))) == ("wen", (2, 2), (6, 8))
    assert parts_of(excerpt(text, (2, 2), (5, 99))) == ("ty", (2, 2), (9, 10))
    assert parts_of(excerpt(text, (2, 3), (6, 8))) == ("y\nt", (2, 3), (10, 12))
    for beyond in ((2, 2), (7, 9)), ((4, 5), (1, 2)):
        assert excerpt(text, *beyond).lines == (0, 0)


@UNHURRIED
@given(TEXTS, st.integers(1, 12), st.integers(0, 12))
def test_a_range_of_lines_is_a_slice_of_the_lines(text: str, first: int, more: int) -> None:
    lines = text.split("\n")
    found = excerpt(text, (first, first + more))
    assert found.text == "\n".join(lines[first - 1 : first + more])
    assert (found.total_lines, found.total_characters) == (len(lines), len(text))
    if first <= len(lines):
        assert found.lines == (first, min(first + more, len(lines)))
        assert text[found.characters[0] - 1 : found.characters[1]] == found.text


@UNHURRIED
@given(TEXTS, st.integers(1, 45), st.integers(0, 45))
def test_a_range_of_characters_is_a_slice_of_the_text(text: str, first: int, more: int) -> None:
    found = excerpt(text, None, (first, first + more))
    assert found.text == text[first - 1 : first + more]
    if found.text:
        numbers = list(accumulate((c == "\n" for c in text), initial=1))
        last = first + len(found.text) - 1
        assert found.characters == (first, last)
        assert found.lines == (numbers[first - 1], numbers[last - 1])


def test_lines_far_down_are_counted_right() -> None:
    for number in (1, 2, 511, 512, 513, 4096, 12_345, 20_000):
        assert excerpt(LONG, (number, number)).text == f"line {number}"
    (found,) = search_lines(LONG, "Line 12345").lines
    assert found == FoundLine(12_345, "line 12345", LONG.index("line 12345\n") + 1, 0)


def test_a_line_is_found_by_all_words_in_any_order() -> None:
    text = "Error: disk full\nall is well\r\nThe DISK had an error.\ndisk"
    assert [one.line for one in search_lines(text, "error disk").lines] == [1, 3]
    found = search_lines(text, "  dIsK\n")
    assert [(one.line, one.place) for one in found.lines] == [(1, 7), (3, 4), (4, 0)]
    assert found.lines[1].text == "The DISK had an error."
    assert text[found.lines[1].character - 1 :].startswith("The DISK")
    assert [one.place for one in search_lines(text, "full error").lines] == [0]
    assert search_lines(text, "disk well").lines == ()
    assert search_lines("", "disk").lines == ()


def test_words_are_taken_literally() -> None:
    text = "a.c\nabc\n(a|b)*\n\\d+\n12"
    assert [one.line for one in search_lines(text, "a.c").lines] == [1]
    assert [one.line for one in search_lines(text, "(a|b)*").lines] == [3]
    assert [one.line for one in search_lines(text, "\\d+").lines] == [4]
    assert search_lines(text, "\ud800").lines == ()


def test_a_search_is_bounded() -> None:
    text = "\n".join(["hit"] * 30)
    found = search_lines(text, "hit")
    assert (len(found.lines), found.more) == (20, True)
    found = search_lines(text, "hit", 30)
    assert (len(found.lines), found.more) == (30, False)
    for limit in (0, -1, SEARCH_LINES + 1):
        with pytest.raises(MisuseError, match="gives 1 to"):
            search_lines(text, "hit", limit)
    for query in ("", " \n", " ".join(str(number) for number in range(SEARCH_WORDS + 1))):
        with pytest.raises(MisuseError, match="takes 1 to"):
            search_lines(text, query)


def test_a_search_takes_a_text_and_a_number() -> None:
    asked: Any
    for asked in (5, None, b"hit", ["hit"]):
        with pytest.raises(MisuseError, match="a search takes words, not "):
            search_lines("hit", asked)
    for asked in (2.0, "2", None):
        with pytest.raises(MisuseError, match="gives 1 to"):
            search_lines("hit", "hit", asked)


@UNHURRIED
@given(TEXTS, st.lists(st.text("abßıssİ", min_size=1, max_size=2), min_size=1, max_size=3))
def test_a_search_finds_what_a_look_at_every_line_finds(text: str, words: list[str]) -> None:
    folded = [word.casefold() for word in words]
    lines = text.split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=1))
    wanted = []
    for index, line in enumerate(lines):
        places = [line.casefold().find(word) for word in folded]
        if min(places) >= 0:
            grown = list(accumulate(len(character.casefold()) for character in line))
            place = next(at for at, until in enumerate(grown) if until > min(places))
            wanted.append(FoundLine(index + 1, line, starts[index], place))
    found = search_lines(text, " ".join(words), SEARCH_LINES)
    assert list(found.lines) == wanted


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("a\nb\n" * 500_000, "a b"),
        ("ab" * 1_000_000 + "\n" + "b\n" * 100_000, "a ab ba b c"),
        ("a" * 2_000_000, "b".rjust(1000, "a")),
        ("ß" * 300_000 + "x\n" + "y\n" * 300_000, "x ß"),
        ("\n" * 3_000_000 + "x", "x"),
    ],
    ids=["never in one line", "all but one", "almost a word", "folds to more", "line ends"],
)
def test_hostile_texts_take_linear_time(text: str, query: str) -> None:
    start = time.perf_counter()
    search_lines(text, query)
    assert time.perf_counter() - start < 5  # it takes a tenth of that

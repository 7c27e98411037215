"""Units: nothing of a text is between them, and they end where sentences and lines do."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.filters.units import LONGEST_UNIT, units_of

from .recorded import conversations, tool_outputs

PIECES = ["A", "b", "Dr", "1", ".", "!", "…", '."', " ", "  ", "\n", "\r\n", "\t", "(", "]", "[12]"]
OTHER = ["。", "？", "你", "न", "।", "\u2028", "\x00", "\ud800", "é", "- ", "| ", "x" * 40]


@given(st.lists(st.sampled_from(PIECES + OTHER), max_size=60).map("".join) | st.text(max_size=200))
def test_units_joined_are_the_text(text: str) -> None:
    units = units_of(text)
    assert "".join(units) == text
    assert all(units)


@pytest.mark.parametrize(
    "units",
    [
        # What ends a sentence
        ["It rained. ", "We stayed in! ", "Why? ", "So…  ", "Then we left."],
        ['He said "Go." ', "She went."],
        ["It was cold (very cold.) ", "It was late.[12] ", "We slept."],
        ["Nobody came.\n", "The next line."],
        ["It cost about 3.14 dollars in the summer of 1999. ", "In 2000 it was more."],
        ["他来了。", "你好吗？", "「很好。」", "再见！"],
        ["यह एक वाक्य है। ", "यह दूसरा है।"],
        # What does not
        ["Yesterday Mr. Smith met Dr. J. K. Jones in Sept. 1999 at No. 5. ", "He left."],
        ["T. S. Eliot moved from the U.S. to London at 9 a.m. on Monday."],
        ['"Yes!" said the man who shops at Yahoo! every day.'],
        ["e.g. the first, i.e. Adam, and others (cf. Eve) et al. were there."],
        ["The so-called end. , as it was called, came."],
        # Initials before a word that begins a sentence
        ["They moved to the U.S. ", "The reason was war."],
        # Lines
        ["# A heading\n", "- an item\n", "- another\n\n", "1. Open it\n", "2. Close it\n"],
        ["| a | b |\n", "|---|---|\n", "| 1 | 2 |\n"],
        ["2024-05-06 10:00:01,123 INFO [a.b.C] 17 is done. Next 18\n", "other\n"],
        # A sentence runs over lines
        [
            "This line is wrapped by an editor at some column, and\ngoes on here. ",
            "A new one.\n\n",
            "and a paragraph that begins small.",
        ],
        # White space belongs to what is before it
        ["\n\n  first line\n \t\n\n", "  second line\n"],
    ],
)
def test_units_end_where_sentences_and_lines_do(units: list[str]) -> None:
    assert units_of("".join(units)) == units


@pytest.mark.parametrize("sign", ["x", "x ", "\ud83d", "。x"[1:] * 3])
def test_long_units_are_cut(sign: str) -> None:
    text = "Short one. " + sign * 5000
    units = units_of(text)
    assert "".join(units) == text
    assert max(map(len, units)) <= LONGEST_UNIT
    assert len(units) < 40


def test_long_units_are_cut_after_white_space() -> None:
    units = units_of("seven b " * 1000)
    assert all(unit.endswith(" ") for unit in units)


def test_recorded_texts_are_all_there() -> None:
    for name, text in tool_outputs():
        assert "".join(units_of(text)) == text, name
    for name, messages in conversations():
        for message in messages:
            assert "".join(units_of(message["content"])) == message["content"], name


@pytest.mark.parametrize(
    "piece",
    ["A. ", ".", ".\t", '."', "a.) ", " ", "\n", " \n", "x", "。", ". [1]", "A.\tB.", "word, \n"],
)
def test_time_is_linear(piece: str) -> None:
    def seconds(size: int) -> float:
        text = "A sentence of words. " * 50 + piece * (size // len(piece))
        times = []
        for _ in range(3):
            start = process_time()
            units_of(text)
            times.append(process_time() - start)
        return min(times)

    assert seconds(400_000) < 20 * max(seconds(50_000), 0.002)

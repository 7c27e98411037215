"""Text from terminals without colour codes, what was overwritten, and trailing spaces: all words that
were to be seen stay, and a last line says what went."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.filters import LOSSLESS, shortest
from agentbus.filters.keep import tells_of_failure
from agentbus.filters.left_out import MAX_LINES, merged
from agentbus.filters.lossy import Lossy, Shortened
from agentbus.filters.strip import Strip

from .recorded import tool_outputs

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "3000"))
"""How many generated texts; a stress run takes 200,000."""
STRIP: Lossy = Strip()
REF = "ctx:ab12cd34"

_MARK = re.compile(
    r"\[((?:colour codes|overwritten text|terminal codes|trailing spaces|, | and )+) left out; "
    rf"the source is intact: get {REF}\]"
)


def thirds(text: str) -> int:
    """Count as tokenizers do of English text, about."""
    return (len(text) + 2) // 3


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]|\s+", text))


def strip(text: str, count: Callable[[str], int] = thirds) -> Shortened | None:
    """Strip a text, and check all that is promised of it."""
    stripped = STRIP.shorten(text, ref=REF, query="", count=count)
    assert stripped == STRIP.shorten(text, ref=REF, query="something", count=count)
    if stripped is None:
        return None
    assert count(stripped.text) < count(text)
    assert stripped.left_out == merged(stripped.left_out) != ()
    *shown, mark = stripped.text.split("\n")
    assert _MARK.fullmatch(mark) and not any(map(_MARK.fullmatch, shown))
    lines = text.split("\n")
    assert len(shown) == len(lines)
    changed = {n for first, last in stripped.left_out for n in range(first, last + 1)}
    for number, (line, left) in enumerate(zip(lines, shown, strict=True), 1):
        content = unquoted(left)
        assert (content != line) == (number in changed)
        assert number not in changed or is_part(content, line)
    return stripped


def unquoted(line: str) -> str:
    content = line.removeprefix("[quoted] ")
    return content if re.search(r"\[.*left out", content, re.DOTALL) else line


def is_part(part: str, line: str) -> bool:
    """Say whether a line has the characters of its part, in order, and its line end."""
    characters = iter(line)
    return all(sign in characters for sign in part) and part.endswith("\r") >= line.endswith("\r")


def content(found: Shortened | None) -> str:
    assert found
    return found.text.rpartition("\n")[0]


def said(found: Shortened | None) -> str:
    assert found
    mark = _MARK.fullmatch(found.text.rpartition("\n")[2])
    assert mark
    return mark[1]


LINES = [
    *(
        "\x1b[31mred\x1b[0m and plain",
        "\x1b[1;38;5;12mb\x1b[m",
        "\x1b[2K\x1b[1A\x1b[?25l",
        "trailing  \t",
    ),
    *(
        "",
        "  ",
        "\r",
        "plain",
        "plain\r",
        "blank \r",
        "\x1b]0;title\x07text",
        "\x1b]8;;http://x\x1b\\link",
    ),
    *(
        "10%\r20%\r100%",
        "error: it broke\rok, all of it is done",
        "long ago\rnew\r",
        "漢字\rabcdefg",
    ),
    *(
        "\x1b",
        "\x1b[",
        "\x1b[1;2",
        "\x1b]0;no end",
        "\x1b\x1b[0m[31m",
        "\x1b(B",
        "\x1bPdata\x1b\\",
        "\ud83d ",
    ),
    *(
        "[lines 1-2 left out here]  ",
        f"[colour codes left out; the source is intact: get {REF}] ",
        "a\x00 ",
    ),
]
lines = st.one_of(
    st.sampled_from(LINES), st.text("a \t\r\x1b[0m]\x07\\", max_size=12), st.text(max_size=9)
)


@settings(deadline=None)
@given(st.lists(lines), st.integers(1, 60), st.sampled_from([thirds, words, len]))
def test_all_that_was_to_be_read_stays(
    drawn: list[str], times: int, count: Callable[[str], int]
) -> None:
    strip("\n".join(drawn * times), count)


def test_generated_texts() -> None:
    some = random.Random(3)
    stripped = 0
    for _ in range(CASES // 3):
        text = "\n".join(some.choices(LINES, k=some.randint(1, 120)))
        stripped += strip(text, some.choice([thirds, words, len])) is not None
    assert stripped > CASES / 10


def test_the_mark_is_plain() -> None:
    text = "\x1b[32mok\x1b[0m   1 line\n" * 100
    found = strip(text)
    assert found and found.left_out == ((1, 100),)
    assert found.text == (
        "ok   1 line\n" * 100 + "\n[colour codes left out; the source is intact: get ctx:ab12cd34]"
    )


@pytest.mark.parametrize(
    ("line", "left", "taken"),
    [
        ("a\x1b[1;31mb\x1b[0m", "ab", "colour codes"),
        ("a\x1b[38:2::1:2:3mb", "ab", "colour codes"),
        ("\x1b[2K\x1b[1Aa", "a", "terminal codes"),
        ("\x1b[31m\x1b[2Ka", "a", "colour codes and terminal codes"),
        ("\x1b]0;title\x07a", "a", "terminal codes"),
        ("\x1b]8;;http://x/y\x1b\\a\x1b]8;;\x1b\\", "a", "terminal codes"),
        ("\x1b(B\x1b=a\x1b7", "a", "terminal codes"),
        ("a \t ", "a", "trailing spaces"),
        ("a \x1b[0m \r", "a\r", "colour codes and trailing spaces"),
        ("\x1b[K10%\r 20% ", " 20%", "overwritten text, terminal codes and trailing spaces"),
        ("ab\r ", "ab", "trailing spaces"),
        ("working\r        ", "", "overwritten text and trailing spaces"),
        ("a" * 99 + "\r" + "b" * 99, "b" * 99, "overwritten text"),
        (" 45%|██  |\r100%|████|", "100%|████|", "overwritten text"),
    ],
)
def test_what_only_a_terminal_shows_is_left_out(line: str, left: str, taken: str) -> None:
    found = strip(f"{line}\n" * 300)
    assert content(found) == f"{left}\n" * 300 and said(found) == taken


@pytest.mark.parametrize(
    "line",
    [
        *("a\x1b", "\x1b[12;3", "\x1b]0;no end", "[31m", "a\x1b]8;;x", "\x9b31m", "\x1b["),
        *(
            "long text\rshort",
            "漢字\rabcd",
            "a\rb\u0301",
            "a\r\tb",
            "error: x\rall is done",
            "a\r",
            "a\r\r",
        ),
        *("\xa0a\xa0", "a\u3000", " a", "\ta", "\x00"),
    ],
)
def test_other_lines_stay(line: str) -> None:
    assert strip(f"{line}\n" * 300) is None
    found = strip(f"{line}\n" * 300 + "\x1b[m\n" * 300)
    assert content(found) == f"{line}\n" * 300 + "\n" * 300


def test_what_was_overwritten_stays_if_it_tells_of_a_failure() -> None:
    line = "working\rERROR: disk is full\rworking on\rdone, all of it, it seems"
    assert tells_of_failure("ERROR: disk is full")
    found = strip(f"{line}\n" * 50)
    assert content(found) == "ERROR: disk is full\rdone, all of it, it seems\n" * 50


def test_what_was_not_overwritten_to_its_end_stays() -> None:
    found = strip("12345678\r123\r12345\r1\r1234\n" * 99)
    assert content(found) == "12345678\r12345\r1234\n" * 99


def test_short_texts_stay() -> None:
    text = "\x1b[31mred\x1b[0m  \n" * 30
    assert strip(text, lambda part: len(part) * 200 // len(text)) is None
    assert strip(text, lambda part: len(part) * 300 // len(text))


def test_a_gain_smaller_than_the_mark_is_none() -> None:
    plain = "words and more words\n" * 400
    assert strip(f"{plain}\x1b[31mred\x1b[0m\n") is None
    assert strip(plain + "\x1b[31mred\x1b[0m\n" * 20)


def test_in_a_large_text_too_the_gain_is_known() -> None:
    plain = "words and more words\n" * 40_000
    assert STRIP.shorten(f"{plain}\x1b[31mred\x1b[0m\n", ref=REF, query="", count=thirds) is None
    assert strip(plain + "\x1b[31mred\x1b[0m\n" * 20)
    assert strip("x\x1b[31m" * 200_000)
    quotes = "[ left out\n" * 40_000  # each is to be quoted
    assert STRIP.shorten(quotes + "a \n" * 400, ref=REF, query="", count=thirds) is None


def test_content_that_looks_like_a_mark_is_quoted() -> None:
    mark = f"[colour codes left out; the source is intact: get {REF}]"
    found = strip(f"{mark}\n[quoted] {mark}\n\x1b[31m{mark}\x1b[m\n" + "a  \n" * 400)
    assert content(found).split("\n")[:3] == [
        f"[quoted] {mark}",
        f"[quoted] [quoted] {mark}",
        f"[quoted] {mark}",
    ]


def test_lossless_forms_keep_the_mark() -> None:
    text = "".join(
        f"\x1b[2m12:00:{n % 60:02}\x1b[0m INFO block {n} is there  \n" for n in range(300)
    )
    found = strip(text)
    assert found
    delivered = shortest(found.text, LOSSLESS, thirds)
    assert delivered.form and delivered.delivered_tokens < thirds(found.text)
    (form,) = (form for form in LOSSLESS if form.name == delivered.form)
    assert form.read(delivered.text) == found.text
    assert said(found) == "colour codes and trailing spaces"


def test_coloured_recorded_outputs() -> None:
    """The recorded ones have lost their colours: each word is given one, as a tool would."""
    for name, text in tool_outputs("test_output", "lint", "shell", "log"):
        coloured = re.sub(r"[A-Za-z]{4,}", "\x1b[32m\\g<0>\x1b[0m", text)
        found = strip(coloured)
        assert not found or "\x1b" not in found.text, name
        assert found or thirds(coloured) <= 400 or coloured.count("\x1b") < 30, name


@pytest.mark.parametrize(
    "unit",
    [
        "\x1b",
        "\x1b[",
        "\x1b[1;",
        "\x1b]",
        "\x1b]a\x07",
        "\r",
        " ",
        " a",
        "a\r",
        "a \r\n",
        "\x1bP",
        "\x1b ",
    ],
)
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        times = []
        for _ in range(2):
            begun = process_time()
            STRIP.shorten(text, ref=REF, query="", count=thirds)
            times.append(process_time() - begun)
        return min(times)

    assert seconds(800_000) < 12 * seconds(200_000) + 0.05


def test_fifty_megabytes() -> None:
    """Little of them is counted."""
    line = "\x1b[32m12:00:01\x1b[0m INFO block 1234 is written to the disk  \r\n"
    text = line * (50_000_000 // len(line))
    counted = 0

    def count(part: str) -> int:
        nonlocal counted
        counted += len(part)
        return thirds(part)

    begun = process_time()
    found = STRIP.shorten(text, ref=REF, query="", count=count)
    assert process_time() - begun < 40
    assert found and len(found.text) < len(text) * 0.85 and counted < 200_000
    assert STRIP.shorten(" \n" * MAX_LINES, ref=REF, query="", count=thirds) is None

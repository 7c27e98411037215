"""Extraction: what is delivered is the text's own, in its order, within the rate, and says so."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from itertools import accumulate
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import ConfigError
from agentbus.filters import Extract, Lossy, Shortened
from agentbus.filters.units import units_of

from .recorded import conversations, tool_outputs

REF = "ctx:ab12cd34"
MARK = re.compile(r"\[left out at (…|\[…\d*\]); the source is intact: get ctx:ab12cd34\]")
WORDS = [
    "river",
    "stone",
    "engine",
    "garden",
    "window",
    "letter",
    "market",
    "winter",
    "oak",
    "bell",
]
SENTENCES = [
    f"The {WORDS[n % 10]} of the {WORDS[n // 10 % 10]} was seen on day {n} by many. "
    for n in range(100)
]
PROSE = "".join(SENTENCES)


def count(text: str) -> int:
    """Count tokens, somewhat as tokenizers do: other tokens where texts are joined."""
    return len(re.findall(r" ?\w{1,6}|[^\w ]+| +", text))


def extract(
    text: str, query: str, *, keep: float = 0.3, must: Sequence[str] = ()
) -> Shortened | None:
    """Extract, and check all that is always so."""
    filter_: Lossy = Extract(keep=keep, must_keep=lambda unit: any(one in unit for one in must))
    shortened = filter_.shorten(text, ref=REF, query=query, count=count)
    assert filter_.shorten(text, ref=REF, query=query, count=count) == shortened
    if shortened is not None:
        kept = kept_of(text, shortened)
        assert count(shortened.text) < count(text)
        units = units_of(text)
        if len(set(units)) == len(units):  # else which of the same were kept is a guess
            assert shortened.left_out == left_out(text, kept)
        assert all(any(one in text[a:b] for a, b in kept) for one in must if one in text)
        if count(shortened.text) > keep * count(text):
            more = [one for one in (text[a:b] for a, b in kept) if not any(m in one for m in must)]
            assert len(more) <= 1
    return shortened


def extracted(text: str, query: str, *, keep: float = 0.3, must: Sequence[str] = ()) -> str:
    shortened = extract(text, query, keep=keep, must=must)
    assert shortened is not None
    return shortened.text


def kept_of(text: str, shortened: Shortened) -> list[tuple[int, int]]:
    """Return where the units are that were kept, after finding nothing else but marks."""
    first, _, body = shortened.text.partition("\n")
    mark = MARK.fullmatch(first)
    assert mark is not None, first
    assert mark[1] not in text
    units = units_of(text)
    starts = [0, *accumulate(map(len, units))]
    kept: list[tuple[int, int]] = []
    place = 0
    parts = body.split(mark[1])
    for number, part in enumerate(parts):
        # Behind a sign stands a space or a line break.
        stretch = part[1:] if number and part[:1].isspace() else part
        if not stretch:
            continue
        if number == len(parts) - 1:  # to the text's end
            assert text.endswith(stretch)
            end = len(text)
            place = starts.index(end - len(stretch))
        else:
            while (end := starts[place] + len(stretch)) not in starts or not text.startswith(
                stretch, starts[place]
            ):
                place += 1
        while starts[place] < end:
            kept.append((starts[place], starts[place + 1]))
            place += 1
    return kept


def left_out(text: str, kept: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the lines with a character that was not kept, one by one and then in ranges."""
    is_kept = bytearray(len(text))
    for a, b in kept:
        is_kept[a:b] = b"\1" * (b - a)
    lines, at = [], 0
    for number, line in enumerate(text.split("\n"), 1):
        end = min(at + len(line) + 1, len(text))
        if not all(is_kept[at:end]):
            lines.append(number)
        at = end
    ranges: list[tuple[int, int]] = []
    for number in lines:
        first = ranges.pop()[0] if ranges and ranges[-1][1] == number - 1 else number
        ranges.append((first, number))
    return tuple(ranges)


# What it keeps


def test_what_is_asked_for_stays() -> None:
    text = PROSE + "The treaty of Utrecht was signed by nobody. " + PROSE
    assert "The treaty of Utrecht was signed by nobody." in extracted(
        text, "Who signed the treaty?"
    )


def test_what_it_looks_like() -> None:
    text = "".join(
        f"It was called the {word}. Many came to it each and every day of their lives, they say. "
        f"The {word} has a keeper. She is called {word.title()}ia. Nobody knows how old she is.\n\n"
        for word in WORDS[:8]
    )
    assert extracted(text, "What is the keeper of the garden called?", keep=0.15) == (
        "[left out at …; the source is intact: get ctx:ab12cd34]\n"
        "… The river has a keeper. …\n"
        "It was called the garden. … The garden has a keeper. She is called Gardenia. …\n"
    )


def test_the_answer_beside_the_words_that_were_asked_for_stays() -> None:
    text = PROSE + "The lighthouse has a keeper. She is Maria. " + PROSE
    assert "She is Maria." in extracted(text, "Who keeps the lighthouse?", keep=0.1)


def test_lines_stay_whole() -> None:
    text = "".join(f"2024-05-06 10:00:{n % 60:02} INFO job={n} host=h{n % 9}\n" for n in range(300))
    lines = extracted(text, "job=42 of h6", keep=0.05).split("\n")
    assert "2024-05-06 10:00:42 INFO job=42 host=h6" in lines
    assert lines[0] == "[left out at …; the source is intact: get ctx:ab12cd34]"


def test_what_must_be_kept_is_kept_beyond_the_rate() -> None:
    must = [f"on day {n} by" for n in range(0, 100, 2)]
    text = extracted(PROSE, "window", keep=0.05, must=must)
    assert count(text) > 0.05 * count(PROSE)


def test_the_best_is_kept_beyond_the_rate() -> None:
    assert "on day 88 " in extracted(PROSE, "who came on day 88", keep=0.001)


def test_the_rate_is_used() -> None:
    assert count(extracted(PROSE, "river stone engine day", keep=0.5)) > 0.47 * count(PROSE)


@pytest.mark.parametrize("sign", ["…", "… and […]", "[…] and […2] and […3]", "[…] […4]"])
def test_the_sign_is_none_of_the_texts(sign: str) -> None:
    extracted(f"{PROSE}The text has {sign} in it. {PROSE}", "river")


# What it leaves as it is


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (PROSE, ""),
        (PROSE, " \n"),
        (PROSE, "nothing common"),
        (PROSE, "?!"),
        ("", "river"),
        ("".join(SENTENCES[:9]), "river"),
        ("river " * 150, "river"),
        (json.dumps([PROSE, {"river": PROSE}]), "river"),
        (json.dumps([PROSE, {"river": SENTENCES}], indent=1), "river"),
    ],
)
def test_left_as_it_is(text: str, query: str) -> None:
    assert extract(text, query) is None


def test_nothing_where_all_must_be_kept() -> None:
    assert extract(PROSE, "river", must=["The"]) is None


def test_json_lines_are_lines() -> None:
    text = "".join(json.dumps({"id": n, "name": f"name{n}"}) + "\n" for n in range(100))
    lines = extracted(text, "name77", keep=0.2).split("\n")
    assert '{"id": 77, "name": "name77"}' in lines


@pytest.mark.parametrize("keep", [0.0, 1.0, -1.0, float("nan")])
def test_a_rate_that_is_none(keep: float) -> None:
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        Extract(keep=keep)


# Any text

_SOME = [
    *SENTENCES[:9],
    "。",
    "他说。",
    "…",
    "[…]",
    "[…2] ",
    "\n",
    "\n\n",
    " ",
    "x" * 1500,
    "\ud800",
    "river\r\n",
]


@given(
    st.lists(st.sampled_from(_SOME), max_size=80).map("".join),
    st.sampled_from(["river", "day 4?", "他说", "x", "…", "\ud800"]),
    st.floats(0.01, 0.99),
    st.lists(st.sampled_from(["day 3", "他", "…2"]), max_size=2),
)
def test_any_text(text: str, query: str, keep: float, must: list[str]) -> None:
    extract(text, query, keep=keep, must=must)


def test_recorded_texts() -> None:
    source = random.Random(7)
    for _, text in tool_outputs():
        words = text[:100_000].split() or [""]
        extract(text[:100_000], " ".join(source.choices(words, k=5)))
    for _, messages in conversations():
        for message in messages[::21]:
            extract(message["content"], messages[0]["content"][:200])


@pytest.mark.parametrize(
    "piece", ["The river was seen. ", "[…2] […3] a\n", ". ", "river。", "\n \n", "x"]
)
def test_time_is_linear(piece: str) -> None:
    def seconds(size: int) -> float:
        text = PROSE + piece * (size // len(piece))
        times = []
        for _ in range(2):
            start = process_time()
            Extract().shorten(text, ref=REF, query="the river", count=len)
            times.append(process_time() - start)
        return min(times)

    assert seconds(160_000) < 20 * max(seconds(20_000), 0.005)


def test_signs_without_number_are_found_in_linear_time() -> None:
    text = PROSE + "[…]" + "".join(f"[…{n}] " for n in range(60_000))
    start = process_time()
    assert "[…60000]" in extracted_text(text)
    assert process_time() - start < 5


def extracted_text(text: str) -> str:
    shortened = Extract(keep=0.05).shorten(text, ref=REF, query="the river", count=len)
    assert shortened is not None
    return shortened.text

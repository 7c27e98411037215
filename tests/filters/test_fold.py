"""Folding is byte-exact on every text, keeps the order, and saves what logs have in common."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from random import Random
from time import process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentbus.errors import FormBroken
from agentbus.filters import Form
from agentbus.filters.fold import WORTH, Fold
from agentbus.filters.fold_head import find_head, parts_of, shortened, whole
from agentbus.filters.fold_marks import EXPLAINED, MAX_TEXT, NAMES, PAIRS, Marks, again

from .recorded import conversations, tool_outputs

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "3000"))
"""Generated texts; 200,000 take under two minutes."""

FOLD: Form = Fold()


def fold(text: str) -> str | None:
    """Write a text, and check that it is read back and is no longer."""
    written = FOLD.write(text)
    if written is not None:
        assert FOLD.is_same(text, FOLD.read(written))
        assert len(written) <= WORTH * len(text)
    return written


def folded(text: str) -> list[str]:
    """Return the lines of a text that is folded, but for the explanation."""
    written = fold(text)
    assert written is not None
    return written.split("\n")[1:]


def log(count: int, line: Callable[[int], str]) -> str:
    return "".join(line(number) + "\n" for number in range(count))


def minute(number: int) -> str:
    return f"2024-05-06 10:{number // 60 % 60:02}:{number % 60:02}"


OTHER = "".join(f"{word}: something else\n" for word in ("one", "two", "three", "four"))
"""Lines that start otherwise than those beside them."""


# What it looks like


def test_lines_of_one_template_are_written_by_what_differs() -> None:
    text = log(
        9, lambda n: f"worker started job number {7 * n} on the machine called node-{n}.local"
    )
    assert folded(text + OTHER)[:3] == [
        "A: worker started job number {0} on the machine called node-{0}.local",
        "A 7 1",
        "A 14 2",
    ]


def test_a_value_as_before_is_a_sign() -> None:
    text = log(18, lambda n: f"the connection from 10.0.0.{n // 3} was refused with code {n}")
    assert folded(text + OTHER)[1:4] == ["A = 1", "A = 2", "A 10.0.0.1 3"]


def test_what_lines_start_with_is_said_once() -> None:
    levels = ["INFO ready to serve", "WARN queue is long", "INFO all is quiet"]
    text = log(30, lambda n: f"{minute(n * n)} host {levels[n * n % 3]}")
    assert folded(text)[:4] == [
        "Lines start: 2024-05-06 {~} host ...",
        "- 10:00:00 INFO ready to serve",
        "- 01 WARN queue is long",
        "- 04 WARN queue is long",
    ]


def test_what_lines_start_with_is_said_again_where_it_changes() -> None:
    text = log(
        80, lambda n: f"2024-05-{n // 40 + 10} 10:00:{n % 40 + 10} host said {'x' * (n % 7)}"
    )
    starts = [line for line in folded(text) if line.startswith("Lines start")]
    assert starts == [f"Lines start: 2024-05-{day} {{~}} host said ..." for day in (10, 11)]


def test_a_value_twice_in_a_start_is_said_once() -> None:
    text = log(40, lambda n: f"{minute(n)} n{n % 9} seen by n{n % 9} {'ab'[n % 2]}")
    lines = folded(text)
    assert lines[0] == "Lines start: 2024-05-06 {~} {} seen by {2} ..."
    assert lines[2] == "- 01 n1 b"


def test_white_space_that_differs_is_no_part_of_a_start() -> None:
    text = log(60, lambda n: f"{minute(n)} {(17, 23954, 150)[n % 3]:>6} told the host of it at {n}")
    lines = folded(text)
    assert sum(line.startswith("Lines start") for line in lines) == 1
    assert lines[1] == "A: 10:00:00     17 told the host of it at {0}"


def test_lines_that_differ_in_a_word_are_of_one_template() -> None:
    names = ["Anna", "Bert", "Cleo", "Dora"]
    text = log(20, lambda n: f"{names[n % 4]}: the user logged in from machine {n} of the office")
    assert folded(text + OTHER)[1] == "A Bert 1"


def test_lines_that_differ_in_much_are_not() -> None:
    said = ["{}: the disk of host a is full again", "{}: no key in table b can be found"]
    text = log(20, lambda n: said[n % 2].format("xyz"[n % 3]) + f" {n}")
    assert {line[0] for line in folded(text) if line} == set("AB")


def test_lines_that_follow_each_other_are_counted() -> None:
    block = "one line of some length\nanother line of some length\n"
    assert folded("first\n" + block * 5) == [
        "first",
        *block.splitlines(),
        "(the 2 lines above 4 more times)",
        "",
    ]
    assert folded(
        "a line that is long enough to be told about, for a mark takes its own place, "
        "and so does what explains it\n" * 2
    )[1] == ("(the line above 1 more time)")


def test_a_sign_before_a_time_is_kept() -> None:
    text = log(240, lambda n: f"host @{n // 20 + 10}:{n % 20 + 10} said {'xyz'[n % 3]} and no more")
    assert folded(text)[0] == "Lines start: host {} said ..."


def test_lines_that_are_counted_have_no_name() -> None:
    line = "one line of a text that is written many times"
    text = log(20, lambda n: f"{line}\n{line}\n{line}\nother {'xyz'[n % 3] * 50}{n}")
    assert folded(text)[0] == "A: " + line
    assert folded(f"{line}\n" * 20 + OTHER)[0] == line


def test_a_line_that_does_not_start_so_stands_as_it_is() -> None:
    odd = "2024-05-06=10:00:00 host said nothing of this"
    text = log(40, lambda n: f"{minute(n)} host said {'xyz'[n % 3]}" if n != 7 else odd)
    assert [line for line in folded(text) if "=1" in line] == [odd]
    assert sum(line.startswith("Lines start") for line in folded(text)) == 1


def test_lines_that_begin_otherwise_have_names_too() -> None:
    trace = "    at the.module.Class.method(Class.java:42) of this program"
    text = log(60, lambda n: f"{minute(n)} host did {'xyz'[n % 3]}" if n % 12 else trace)
    lines = folded(text)
    assert lines[0] == "A:: " + trace
    assert lines.count("A") == 4


def test_the_order_is_kept() -> None:
    text = log(30, lambda n: f"{'abc'[n % 3] * 9} is what a line says that has the number n{n}")
    numbers = [re.findall("n([0-9]+)", line) for line in folded(text)]
    assert [int(found[0]) for found in numbers if found] == list(range(30))


def test_a_mark_in_a_text_stands_behind_a_sign() -> None:
    text = log(12, lambda n: f"the connection number {n} was refused by the machine")
    lines = folded("A: 7\n\\\n(the line above 1 more time)\n" + text)
    assert lines[:3] == ["\\A: 7", "\\\\", "\\(the line above 1 more time)"]


def test_a_name_is_none_that_a_line_begins_with() -> None:
    text = log(12, lambda n: f"the connection number {n} was refused by the machine")
    lines = folded("A line of the text\n\\\n" + text)
    assert lines[:3] == [
        "A line of the text",
        "\\",
        "B: the connection number {0} was refused by the machine",
    ]


def test_a_line_that_begins_with_a_name_in_use_stands_behind_a_sign() -> None:
    text = log(20_000, lambda n: f"{'ab'[n % 2] * 90} is number {n} refused by machine {n % 7}")
    lines = folded(text + OTHER * 600 + "A line that is a part apart\n" + "x" * 1_000_000)
    assert "\\A line that is a part apart" in lines


def test_brackets_are_such_as_the_text_has_not() -> None:
    text = log(9, lambda n: f"the {{connection}} number {n} was <refused> by the machine")
    assert "«0»" in folded(text + OTHER)[0]
    assert "<0>" in folded(text.replace("{", "").replace("<refused>", "refused") + OTHER)[0]
    assert FOLD.write(text + "".join(PAIRS)) is None


def test_a_text_with_nothing_in_common_is_not_for_it() -> None:
    assert FOLD.write("") is None
    assert FOLD.write("one line") is None
    assert FOLD.write("one\ntwo\nthree\n") is None
    draw = Random(1)
    words = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(400)]
    some = "\n".join(" ".join(words[n : n + 2 + n % 7]) for n in range(0, 400, 8))
    repeated = "a line that is long enough to be told about, however long the mark for it is\n"
    assert FOLD.write(repeated * 9 + some) is not None
    assert FOLD.write(repeated * 3 + some) is None, "little is won"


# Exact on every text

PIECES = [
    *(f"{name}{mark}" for name in ("A", "B", "AA", "ZZ") for mark in ("", ": ", ":: ", " ", ":")),
    *("Lines start: ", "...", "Lines start: {~} {} {1} ...", "- ", "\\", "\\\\", "=", " = ", "~"),
    *("(the line above 2 more times)", "(the 3 lines above 1 more time)", "(the ", " more times)"),
    *list(EXPLAINED)[::37],
    *"{}<>«»⟨⟩⟦⟧[]()|;,:.-_/ \t",
    *(
        "\n",
        "\n",
        "\r\n",
        "\r",
        "\f",
        "\v",
        "\0",
        "\x1c",
        "\x85",
        "\u2028",
        "\u2029",
        "\ud800",
        "\udfff",
    ),
    *(
        "10:20:30",
        "10:20:31",
        "10:21",
        "2024-05-06",
        "10.0.0.1",
        "0x7f",
        "1",
        "22",
        "-5",
        "٣",
        "日本",
    ),
    *("INFO", "WARN", "the", "worker", "finished its job", "é", "e\u0301", "_", "a_1"),
]
"""What hostile texts are made of."""


def _row(source: random.Random, words: int) -> str:
    return "".join(source.choice(PIECES).replace("\n", "") + " " for _ in range(words))


def _pieces(source: random.Random) -> str:
    return "".join(source.choices(PIECES, k=source.randrange(40)))


def _like_a_log(source: random.Random) -> str:
    """Lines with a common start and few templates, some of them broken."""
    start = source.choice(
        ["", "10:20:{} host ", "{} - [{}] ", "d-{} t:{}:{} x {} ", "[{}|{}] ", "{}="]
    )
    templates = [_row(source, source.randrange(1, 6)) for _ in range(source.randrange(1, 4))]
    lines = []
    for _ in range(source.randrange(2, 30)):
        line = start
        while "{}" in line:
            value = source.choice(["", "07", "8", "10:2", "10:3", "9.9", "AB", "x1", "=", "1:2:3"])
            line = line.replace("{}", value, 1)
        line += source.choice(templates)
        if source.random() < 0.6:
            line += source.choice(PIECES) + source.choice(["", " end", "]", "x"])
        if source.random() < 0.05:
            line = _pieces(source)
        lines.append(line)
        if source.random() < 0.1:
            lines += lines[-source.randrange(1, 4) :] * source.randrange(1, 5)
    return source.choice(["\n", "\n", "\n", "\r\n"]).join(lines) + source.choice(["", "\n", "\n\n"])


STARTS = [
    ["2024-05-06 ", "{time}", " host "],
    ["[Sun May 05 ", "{time}", " 2024] [", "{level}", "] "],
    ["- ", "{number}", " ", "{place}", " ", "{time}", " ", "{place}", " RAS "],
    ["{date}", " ", "{time}", " ", "{pid}", "{pid}", " ", "{level}", " "],
    ["{level}", " ", "{time}", "|", "{place}", "|", "{number}", "= from the host "],
]
"""How the lines of logs start."""


def _value(source: random.Random, kind: str, at: int) -> str:
    values = {
        "{time}": f"10:{at // 60:02}:{at % 60:02}",
        "{date}": f"2024-05-{6 + at // 20:02}",
        "{number}": str(1_000_000 + at),
        "{place}": f"R{at % 3}-M{at % 2}:J1",
        "{level}": ("INFO", "WARN")[at % 5 == 0],
        "{pid}": f" {source.choice([17, 2395, 15432]):>6}",
    }
    return values.get(kind, kind)


def _with_a_start(source: random.Random) -> str:
    """Lines of a log, of which some do not start quite like the others."""
    start = source.choice(STARTS)
    said = [_row(source, 3) for _ in range(3)]
    odd = [
        "",
        "=",
        "10:2",
        "-10:20:30",
        "1:2:3:4",
        ":10:20",
        "R9-M1:J",
        "  ",
        "\t",
        " = ",
        "A",
        "7",
    ]
    lines = []
    at = 0
    for _ in range(source.randrange(10, 30)):
        at += source.choice([0, 0, 1, 1, 2, 60])
        parts = [_value(source, kind, at) for kind in start]
        if source.random() < 0.06:
            parts[source.randrange(len(parts))] = source.choice(odd)
        lines.append("".join(parts) + source.choice(said) + source.choice(["", "", str(at)]))
    return "\n".join(lines) + source.choice(["", "\n"])


def _again(source: random.Random) -> str:
    """What is written of such a text, whole or in part, or twice."""
    text = source.choice([_like_a_log, _with_a_start])(source)
    written = FOLD.write(text) or text
    cut = source.randrange(len(written) + 1)
    return source.choice([written, written[:cut], written[cut:] + written, written * 2])


def test_generated_texts_are_read_back() -> None:
    source = random.Random(5)
    makers = (_like_a_log, _with_a_start, _like_a_log, _pieces, _pieces, _again)
    taken = 0
    for number in range(CASES):
        taken += fold(makers[number % len(makers)](source)) is not None
    assert taken > CASES / 5


@given(st.lists(st.sampled_from(PIECES), max_size=60))
@example(["\n"] * 60)
def test_texts_of_marks_are_read_back(pieces: list[str]) -> None:
    fold("".join(pieces))
    fold("".join(pieces) * 3)


@given(st.text(st.characters(exclude_categories=()), max_size=30), st.integers(1, 60))
def test_any_text_is_read_back(text: str, times: int) -> None:
    fold(text * times)
    fold((text + "\n") * times)


@given(
    st.lists(st.lists(st.sampled_from([*"ab19:.-_/ =[", "10:2", "INFO"])), min_size=5), st.data()
)
def test_lines_that_start_alike_are_read_back(lines: list[list[str]], data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(["2024-05-06 10:00:", "host ", "[a] ", ""]))
    rest = data.draw(st.sampled_from(["", " and what all lines have at their end: nothing"]))
    fold("\n".join(start + "".join(line) + rest for line in lines * 2))


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(list(EXPLAINED)))
def test_what_was_not_written_is_refused_or_read(pieces: list[str], first: str) -> None:
    try:
        FOLD.read(first + "\n" + "".join(pieces))
    except FormBroken:
        pass


def explained(rest: str, *, headed: bool) -> str:
    return Marks("{}", named=True, headed=headed).explained() + "\n" + rest


@pytest.mark.parametrize(
    "rest",
    [
        "A: x {1}\nA",
        "A: x {1}\nA 1 2",
        "A: x\nA ",
        "(the line above 1 more time)",
        "x\n(the 2 lines above 1 more time)",
        "x\n(the line above 999999999 more times)",
    ],
)
def test_names_and_counts_that_write_does_not_write_are_refused(rest: str) -> None:
    with pytest.raises(FormBroken):
        FOLD.read(explained(rest, headed=False))


@pytest.mark.parametrize(
    "rest",
    [
        "- 1",
        "A: x",
        "Lines start: {} {~} ...\n- 1",
        "Lines start: {1} ...\n- 1",
        "Lines start: {} ...\nA: 1 x\nA",
        "Lines start: {} ...\n- 1 x\nLines start: {} {} ...\n- 1 2 x",
        "Lines start: {} ..",
    ],
)
def test_starts_that_write_does_not_write_are_refused(rest: str) -> None:
    with pytest.raises(FormBroken):
        FOLD.read(explained(rest, headed=True))


def test_a_name_that_is_given_again_is_the_last_lines() -> None:
    rest = "Lines start: x{} ...\nA:: a {1}\nA 2\nA: 3 b {4}\nA = 5"
    assert FOLD.read(explained(rest, headed=True)) == "a 1\na 2\nx3 b 4\nx3 b 5"


@pytest.mark.parametrize("text", ["", "x", "\n", "[Folded, nothing is lost.]", "no mark\nat all\n"])
def test_a_text_that_is_not_folded_is_refused(text: str) -> None:
    with pytest.raises(FormBroken):
        FOLD.read(text)


# Real outputs


def test_recorded_outputs_are_read_back() -> None:
    shares = []
    for name, text in tool_outputs():
        for each in (text, text.replace("\n", "\r\n"), text.rstrip("\n"), text + text):
            fold(each)
        if name.startswith("log/"):
            shares.append(1 - len(FOLD.write(text) or text) / len(text))
    assert sorted(shares)[len(shares) // 2] > 0.5


def test_recorded_messages_are_read_back() -> None:
    for _, messages in conversations():
        for message in messages:
            fold(message["content"])


# Large texts


def test_long_lines_and_many_lines() -> None:
    line = "word 12 " * 200_000
    fold(line + "\n" + line)
    fold("\n" * 300_000)
    fold("x" * 3_000_000 + "\n1\n2\n")
    fold("{" * 100_000 + "\n" + "<" * 100_000)
    assert FOLD.write("a\n" * (MAX_TEXT // 2)) is None


def test_more_templates_than_names() -> None:
    def line(number: int) -> str:
        shape = "".join("x" + "|;"[number >> bit & 1] for bit in range(10))
        return f"{shape} is a line of a shape that no other line has"

    text = log(len(NAMES) + 100, line)
    lines = folded(text * 2)
    assert sum(": x" in line for line in lines) == len(NAMES)


def test_parts_of_a_large_text_have_names_of_their_own() -> None:
    said = ["has finished its job {} in time", "of the pool {} asks for more work"]
    text = log(40_000, lambda n: f"{minute(n)} host worker {said[n % 2].format(n * 13)}")
    lines = folded(text)
    assert len(text) > 1 << 21
    assert sum(line.startswith("A: ") for line in lines) > 1


def test_parts_of_a_large_text_that_start_differently_are_read_back() -> None:
    size = 12_000
    one = log(size, lambda n: f"{minute(n)} host {n} told {'xyz'[n % 3]} of its work {'-' * 60}")
    other = log(size, lambda n: f"[{n}] {minute(n)} {n % 7} told {'xyz'[n % 3]} of it {'-' * 60}")
    assert min(len(one), len(other)) > 1 << 20
    fold(one + other)
    fold(other + one)


def test_time_is_linear() -> None:
    def text(size: int) -> str:
        source = random.Random(3)
        return log(size, lambda n: f"{minute(n)} host {_row(source, 4)}".replace("\n", ""))

    def seconds(text: str) -> float:
        times = []
        for _ in range(3):
            start = process_time()
            FOLD.write(text)
            times.append(process_time() - start)
        return min(times)

    small, large = text(3000), text(12000)
    assert seconds(large) < 12 * seconds(small)


# Parts


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=5), st.lists(st.integers(0, 30)), st.data()
)
def test_an_end_that_changed_is_made_whole(
    before: list[int], changed: list[int], data: st.DataObject
) -> None:
    after = (changed + before[len(changed) :])[: len(before)]
    separators = data.draw(st.lists(st.sampled_from(":.-_"), min_size=4, max_size=4))

    def value(words: list[int]) -> str:
        return "".join(f"{w}{s}" for w, s in zip(words, separators, strict=False)).rstrip(":.-_")

    if value(before) != value(after):
        assert whole(shortened(value(after), value(before)), value(before)) == value(after)


def test_names_are_short_and_all_different() -> None:
    assert NAMES[:2] == ("A", "B")
    assert NAMES[25:28] == ("Z", "AA", "AB")
    assert NAMES[-1] == "ZZ"
    assert len(set(NAMES)) == 26 + 26 * 26


def test_counts_are_plain_words() -> None:
    assert again(1, 1) == "(the line above 1 more time)"
    assert again(3, 2) == "(the 3 lines above 2 more times)"


def test_lines_that_start_differently_have_no_head() -> None:
    assert find_head([parts_of(f"{'abcdefgh'[n]} x {n}") for n in range(8)]) is None
    assert find_head([]) is None

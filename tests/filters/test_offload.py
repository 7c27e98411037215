"""Large texts without their middle: what is shown is verbatim and in its place, what is left out can
be had by what the marks say, and no failure is left out."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import TenantKey, reference
from agentbus.context.earlier import is_mark
from agentbus.context.fetch_tool import GetRequest, read_request
from agentbus.filters.keep import failures, must_keep
from agentbus.filters.landmarks import ENTRIES
from agentbus.filters.left_out import MAX_LINES, merged
from agentbus.filters.lossy import Lossy, Shortened
from agentbus.filters.offload import (
    END_LINES,
    END_TOKENS,
    LARGE_CHARACTERS,
    LARGE_TOKENS,
    LEAST_SHARE,
    Offload,
)

from .recorded import conversations, tool_outputs

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "1000"))
"""How many generated texts; a stress run takes 200,000."""
OFFLOAD: Lossy = Offload()
REF = "ctx:ab12cd34"

_GET = rf"left out here; the source is intact: get {REF}"
_LINES = re.compile(
    rf"\[lines? ([0-9]+)(?:-([0-9]+))? {_GET} lines=([0-9]+)-([0-9]+)(; [^\[\]]+)?\]"
)
_CHARACTERS = re.compile(
    rf"\[characters ([0-9]+)-([0-9]+) of line ([0-9]+) {_GET} "
    r"lines=([0-9]+)-([0-9]+) characters=([0-9]+)-([0-9]+)(; [^\[\]]+)?\]"
)
_QUOTED = "[quoted] "


def thirds(text: str) -> int:
    """Count as tokenizers do of English text, about."""
    return (len(text) + 2) // 3


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]|\s+", text))


def heavy(text: str) -> int:
    """Count the bytes of UTF-8, as tokenizers nearly do of rare characters."""
    return len(text.encode("utf-8", "surrogatepass"))


def shorten(text: str, count: Callable[[str], int] = thirds) -> Shortened | None:
    """Shorten a text, and check all that is promised of it."""
    shortened = OFFLOAD.shorten(text, ref=REF, query="", count=count)
    assert shortened == OFFLOAD.shorten(text, ref=REF, query="something", count=count)
    if shortened is None:
        return None
    assert count(shortened.text) < count(text)
    restored, left_out = restore(text, shortened.text)
    assert restored == text
    assert shortened.left_out == left_out != ()
    return shortened


def restore(text: str, shortened: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Put what marks name in their places; return the text, and the lines that marks speak of."""
    source, found, left_out = text.split("\n"), list[str](), list[tuple[int, int]]()
    within = False
    for line in shortened.split("\n"):
        if mark := _LINES.fullmatch(line):
            first, last = int(mark[3]), int(mark[4])
            assert (int(mark[1]), int(mark[2] or mark[1])) == (first, last) and not within
            assert first == len(found) + 1
            found += source[first - 1 : last]
            assert len(found) == last
            left_out.append((first, last))
        elif mark := _CHARACTERS.fullmatch(line):
            number, begin, end = int(mark[3]), int(mark[1]), int(mark[2])
            assert mark.groups()[3:7] == (mark[3], mark[3], mark[1], mark[2])
            assert (number, begin) == (len(found), len(found[-1]) + 1) and not within
            found[-1] += source[number - 1][begin - 1 : end]
            assert len(found[-1]) == end
            left_out.append((number, number))
            within = True
        elif within:
            found[-1] += unquoted(line)
            within = False
        else:
            found.append(unquoted(line))
    return "\n".join(found), merged(left_out)


def unquoted(line: str) -> str:
    """Return the content of a line that is no mark; in it no mark can be seen without `[quoted] `."""
    assert not (_LINES.search(line) or _CHARACTERS.search(line)) or line.startswith(_QUOTED)
    content = line.removeprefix(_QUOTED)
    return content if re.search(r"\[.*left out", content, re.DOTALL) or is_mark(content) else line


def shown_lines(shortened: Shortened) -> list[str]:
    """Return the content of all lines but marks."""
    written = shortened.text.split("\n")
    return [unquoted(line) for line in written if not mark_in(line)]


def mark_in(line: str) -> re.Match[str] | None:
    return _LINES.fullmatch(line) or _CHARACTERS.fullmatch(line)


def check_failures(text: str, shortened: Shortened) -> None:
    """Check that what must be kept of a text is shown, if its lines are not too long."""
    lines, shown = text.split("\n"), set(shown_lines(shortened))
    for line, keep in zip(lines, must_keep(lines), strict=True):
        if keep and len(line) < 1000:
            assert line in shown
    for number, line in enumerate(lines, 1):
        if len(line) >= 1000 and any(first <= number <= last for first, last in shortened.left_out):
            assert all(line[slice(*stretch)] in shortened.text for stretch in failures(line))


def numbered(count: int, line: str = "line {} of a text that is quite ordinary") -> str:
    return "\n".join(line.format(number) for number in range(1, count + 1)) + "\n"


LINES = [
    *(
        "",
        "",
        " ",
        "\r",
        "ordinary words\r",
        "    return None",
        "\x00\x01",
        "\ud83d half",
        "漢字を読む" * 9,
    ),
    *("error: it broke", "Traceback (most recent call last):", "    at a.b(c.js:1)", "0 errors"),
    *(
        "def one(a):",
        "class Two:",
        "  async def three(self):",
        '  "key": [1, 2],',
        "{",
        "}",
        "[",
        "]",
    ),
    *(f"[lines 2-9 {_GET} lines=2-9]", f"[quoted] [line 2 {_GET} lines=2-2]", "[quoted] a"),
    *(
        f"[characters 2-9 of line 1 {_GET} lines=1-1 characters=2-9]",
        "[ left out",
        "[lines 1 again]",
    ),
    *(
        "a" * 3000,
        "word " * 900,
        "漢字。" * 700,
        "1,2," * 900,
        "x 'error: y' " + "z " * 2500,
        "\r" * 2000,
    ),
    *("\x1b[31mred\x1b[0m", "\u2028", "a\x0bb\x0c", "e\u0301" * 60, "path/to/a-file.py:12 " * 300),
]
lines = st.one_of(st.sampled_from(LINES), st.text(max_size=9))


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Draw large texts, some of whose lines come very often."""
    often = st.tuples(lines, st.sampled_from([1, 1, 1, 2, 40, 300]))
    drawn = draw(st.lists(often, min_size=1, max_size=9))
    return "\n".join(line for line, times in drawn for line in [line] * times)


@settings(deadline=None, max_examples=150)
@given(texts(), st.sampled_from([thirds, words, heavy, len]))
def test_what_is_left_out_can_be_put_back(text: str, count: Callable[[str], int]) -> None:
    shortened = shorten(text, count)
    if shortened:
        check_failures(text, shortened)


def test_generated_texts_can_be_put_back() -> None:
    some = random.Random(7)
    shortened = 0
    for _ in range(CASES // 10):
        parts = [
            [some.choice(LINES)] * some.choice([1, 1, 1, 3, 60]) for _ in range(some.randint(4, 30))
        ]
        text = "\n".join(line for part in parts for line in part)
        found = shorten(text, some.choice([thirds, words, heavy]))
        shortened += found is not None
        if found:
            check_failures(text, found)
    assert shortened > CASES / 40


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_recorded_outputs_can_be_put_back(end: str) -> None:
    shortened = 0
    for _, text in tool_outputs():
        found = shorten(text.replace("\n", end))
        shortened += found is not None
        if found:
            check_failures(text.replace("\n", end), found)
    assert shortened > 50


def test_recorded_messages_can_be_put_back() -> None:
    for _, messages in conversations():
        for message in messages:
            found = shorten(message["content"])
            if found:
                check_failures(message["content"], found)


def test_the_mark_is_plain() -> None:
    found = shorten(numbered(400))
    assert found
    lines = found.text.split("\n")
    assert lines[END_LINES - 1] == "line 20 of a text that is quite ordinary"
    assert lines[END_LINES] == (
        "[lines 21-381 left out here; the source is intact: get ctx:ab12cd34 lines=21-381]"
    )
    assert lines[END_LINES + 1 :] == [
        *(f"line {number} of a text that is quite ordinary" for number in range(382, 401)),
        "",
    ]
    assert found.left_out == ((21, 381),)


def test_a_failure_in_the_middle_is_shown() -> None:
    lines = numbered(400).split("\n")
    lines[199:200] = ["Traceback (most recent call last):", "  File x", "Odd: y"]
    found = shorten("\n".join(lines))
    assert found and found.left_out == ((21, 199), (203, 383))
    assert (
        "lines=21-199]\nTraceback (most recent call last):\n  File x\nOdd: y\n[lines 203"
        in found.text
    )


def test_texts_that_are_not_large_stay_whole_and_small_ones_are_not_counted() -> None:
    line = "x " * 60 + "\n"
    assert shorten(line * 100, lambda text: LARGE_TOKENS * len(text) // (100 * len(line))) is None
    assert shorten(line * 100, lambda text: LARGE_TOKENS * len(text) // (99 * len(line)))
    assert shorten("漢" * LARGE_CHARACTERS, lambda text: pytest.fail("it is counted")) is None


def test_a_text_most_of_which_must_be_kept_is_delivered_whole() -> None:
    ordinary, failure = numbered(10), "error: it broke again, as it always does\n"
    assert shorten((ordinary * 3 + failure * 20) * 20)
    assert shorten((ordinary * 3 + failure * 120) * 20) is None
    assert shorten(failure * 2000) is None
    for _, text in tool_outputs():
        if found := shorten(text):
            kept = sum(map(len, found.text.split("\n")))
            assert kept < (1 - LEAST_SHARE) * len(text) + 200 * found.text.count(REF)


def test_small_gaps_are_shown() -> None:
    text = ("error: it broke\n" + "ordinary words\n" * 12) * 300
    assert shorten(text) is None
    found = shorten(text + numbered(2000))
    assert found and len(found.left_out) == 1


def test_a_gap_that_takes_few_tokens_is_shown() -> None:
    blank = " " * 5000
    text = numbered(60) + f"error: one\n{blank}\nerror: two\n" + numbered(300)
    found = shorten(text, words)
    assert found and blank in found.text


def test_the_ends_take_a_bounded_room() -> None:
    line = "many words on a long line " * 20
    found = shorten(f"{line}\n" * 100)
    assert found and thirds(found.text) < 2 * END_TOKENS + 100
    assert found.text.startswith(line) and found.text.endswith(f"{line}\n")
    found = shorten("漢字仮名交じり文。\n" * 900, heavy)
    assert found and heavy(found.text) < 2 * END_TOKENS + 400


def test_of_a_line_that_is_too_long_characters_are_left_out() -> None:
    line = " ".join(f"word-{number}" for number in range(20_000))
    found = shorten(line)
    assert found and found.left_out == ((1, 1),)
    head, mark, tail = found.text.split("\n")
    assert head.endswith(" ") and head == line[: len(head)] and line.endswith(f" {tail}")
    assert abs(len(head) - 3 * END_TOKENS) < 20 and abs(len(tail) - 3 * END_TOKENS) < 20
    assert mark == (
        f"[characters {len(head) + 1}-{len(line) - len(tail)} of line 1 left out here; the source is "
        f"intact: get ctx:ab12cd34 lines=1-1 characters={len(head) + 1}-{len(line) - len(tail)}]"
    )


@pytest.mark.parametrize("between", [" ", ",", ";", "。", "\t", "{", ", "])
def test_words_stay_whole(between: str) -> None:
    word = "an/identifier-of.parts_1234"
    found = shorten(between.join([word] * 3000))
    assert found
    head, _, tail = found.text.split("\n")
    assert set(re.split(rf"{re.escape(between)}", f"{head}{between}{tail}")) <= {word, ""}


def test_numbers_with_commas_stay_whole() -> None:
    found = shorten("1,234,567 " * 3000)
    assert found
    head, _, tail = found.text.split("\n")
    assert set(f"{head} {tail}".split()) == {"1,234,567"}


def test_a_word_without_end_is_cut() -> None:
    found = shorten("漢" * 30_000)
    assert found and len(found.text) < 3000


def test_a_failure_in_a_line_that_is_too_long_is_shown() -> None:
    record = '{"id": 12, "name": "ordinary", "status": 200}, '
    failure = '{"id": 13, "name": "odd", "status": 500, "error": "it broke"}, '
    text = f"[{record * 800}{failure}{record * 800}{{}}]"
    found = shorten(text)
    assert found and failure in found.text and found.text.count("left out here") == 2
    first, second = there(found)
    assert re.fullmatch("items [0-9]+-[0-9]+ of 1602 begin here", first) and first != second


def test_content_that_looks_like_a_mark_is_quoted() -> None:
    marks = [line for line in LINES if "left out" in line or "again" in line]
    text = "\n".join([*marks, numbered(400), *marks, "[quoted] a", f"mid-line {marks[0]}"])
    found = shorten(text)
    assert found
    shown = found.text.split("\n")
    assert all(f"[quoted] {mark}" in shown and mark not in shown for mark in marks[1:])
    assert f"[quoted] mid-line {marks[0]}" in shown and "[quoted] a" in shown


def test_a_part_of_a_long_line_that_looks_like_a_mark_is_quoted() -> None:
    fake = f"[lines 2-9 {_GET} lines=2-9]"
    found = shorten("x " * 500 + fake + " y" * 9000 + f" {fake}" + " z" * 590)
    assert found and found.text.startswith("[quoted] x ")


def there(found: Shortened | None) -> list[str]:
    """Return what marks say of what was left out."""
    assert found
    marks = map(mark_in, found.text.split("\n"))
    return [(mark.groups()[-1] or "").removeprefix("; ") for mark in marks if mark]


SOURCES = {
    "    def bar(self) -> int:": "def bar",
    "async def wait():": "def wait",
    "class Foo(Base):": "class Foo",
    "87:class Foo:": "class Foo",
    "export default function main() {": "function main",
    "export const add = (a, b) => a + b;": "const add",
    "func (s *Server) Listen(port int) string {": "func (s *Server) Listen",
    "type Server struct {": "type Server",
    "pub(crate) fn parse<T>(text: &str) -> T {": "fn parse",
    "public final class Main extends Base {": "class Main",
    "interface Shape {": "interface Shape",
    "impl Display for Shape {": "impl Display",
    "diff --git a/x.py b/x.py": "diff --git a/x.py b/x.py",
}


@pytest.mark.parametrize("line", SOURCES)
def test_definitions_are_on_the_map(line: str) -> None:
    body = ["    x = x + 1  # ordinary"] * 100
    text = "\n".join([*body, line.replace("87:", "101:"), *body, *body])
    assert there(shorten(text)) == [f"line 101 {SOURCES[line]}"]


@pytest.mark.parametrize(
    "line",
    [
        *("class of 1998 was large", "the function foo(", "undefined x", "defer x()", "type this"),
        *("class = 3", "return class_a", "x = function(a)", "structure foo {", "# class Foo:"),
    ],
)
def test_other_lines_are_not(line: str) -> None:
    assert there(
        shorten("\n".join([*(["ordinary line"] * 400), line, *(["ordinary line"] * 400)]))
    ) == [""]


def test_a_long_map_names_the_outermost() -> None:
    methods = "\n".join(f"    def method_{number}(self): pass" for number in range(40))
    text = "\n".join(f"class Foo{number}:\n{methods}" for number in range(10))
    found = shorten(text)
    (listed,) = there(found)
    assert [f"{41 * n + 1} class Foo{n}" in listed for n in range(10)] == [False, *[True] * 9]
    assert listed.count(" def ") == ENTRIES - 9
    first, last = found.left_out[0] if found else (0, 0)
    assert listed.endswith(f" and {last - first + 1 - ENTRIES} more")


def items(text: str, begins: str) -> str:
    """Check which items are said to begin in the one gap, and return in what they are."""
    found = shorten(text)
    assert found and len(found.left_out) == 1
    starts = [n for n, line in enumerate(text.split("\n"), 1) if line == begins]
    first, last = found.left_out[0]
    here = [n for n, line in enumerate(starts, 1) if first <= line <= last]
    (listed,) = there(found)
    said = re.fullmatch(r"items ([0-9]+)-([0-9]+) of ([0-9]+)(.*) begin here", listed)
    assert said and (here[0], here[-1], len(starts)) == tuple(map(int, said.groups()[:3]))
    return str(said[4])


def test_the_map_of_json_names_keys_and_items() -> None:
    rows = [{"id": number, "name": f"row {number}", "tags": ["a", "b"]} for number in range(200)]
    many = {f"key {number}": rows[:9] for number in range(16)}
    assert items(json.dumps(rows, indent=1), " {") == ""
    nested = {"page": 1, "data": {"rows": rows}, "next": None}
    assert items(json.dumps(nested, indent=1), "   {") == ' in "rows" in "data"'
    assert items(json.dumps([[rows]], indent=1), "   {") == " in item 1 in item 1"
    lines = json.dumps(many, indent=1).split("\n")
    (listed,) = there(shorten("\n".join(lines)))
    for place, key in re.findall(r'([0-9]+) ("[^"]+")', listed):
        assert lines[int(place) - 1].strip().startswith(f"{key}: ")
    assert re.findall(r'"[^"]+"', listed) == [f'"key {number}"' for number in range(1, 16)]
    text = json.dumps(many)
    (listed,) = there(shorten(text))
    assert listed.startswith("character ")
    for place, key in re.findall(r'([0-9]+) ("[^"]+")', listed):
        assert text.startswith(f"{key}: ", int(place) - 1)


def test_a_key_that_could_end_a_mark_is_only_counted() -> None:
    rows = "1, " * 900 + "1"
    text = f'{{"a": [{rows}], "]; get": [{rows}], "b": [{rows}], "c": [{rows}]}}'
    second, third = text.index('"b"') + 1, text.index('"c"') + 1
    assert there(shorten(text)) == [f'character {second} "b", {third} "c" and 1 more']


@pytest.mark.parametrize(
    "text",
    [
        '{"a b": 1, "a": [' + "1, " * 3000 + "1], ]",
        "[" * 5000 + "]" * 5000,
        '{"a": 1 "b": 2}' + " 1" * 3000,
        "[1[2]" + ", 3" * 3000 + "]",
        '{1: 2, "a": [' + "1, " * 3000 + "1]}",
        "[" + "1, " * 30_000 + "1]",
        '{"]": "' + "x " * 3000 + '", "a": 1}',
        "[" + "1, " * 3000 + "1] and more",
    ],
    ids=["comma", "deep", "no comma", "brackets", "no key", "many", "odd key", "more"],
)
def test_what_is_no_plain_json_has_no_map(text: str) -> None:
    assert there(shorten(text)) == [""]


def test_what_a_map_says_stands_there() -> None:
    for _, text in tool_outputs():
        found = shorten(text)
        lines = text.split("\n")
        for said in there(found) if found else []:
            unit = said.partition(" ")[0]
            for place, what in re.findall(
                r'([0-9]+) ([^,]+?)(?= and [0-9]+ more|, |$| in ")', said
            ):
                if unit == "line" and what != "more":
                    assert what in lines[int(place) - 1]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "ordinary words of a log line, number 12\n",
            "error0",
            "a.",
            "1,",
            "\x00\ud800",
            "漢",
            " ",
        ),
        *(
            "def f():\n    pass  # ordinary\n",
            "[lines 1-2 left out\n" + "x " * 50,
            '{"a":',
            "error: x\n",
        ),
        *(" " * 199 + "\n", "x" * 3000 + "\n", "error: x\n" + "y" * 500 + "\n"),
    ],
)
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        times = []
        for _ in range(2):
            begun = process_time()
            OFFLOAD.shorten(text, ref=REF, query="", count=thirds)
            times.append(process_time() - begun)
        return min(times)

    assert seconds(1_600_000) < 12 * seconds(400_000) + 0.1


@pytest.mark.parametrize(
    "unit", ["12:00:01 INFO block 1234 is written\n" * 2 + "12:00:02 DEBUG ok\r\n", "ab "]
)
def test_fifty_megabytes(unit: str) -> None:
    """Little of them is counted."""
    text = unit * (50_000_000 // len(unit))
    counted = 0

    def count(part: str) -> int:
        nonlocal counted
        counted += len(part)
        return thirds(part)

    begun = process_time()
    found = OFFLOAD.shorten(text, ref=REF, query="", count=count)
    assert process_time() - begun < 40
    assert found and len(found.text) < 10_000 and counted < 100_000


def test_a_text_of_very_many_lines_is_delivered_whole() -> None:
    assert OFFLOAD.shorten("\n" * MAX_LINES, ref=REF, query="", count=thirds) is None


def test_a_huge_text_with_failures_everywhere_gains_or_stays() -> None:
    text = ("error: it broke\n" + "ordinary words\n" * 60) * 4000
    found = OFFLOAD.shorten(text, ref=REF, query="", count=thirds)
    assert found is None  # with no more marks than are allowed, too little is left out


@pytest.mark.parametrize("times", [500, 60_000])
def test_a_text_that_would_grow_by_quoting_is_delivered_whole(times: int) -> None:
    quotes = "error [ left out\n" * times
    few = f"{'x ' * 120}{' ' * 20 * times}\n"
    found = OFFLOAD.shorten(quotes + few + quotes, ref=REF, query="", count=words)
    assert found is None
    assert OFFLOAD.shorten(few * 2 + numbered(4 * times), ref=REF, query="", count=words)


def test_the_tool_gives_what_marks_say() -> None:
    line = " ".join(f"word{number}" for number in range(4000))
    context = TenantKey().empty().tool_result("run", line)
    ref = reference(context.segments()[0], context)
    found = Offload().shorten(
        context.segments()[0].text, ref=ref, query="", count=lambda text: len(text) // 4
    )
    assert found is not None
    (asked,) = re.findall(rf"get {ref} (lines=\S+) (characters=\S+?)[\];]", found.text)
    ranges = {part.split("=")[0]: part.split("=")[1] for part in asked}
    request = read_request("context_get", {"ref": ref, **ranges})
    assert isinstance(request, GetRequest)
    got = context.fetch(ref, lines=request.lines, characters=request.characters)
    before, _, after = found.text.partition("\n[characters ")
    assert before + got.text + after.partition("]\n")[2] == line

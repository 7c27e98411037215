"""Lines that were given before: byte-exact back, and only what stands written out is referred to."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentbus.context.earlier import ALONE, HELD_CHARACTERS, HELD_LINES, LONGEST, Earlier, is_mark
from agentbus.context.piece_names import NAME
from agentbus.errors import FormBroken
from agentbus.filters.dedupe import RUN_CHARACTERS, Dedupe
from agentbus.filters.diff import Diff

from .recorded import conversations, tool_outputs

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "3000"))
"""How many generated conversations; a stress run takes 200,000."""
FORM = Dedupe()

ONE, TWO, THREE = (f'"{name}"...' for name in ("one, line 0 ", "two, line 0 ", "three, line "))
LONG = '"xxxxxxxxxxxx"...'
"""The names of the pieces `block("one")` and so on, and of a line of x."""

LINES = [
    *("", "", " ", "a", "b", "x = 1", "    return None", "\r", "end\r", "\x00", "\x0c", "\u2028"),
    *("漢字を読む", "\ud83d", "é" * 30, "a line of forty characters, more or less..", "L" * ALONE),
    '[lines 1-3 of "return None" again]',
    '[line 1 of "LLLLLLLLLLLL"... again]',
    '[lines 1-2, 4 of ..."return None"; 1 of this text again]',
    "[lines 1-3 of this text again]",
    '[quoted] [lines 1-3 of "return None" again]',
    *("[quoted] a", "[quoted] ", "[lines", "[lines ]", "[", "]", "[]"),
    '[lines 1-3 of "return None" again',
    *('["return None" again]', '[..."return None" again]', '["", "a", "return again"]'),
    "[quoted] [quoted] [line ]",
    *('"return None" again; 3 of "return None" again]', '  "return None"; 1 of "a" again]'),
    *('[lines 1-3 of "return None" again]\r', ' [lines 1-3 of "return None" again]'),
    *("[after line 3:]", "+", "+    return None", "+[line ]", "+" + "L" * ALONE),
    '[lines 1-3 of "return None" again, each after +]',
    '+[line 1 of "LLLLLLLLLLLL"... again, each after +]',
]
lines = some.one_of(some.sampled_from(LINES), some.text(max_size=6))
blocks = some.lists(lines, min_size=1, max_size=8)


@some.composite
def talks(draw: some.DrawFn) -> list[str]:
    """Draw texts made of a few blocks, so that much comes again, some of it after +."""
    known = draw(some.lists(blocks, min_size=1, max_size=4))
    known += [["+" + line for line in part] for part in known]
    parts = some.lists(some.one_of(some.sampled_from(known), blocks), max_size=6)
    texts = draw(some.lists(parts, min_size=1, max_size=5))
    return ["\n".join(line for part in text for line in part) for text in texts]


def deliver(text: str, earlier: Earlier, form: Dedupe | Diff = FORM) -> str:
    """Write a text, check all that is promised of it, and return what the receiver gets."""
    written = form.write(text, earlier)
    if written is None:
        return text
    assert len(written) < len(text)
    read = form.read(written, earlier)
    assert read == text and form.is_same(text, read)
    assert form.write(text, earlier) == written
    return written


def told(texts: list[str], form: Dedupe | Diff = FORM) -> tuple[Earlier, list[str]]:
    """Deliver texts one after the other; return the receiver's ledger and what it got."""
    earlier, given = Earlier(), list[str]()
    for text in texts:
        given.append(deliver(text, earlier, form))
        earlier = earlier.given(given[-1])
    return earlier, given


def block(name: str, count: int = 5) -> str:
    return "\n".join(f"{name}, line {number} of a block of lines" for number in range(count))


def references(written: str, earlier: Earlier) -> Iterator[tuple[int, int, int]]:
    """Yield piece (0 for the text itself), first and last line of all that marks refer to."""
    for line in written.split("\n"):
        if re.fullmatch(r"\[lines? [0-9].* again(, each after \+)?\]", line):
            for spans, source in re.findall(rf"([0-9, -]+) of (this text|{NAME})", line):
                for span in spans.split(", "):
                    first, _, last = span.strip().partition("-")
                    yield earlier.find(source), int(first), int(last or first)


@settings(deadline=None, max_examples=300)
@given(talks())
def test_what_is_written_reads_back_and_is_shorter(texts: list[str]) -> None:
    told(texts)


def test_generated_talks_read_back() -> None:
    some_of = random.Random(5)
    alphabet = [*LINES, *(f"line {n} of some text that is longer" for n in range(12))]
    marked = 0
    for _ in range(CASES // 4):
        known = [some_of.choices(alphabet, k=some_of.randint(1, 9)) for _ in range(3)]
        known.append(["+" + line for line in known[0]])
        texts = []
        for _ in range(4):
            parts = some_of.choices(known, k=some_of.randint(0, 4))
            parts.append(some_of.choices(alphabet, k=some_of.randint(0, 3)))
            some_of.shuffle(parts)
            texts.append("\n".join(line for part in parts for line in part))
        marked += sum(text is not given for text, given in zip(texts, told(texts)[1], strict=True))
    assert marked > CASES / 5


def test_the_marks_are_plain() -> None:
    first = block("one")
    assert told([first, f"It says:\n{first}\nand ends."])[1][1] == (
        f"It says:\n[lines 1-5 of {ONE} again]\nand ends."
    )


def test_runs_that_follow_one_another_share_a_mark() -> None:
    one, two = block("one"), block("two", 9)
    lines = two.split("\n")
    again = "\n".join([one, *lines[:3], *lines[5:8], one])
    assert told([one, two, again])[1][2] == (
        f"[lines 1-5 of {ONE}; 1-3, 6-8 of {TWO}; 1-5 of {ONE} again]"
    )


def test_what_a_patch_adds_is_referred_to() -> None:
    one, two = block("one"), block("two")
    added = "".join(f"\n+{line}" for line in [*one.split("\n"), *two.split("\n")[:3]])
    patch = f"--- a\n+++ b{added}\n-gone\n+{one}"
    given = told([one, two, patch])[1][2]
    mark = f"[lines 1-5 of {ONE}; 1-3 of {TWO} again, each after +]"
    assert given == (
        f"--- a\n+++ b\n{mark}\n-gone\n+one, line 0 of a block of lines\n[lines 2-5 of {ONE} again]"
    )
    twice = "\n".join([two, *("+" + line for line in two.split("\n"))])
    assert told([twice])[1] == [f"{two}\n[lines 1-5 of this text again, each after +]"]


def test_the_longer_way_is_taken_with_plus_or_without() -> None:
    one = block("one", 9)
    patch = "".join(f"+{line}\n" for line in one.split("\n"))
    short, long = patch.split("\n")[:5], patch.split("\n")[:9]
    name = f'"+{ONE[1:12]}"...'
    given = told([one, "\n".join(short).replace(",", "."), "\n".join(short), patch])[1]
    assert given[2] == f"[lines 1-5 of {ONE} again, each after +]"
    assert given[3] == f"[lines 1-9 of {ONE} again, each after +]\n"
    earlier = Earlier().given(one).given("\n".join(long))
    assert FORM.write(patch, earlier) == f"[lines 1-9 of {name} again]\n"


def test_a_text_refers_to_itself_by_the_lines_that_its_reader_sees() -> None:
    one, two = block("one"), block("two")
    given = told([one, f"{one}\n{two}\nbetween\n{two}"])[1][1]
    assert given == f"[lines 1-5 of {ONE} again]\n{two}\nbetween\n[lines 2-6 of this text again]"


def test_a_long_line_is_referred_to_alone() -> None:
    line = "x" * ALONE
    assert told([line, f"a\n{line}\nb"])[1][1] == f"a\n[line 1 of {LONG} again]\nb"


def test_short_runs_stay_as_they_are() -> None:
    short = "a\nb\nc\nd"
    assert len(short) < RUN_CHARACTERS
    assert told([short, short])[1] == [short, short]
    three = "\n".join(["z" * 20] * 3)
    assert RUN_CHARACTERS < len(three) < ALONE
    assert told([three, f"{three}\nx"])[1][1] == f"{three}\nx"
    two = "\n".join(["y" * (ALONE - 10)] * 2)
    assert told([f"{two}\nc", f"{two}\nd"])[1][1] == f"{two}\nd"


def test_a_short_run_joins_no_mark() -> None:
    one = block("one")
    for short, joins in (("aa\nbb\ncc", False), ("\n".join(["a" * 13] * 3), True)):
        given = told([f"{one}\nand\n{short}", f"{one}\n{short}\nend"])[1][1]
        assert given.startswith(
            f"[lines 1-5, 7-9 of {ONE} again]" if joins else f"[lines 1-5 of {ONE} again]\n{short}"
        )


def test_the_longest_of_the_earliest_is_taken() -> None:
    lines = block("one", 9).split("\n")
    pieces = ["\n".join(lines[:5]), "x\n" + "\n".join(lines), "y\n" + "\n".join(lines)]
    earlier = Earlier()
    for piece in pieces:
        earlier = earlier.given(piece)
    assert FORM.write("\n".join(lines), earlier) == '[lines 2-10 of ..."one, line 5 "... again]'
    assert FORM.write("\n".join(lines[:5]), earlier) == f"[lines 1-5 of {ONE} again]"


def test_no_reference_leads_to_a_mark() -> None:
    for texts in ([m["content"] for m in messages] for _, messages in conversations()):
        earlier, given = told(texts)
        for number, written in enumerate(given):
            if written is texts[number]:
                continue
            for piece, first, last in references(written, earlier):
                source = given[piece - 1] if piece else written
                assert piece - 1 < number
                assert not any(map(is_mark, source.split("\n")[first - 1 : last]))


def test_a_quoted_mark_is_no_mark() -> None:
    one = block("one")
    text = f"[lines 1-5 of {ONE} again]\n{one}\n[quoted] [line 7 now:]"
    given = told([one, text])[1][1]
    assert given == (
        f"[quoted] [lines 1-5 of {ONE} again]\n[lines 1-5 of {ONE} again]\n"
        "[quoted] [quoted] [line 7 now:]"
    )


def test_marks_that_were_said_are_never_referred_to() -> None:
    marks = "\n".join([f"[lines 1-5 of {ONE} again]"] * 9)
    assert told([marks, marks])[1] == [marks, marks]


@pytest.mark.parametrize(
    "mark",
    [
        *("[lines 1-6 of ONE again]", "[lines 0-3 of ONE again]", "[lines 3-1 of ONE again]"),
        *("[line 1-3 of ONE again]", "[lines 2 of ONE again]", "[lines 1-3  of ONE again]"),
        *("[lines 1-3 of ONE, again]", "[lines of ONE again]", "[lines 01-3 of ONE again]"),
        *("[lines 1-3 of ONE; 4-5 of ONE again]", "[lines ٣ of ONE again]"),
        *(
            f"[lines 1-{'9' * 5000} of ONE again]",
            "[lines 1-5 of ONE again ]",
            "[lines 1-5 of ONE]",
        ),
        *("[lines 1-5]", "[lines ]", "[lines 1-5 again]", "[lines 1-5 of again]", "[ONE again]"),
        *("[lines 1-3 of this text again]", "[after line 3:]", "[lines 1-5 of ONE; again]"),
        *("[lines 1-5 of two again]", '[lines 1-5 of "two, line 0 "... again]'),
        *('[lines 1-5 of "one, line 0 " again]', '[lines 1-5 of "one, line 0" again]'),
        *('[lines 1-5 of "one, line 1 "... again]', '[lines 1-5 of "one, line 0 o"... again]'),
        *("[lines 1-5 of ...ONE again]", "[lines 1-5 of ONE... again]"),
        *('[lines 1-5 of "\\u006fne, line 0 "... again]', '[lines 1-5 of "one, line 0 ... again]'),
        *("[lines 1-5 of ONE again, each after ]", "[lines 1-5 of ONE again, each after -]"),
        *("[lines 1-5 of ONE, each after + again]", "[lines 1-5 of ONE, each after +]"),
        *('[lines 1-5 of ""... again]', f'[lines 1-5 of "{"o" * 5000}"... again]'),
    ],
)
def test_a_reference_to_what_is_not_there_is_broken(mark: str) -> None:
    """The second piece is a mark alone: it has no name, and nothing in it can be referred to."""
    earlier, given = told([block("one"), block("one")])
    assert given[1] == f"[lines 1-5 of {ONE} again]"
    with pytest.raises(FormBroken):
        FORM.read(f"a\n{mark.replace('ONE', ONE)}\nb", earlier)


def test_a_text_refers_only_to_what_stands_above() -> None:
    with pytest.raises(FormBroken):
        FORM.read("a\n[lines 2-4 of this text again]\nb\nc", Earlier())
    with pytest.raises(FormBroken):
        FORM.read("a\n[lines 3-4 of this text again]\nb\nc", Earlier())
    with pytest.raises(FormBroken):
        FORM.read("a\n[line 1 of this text again]\n[line 2 of this text again]", Earlier())


def test_a_few_marks_do_not_stand_for_more_than_the_longest_text() -> None:
    earlier = Earlier().given("\n".join(["x" * 1000] * 1000))
    mark = f"[lines {', '.join(['1-1000'] * (LONGEST // 1_000_000 + 2))} of {LONG} again]"
    with pytest.raises(FormBroken):
        FORM.read(mark, earlier)


def test_a_value_stays_as_it_was_when_others_grow_out_of_it() -> None:
    one, two, three = block("one"), block("two"), block("three")
    base = Earlier().given(one)
    left, right = base.given(two), base.given(three)
    assert (base.count, left.count, right.count) == (1, 2, 2)
    for earlier, known, name, unknown in (
        (left, two, TWO, three),
        (right, three, THREE, two),
        (base, one, ONE, two),
    ):
        assert FORM.write(known, earlier) == f"[lines 1-5 of {name} again]"
        assert FORM.write(unknown, earlier) is None
    left.given(three)
    for earlier, name in ((base, TWO), (base, THREE), (left, THREE), (right, TWO)):
        with pytest.raises(FormBroken):
            FORM.read(f"[lines 1-5 of {name} again]", earlier)


@settings(deadline=None)
@given(talks(), some.data())
def test_a_fork_writes_as_a_value_that_was_never_forked(
    texts: list[str], data: some.DataObject
) -> None:
    earlier, given = told(texts)
    until = data.draw(some.integers(0, len(given)))
    fork = Earlier()
    for piece in given[:until]:
        fork = fork.given(piece)
    fork.given("something else\n" * 9)
    for piece in given[until:]:
        fork = fork.given(piece)
    text = "\n".join(reversed(texts))
    assert FORM.write(text, fork) == FORM.write(text, earlier)


def test_what_does_not_fit_is_not_referred_to() -> None:
    one = block("one")
    many = "\n".join(f"number {n}" for n in range(HELD_LINES))
    earlier = Earlier().given(many + "\nx").given(one)
    assert earlier.count == 2
    assert FORM.write(many, earlier) is None
    assert FORM.write(one, earlier) == f"[lines 1-5 of {ONE} again]"
    with pytest.raises(FormBroken):
        FORM.read('[lines 1-5 of "number 0" again]', earlier)
    assert Earlier().given(many).find('"number 0"') == 1


def test_lines_that_do_not_fit_with_those_before_are_not_held() -> None:
    earlier, one = Earlier().given("a\n" * (HELD_LINES - 9)), block("one", 10)
    assert FORM.write(one, earlier.given(one)) is None
    assert FORM.write(one[:-1], earlier.given(one.replace("\n", " ", 1)))


def test_characters_that_do_not_fit_are_not_held() -> None:
    one = block("one")
    huge = "x" * HELD_CHARACTERS
    earlier = Earlier().given(huge).given("y").given(one).given(huge + one)
    assert FORM.write(huge, earlier) == f"[line 1 of {LONG} again]"
    assert FORM.write(one, earlier) is None


def test_the_end_of_the_last_line_is_not_one_more_line() -> None:
    one = block("one")
    earlier = Earlier().given(one + "\n")
    assert FORM.write(f"{one}\n\n\n", earlier) == f"[lines 1-5 of {ONE} again]\n\n\n"
    with pytest.raises(FormBroken):
        FORM.read(f"[lines 4-6 of {ONE} again]", earlier)


def test_recorded_outputs_are_given_once() -> None:
    for name, text in tool_outputs():
        earlier, given = told([text, text])
        assert FORM.read(given[0], Earlier()) == text or given[0] is text, name
        assert given[1] is text or len(given[1]) < max(200, len(given[0]) // 2), name
        deliver(text.replace("\n", "\r\n"), earlier)


def _seconds(text: str, earlier: Earlier) -> float:
    began = time.process_time()
    deliver(text, earlier.given(text))
    return time.process_time() - began


@pytest.mark.parametrize(
    "unit",
    ["\n", "a\n", "a\nb\nc\nd\n", '[quoted] [lines 1-3 of "a" again]\n', "x" * 99, "[quoted] "],
    ids=["empty", "one", "period", "marks", "a line", "quotes"],
)
def test_time_is_linear(unit: str) -> None:
    once = unit * (60_000 // len(unit))
    _seconds(once, Earlier())
    little, much = _seconds(once, Earlier()), _seconds(once * 4, Earlier())
    assert much < 12 * little + 0.1


def test_a_thousandth_piece_costs_as_much_as_the_first() -> None:
    earlier = Earlier()
    took = []
    for number in range(1000):
        piece = block(f"piece {number}", 50)
        began = time.process_time()
        FORM.write(piece, earlier)
        earlier = earlier.given(piece)
        took.append(time.process_time() - began)
    assert sum(took[-100:]) < 5 * sum(took[:100]) + 0.05


def test_huge_texts() -> None:
    line = "z" * 25_000_000
    assert deliver(f"{line}\n{line}", Earlier()) == f"{line}\n[line 1 of this text again]"
    line = "z" * (LONGEST // 2 - 1)
    assert FORM.write(f"{line}\n{line}", Earlier())
    line += "z"
    assert FORM.write(f"{line}\n{line}", Earlier()) is None
    assert FORM.write("\n".join(map(str, range(1_000_000))), Earlier()) is None

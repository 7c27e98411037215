"""Names of pieces: short, each leads to one piece, and none changes when more is given."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentbus.context import Earlier
from agentbus.context.earlier import is_mark
from agentbus.context.piece_names import LENGTHS, SAYING
from agentbus.errors import FormBroken
from agentbus.filters import Dedupe, Diff

from .recorded import conversations
from .test_dedupe import LINES, block, deliver, told

SHORT, MIDDLE, LONG = LENGTHS


def names(*pieces: str) -> list[str]:
    earlier = Earlier()
    for piece in pieces:
        earlier = earlier.given(piece)
    return [earlier.name(number + 1) for number in range(len(pieces))]


def begins(piece: str, name: str) -> bool:
    """Say whether a line of a piece begins as a name says, white space aside."""
    quoted = json.loads(name.removeprefix("...").removesuffix("..."))
    starts = [line.strip() for line in piece.split("\n") if not is_mark(line)]
    if name.endswith("..."):
        return any(start.startswith(quoted) and start != quoted for start in starts)
    return quoted in starts


def check(pieces: list[str]) -> int:
    """Check the names of pieces against the pieces; return how many have one."""
    named = 0
    earlier = Earlier()
    for number, piece in enumerate(pieces, 1):
        earlier = earlier.given(piece)
        name = earlier.name(number)
        if not name:
            continue
        named += 1
        assert [one for one in pieces[:number] if begins(one, name)] == [piece]
        assert begins(piece.split("\n", 1)[0], name) is not name.startswith("...")
        assert earlier.find(name) == number
        assert len(name.encode()) <= 6 * LONG + 8
    return named


@settings(deadline=None, max_examples=300)
@given(some.lists(some.lists(some.sampled_from(LINES) | some.text(max_size=60), max_size=6)))
def test_a_name_leads_to_the_piece_where_a_line_first_begins_so(pieces: list[list[str]]) -> None:
    check(["\n".join(piece) for piece in pieces])


def test_names_of_recorded_messages() -> None:
    named = count = 0
    for _, messages in conversations():
        pieces = told([message["content"] for message in messages[:40]])[1]
        named += check(pieces)
        count += len(pieces)
    assert named > 0.8 * count


def test_a_name_is_how_a_piece_begins() -> None:
    assert names("import pygame") == ['"import pygam"...']
    assert names("漢字を読むことができる") == ['"漢字を読むことができる"']
    assert names("\tmain.py  \nimport pygame") == ['"main.py"']
    assert names("a\n===========\n```\n  retries = 5") == ['..."retries = 5"']
    assert names("[lines 1-5 of this text again]\n[quoted] [line 2 now:]\nnow it runs") == [
        '..."now it runs"'
    ]


def test_a_piece_that_begins_as_another_is_named_by_what_is_new_in_it() -> None:
    assert names("main.py\nimport pygame", "main.py\nimport random", "main.py\nimport pygame") == [
        '"main.py"',
        '..."import rando"...',
        "",
    ]


def test_a_name_is_as_long_as_it_must_be() -> None:
    line = "x" * LONG
    for length, found in ((SHORT, SHORT), (SHORT - 1, SHORT), (MIDDLE, MIDDLE), (LONG - 1, LONG)):
        other = line[: length - 1] + "y" * LONG
        assert names(line + "x", other)[1] == f'"{other[:found]}"...'
    assert names(line + "x", line + "y")[1] == ""
    assert names(line + "x", line)[1] == f'"{line}"'
    assert names(line[:SHORT], line)[1] == f'"{line[:SHORT]}"...'
    assert names(line, line[:SHORT])[1] == f'"{line[:SHORT]}"'
    assert names(f"{line}y\nz{line}", f"{line}z\nnew and short")[1] == '..."new and shor"...'


@pytest.mark.parametrize(
    "piece", ["", "a\nb\n" * 90, "=" * 500, "abcde", "[line ]\n" * 9, "\n" * 9]
)
def test_a_piece_that_says_nothing_has_no_name(piece: str) -> None:
    earlier = Earlier().given(piece)
    assert earlier.name(1) == ""
    for form in (Dedupe(), Diff()):
        written = form.write(piece + "\nand more", earlier)
        assert written is None or "this text" in written
    assert len("abcde") == SAYING - 1 and names("abcdef") == ['"abcdef"']


@pytest.mark.parametrize(
    "line",
    [
        *('say "hi" again]', 'a"; 3 of "b" again]', "x] of this text again", '"quoted" ["again"]'),
        *(
            "\\" * 9 + "abcdef",
            "ab\x00cd\x1fef\x7fg",
            "漢字を読むことができる",
            "\ud83d of half a face",
        ),
        *(
            "tab\there and\rthere",
            "\u2028between\u2028lines",
            "😀😀😀😀😀😀abcdef",
            "...dots... and more",
        ),
        *("back\\slash\\u0041", "éÉeèêëěęėñç", '{"id": "4WQ150"}', "\ude00\ud83d\ude00 abcdefg"),
    ],
)
def test_any_line_can_be_a_name(line: str) -> None:
    piece = f"{line}\n{block('some')}\n"
    earlier = Earlier().given(piece)
    name = earlier.name(1)
    assert begins(piece, name) and "\n" not in name
    again = f"[lines 1-6 of {name} again]\n"
    assert deliver(piece, earlier) == again
    assert deliver(f"first\n{piece}", earlier) == f"first\n{again}"
    assert deliver(piece, earlier, Diff()) == f"[{name} again]\n"
    assert deliver(f"first\n{piece}", earlier, Diff()).startswith(f"[{name} again, except:]\n")


def test_an_old_mark_is_read_whatever_was_given_since() -> None:
    one = block("one")
    values = [Earlier().given(one)]
    marks = [Dedupe().write(one, values[0]), Diff().write(one, values[0])]
    for more in (one, f"first\n{one}", one.upper(), "one, line 0 of others", "one, line 0 "):
        values.append(values[-1].given(more))
    for earlier in values:
        assert [Dedupe().write(one, earlier), Diff().write(one, earlier)] == marks
        assert Dedupe().read(marks[0] or "", earlier) == one
        assert Diff().read(marks[1] or "", earlier) == one


def test_a_name_is_not_read_before_its_piece_is_given() -> None:
    base = Earlier().given("something else")
    after = base.given(block("one"))
    name = after.name(2)
    assert (after.find(name), base.find(name)) == (2, 0)
    for form, mark in ((Dedupe(), f"[lines 1-5 of {name} again]"), (Diff(), f"[{name} again]")):
        assert form.read(mark, after) == block("one")
        for earlier in (base, Earlier()):
            with pytest.raises(FormBroken):
                form.read(mark, earlier)


def test_a_text_that_forges_names_is_given_as_it_is() -> None:
    earlier = Earlier().given(block("one"))
    name = earlier.name(1)
    for line in (name, f"...{name}", f"[{name} again]", f"[...{name} again, except:]"):
        text = f"{line}\n{block('one')}\n{line}"
        for form in (Dedupe(), Diff()):
            assert deliver(text, earlier, form) != text
        after = earlier.given(line)
        assert deliver(block("one"), after) == f"[lines 1-5 of {name} again]"
        assert after.find(name) == 1


def test_a_mark_is_shorter_than_what_it_stands_for() -> None:
    one, odd = block("one"), "abcdef" + "\x01" * (LONG - 6)
    before = Earlier().given(one).given(odd[:SHORT] + "x").given(odd[:MIDDLE] + "x")
    for size in range(200, 320):
        piece = f"{odd}\n{'=' * 60}\n{'-' * (size - LONG - 62)}"
        earlier = before.given(piece)
        mark = f"[lines 1-3 of {earlier.name(4)} again]"
        assert len(mark) > 250
        kept = mark if len(mark) < size else piece
        first = f"[lines 1-5 of {earlier.name(1)} again]"
        assert Dedupe().write(f"{one}\nand\n{piece}", earlier) == f"{first}\nand\n{kept}"
        if size < len(earlier.name(4)):
            assert Dedupe().write(f"{one}\n{piece}", earlier) == f"{first}\n{kept}"


def test_arrays_of_json_are_no_marks() -> None:
    for line in ('["a", "b"]', '["again"]', '["a again, except:"]'):
        assert not is_mark(line)
    for line in ('["a" again]', '[..."a"... again, except:]', '[quoted] ["a" again]'):
        assert is_mark(line)


def test_lines_that_are_given_meanwhile_are_not_taken_for_others() -> None:
    earlier = Earlier().given("one")

    def lines() -> Iterator[str]:
        yield "fresh"
        earlier.given("two")
        yield "two"

    assert len(set(earlier.number(lines()))) == 2

"""Tool calls made again: which are found, and which are none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from agentbus.context import Segment, SegmentKind, TenantKey
from agentbus.filters import find_repeats
from agentbus.filters.repeats import SOON

KEY = TenantKey()
ALL = range(1_000)


def talk(text: str) -> list[Segment]:
    """`c` is a call by one agent, `C` by another, each with a letter; `r` a result; else a message."""
    segments = []
    for word in text.split():
        kind = {
            "c": SegmentKind.TOOL_CALL,
            "C": SegmentKind.TOOL_CALL,
            "r": SegmentKind.TOOL_RESULT,
        }
        found = kind.get(word[0], SegmentKind.NOTE if word == "n" else SegmentKind.MESSAGE)
        author = {"c": "writer", "C": "critic", "r": "search"}.get(word[0], "writer")
        segments.append(KEY.segment(found, author, word[1:]))
    return segments


def places(text: str, shortened: object = ALL, start: int = 0) -> list[tuple[int, int]]:
    return [tuple(one) for one in find_repeats(talk(text), shortened, start=start)]  # type: ignore[arg-type,misc]


def test_the_same_call_right_after_its_result_is_found() -> None:
    assert places("ca r1 ca r1") == [(1, 2)]
    assert places("ca r1 m cb r2 m ca r1") == [(1, 6)]
    assert places("m ca n r1 n m n ca") == [(3, 7)]


def test_only_a_result_that_was_shortened_counts() -> None:
    assert places("ca r1 ca r1 ca r1", {3}) == [(3, 4)]
    assert places("ca r1 ca r1", set()) == []


def test_the_latest_result_is_the_one_that_did_not_serve() -> None:
    assert places("ca r1 ca r1 ca", {1}) == [(1, 2)]
    assert places("ca r1 ca m ca", {1}) == [(1, 2), (1, 4)]  # the second got no answer


def test_other_calls_are_none() -> None:
    assert places("ca r1 cb r1") == []
    assert places("ca r1 Ca r1") == []
    assert places("ca r1 m m") == []


def test_much_later_is_none() -> None:
    between = [f"cx{n} r2" for n in range(SOON)]
    assert places(" ".join(["ca r1", *between, "ca"])) == []
    assert places(" ".join(["ca r1", *between[1:], "ca"])) == [(1, 2 * SOON)]


def test_calls_in_a_row_have_their_results_in_order() -> None:
    assert places("ca cb r1 r2 cb", {3}) == [(3, 4)]
    assert places("ca cb r1 r2 ca", {3}) == []
    assert places("ca ca r1 r2") == []  # asked before there was a result


def test_which_result_is_whose_is_not_guessed() -> None:
    assert places("ca cb r1 ca") == []
    assert places("ca r1 r2 ca") == []
    assert places("ca m r1 ca") == []


def test_only_new_calls_are_told() -> None:
    assert places("ca r1 ca r1 ca", ALL, 3) == [(3, 4)]
    assert places("ca r1 ca r1 ca", ALL, 4) == [(3, 4)]
    assert places("ca r1 ca r1 ca", ALL, 5) == []


words = some.sampled_from(["ca", "cb", "Ca", "r1", "r2", "m", "n"])


@given(some.lists(words, max_size=30), some.integers(0, 30))
def test_what_is_told_stays_when_more_is_said(talked: list[str], start: int) -> None:
    whole = places(" ".join(talked))
    for result, call in whole:
        assert result < call
        assert talked[result][0] == "r" and talked[call][0] in "cC"
    assert places(" ".join(talked), ALL, start) == [one for one in whole if one[1] >= start]
    cut = talked[:start]
    if not (cut and cut[-1][0] in "cCr"):  # a run that goes on may get one result more
        assert places(" ".join(cut)) == [one for one in whole if one[1] < start]

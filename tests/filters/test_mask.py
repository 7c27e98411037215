"""Epochs: which results give way to a mark, when, and that prompts only grow between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentbus.context import Segment, SegmentKind, TenantKey
from agentbus.errors import MisuseError
from agentbus.filters import (
    KEPT_RESULTS,
    Change,
    Costs,
    Masking,
    Outlook,
    Standing,
    Worth,
    mask_of,
    mask_results,
    weigh,
)

from .recorded import conversations

KEY = TenantKey()
ATTENTIVE = Costs(prefill=1 / 3000, decode=1 / 125, decode_behind=1e-6)


def words(text: str) -> int:
    return len(text.split())


def refer(segment: Segment) -> str:
    return "ctx:" + segment.digest.hex()[:8]


def has_error(text: str) -> bool:
    return "Traceback" in text


def always(change: Change) -> Worth:
    return Worth(change.saved > 0, 0.0, 0.0, 0.0, 0.0, "")


def never(change: Change) -> Worth:
    return Worth(False, 0.0, 0.0, 0.0, 0.0, "")


def result(text: str, tool: str = "search") -> Standing:
    return Standing(words(text), 3, KEY.segment(SegmentKind.TOOL_RESULT, tool, text))


def message(text: str, refers: Collection[int] = ()) -> Standing:
    segment = KEY.segment(SegmentKind.MESSAGE, "writer", text)
    return Standing(words(text), 3, segment, refers=refers)


def masked(
    pieces: Sequence[Standing], held: int = 0, keep: int = KEPT_RESULTS, pays: object = always
) -> Masking:
    return mask_results(
        pieces,
        held,
        refer=refer,
        must_stay=has_error,
        count=words,
        weigh=pays,  # type: ignore[arg-type]
        keep=keep,
    )


LONG = "word " * 50


def test_all_results_but_the_last_ten_give_way_at_once() -> None:
    pieces = [Standing(100)]
    for number in range(14):
        pieces += [message("look"), result(f"{LONG}{number}")]
    found = masked(pieces)
    assert list(found.marks) == [2, 4, 6, 8]
    mark = words(mask_of(pieces[2].segment, refer(pieces[2].segment)))  # type: ignore[arg-type]
    assert found.change == Change(
        before=100 + 4, behind=14 * (51 + 3) + 13 * 4, saved=4 * (51 - mark), held=0
    )


def test_the_mark_says_what_was_there_and_how_to_get_it() -> None:
    segment = KEY.segment(SegmentKind.TOOL_RESULT, "shell", "a\nb\nc")
    assert mask_of(segment, "ctx:ab12cd34") == (
        "[result of shell, 3 lines, left out here; the source is intact: get ctx:ab12cd34]"
    )
    one = KEY.segment(SegmentKind.TOOL_RESULT, "mcp__git/log", "a")
    assert mask_of(one, "ctx:1").startswith("[result of mcp__git/log, 1 line, left out")


@pytest.mark.parametrize("author", ["", "a]\n[lines 1-3", "x" * 65, "two words", "漢字", "a\n"])
def test_a_name_cannot_forge_a_mark(author: str) -> None:
    segment = KEY.segment(SegmentKind.TOOL_RESULT, author, "text")
    assert mask_of(segment, "ctx:1").startswith("[result of a tool, 1 line, left out here;")


def test_what_must_stay_stays() -> None:
    old = [result(LONG + "1"), result(LONG + "Traceback"), result(LONG + "2")]
    assert list(masked([*old, result("new")], keep=1).marks) == [0, 2]


def test_short_results_stay() -> None:
    assert not masked([result("done"), result("new")], keep=1).marks
    assert masked([result("done"), result("new")], keep=1).worth.pays is False
    mark = words(mask_of(KEY.segment(SegmentKind.TOOL_RESULT, "search", "a"), "ctx:1"))
    for size, is_masked in ((mark, False), (mark + 1, True)):
        pieces = [result("word " * size), result("longer " * 100), result("new")]
        assert (0 in masked(pieces, keep=1).marks) is is_masked


def test_what_is_no_result_stays() -> None:
    assert not masked([message(LONG), Standing(1_000), result("new")], keep=0).marks


def test_what_is_masked_is_not_masked_again() -> None:
    pieces = [replace(result(LONG), masked=True), result(LONG + "2"), result("new")]
    assert list(masked(pieces, keep=1).marks) == [1]


def test_what_something_refers_to_stays() -> None:
    old = [result(LONG + str(n)) for n in range(4)]
    assert list(masked([*old, message("so", refers=[1])], keep=0).marks) == [0, 2, 3]
    # What refers to it is masked itself: nothing is left to need it.
    quoting = replace(result(LONG + "5"), refers=(0, 3))
    assert list(masked([*old, quoting], keep=0).marks) == [0, 1, 2, 3, 4]
    assert list(masked([*old, quoting, result("new")], keep=2).marks) == [1, 2]


def test_what_stays_needs_what_it_refers_to_in_turn() -> None:
    old = [result(LONG), replace(result(LONG + "1"), refers=(0,)), message("so", refers=(1,))]
    assert not masked(old, keep=0).marks


def test_if_it_does_not_pay_nothing_changes() -> None:
    pieces = [result(LONG), result(LONG + "1"), result("new")]
    found = masked(pieces, pays=never)
    assert not found.marks
    assert masked(pieces, keep=1, pays=never).change.saved > 0  # weighed, and left


def test_a_longer_cache_than_the_prompt_is_no_trouble() -> None:
    assert masked([result(LONG), result("new")], held=10_000, keep=1).change.held == 50 + 3 + 1 + 3


def test_less_than_no_results_are_not_kept() -> None:
    with pytest.raises(MisuseError):
        masked([], keep=-1)


def test_an_empty_prompt_has_nothing_to_mask() -> None:
    assert not masked([]).marks


kinds = some.sampled_from(["result", "result", "message", "error", "short", "masked"])


@some.composite
def prompts(draw: some.DrawFn) -> list[Standing]:
    pieces = []
    for place, kind in enumerate(draw(some.lists(kinds, max_size=25))):
        size = draw(some.integers(20, 60))
        text = {"short": "ok", "error": "Traceback " * size}.get(kind, f"{place} " * size)
        piece = message(text) if kind == "message" else result(text)
        refers = draw(some.sets(some.integers(0, place - 1), max_size=3)) if place else ()
        pieces.append(replace(piece, masked=kind == "masked", refers=tuple(refers)))
    return pieces


@given(prompts(), some.integers(0, 12), some.integers(0, 2_000))
def test_an_epoch_keeps_all_rules(pieces: list[Standing], keep: int, held: int) -> None:
    found = masked(pieces, held, keep)
    results = [
        place
        for place, piece in enumerate(pieces)
        if piece.segment is not None and piece.segment.kind is SegmentKind.TOOL_RESULT
    ]
    latest = results[len(results) - min(keep, len(results)) :]
    for place, mark in found.marks.items():
        piece = pieces[place]
        assert place in results and place not in latest
        assert piece.segment is not None and not has_error(piece.segment.text)
        assert not piece.masked
        assert words(mark) < piece.tokens
        assert refer(piece.segment) in mark
    staying = [piece for place, piece in enumerate(pieces) if place not in found.marks]
    assert not {place for piece in staying for place in piece.refers} & set(found.marks)
    # All that may go does: what is left has a reason.
    for place in set(results) - set(latest) - set(found.marks):
        piece = pieces[place]
        assert piece.segment is not None
        needed = any(place in other.refers for other in staying)
        short = piece.tokens <= words(mask_of(piece.segment, refer(piece.segment)))
        assert needed or short or piece.masked or has_error(piece.segment.text)


class Call(NamedTuple):
    """What one model call had computed, and the prompt it read."""

    cost: float
    prompt: tuple[str, ...]
    is_new_epoch: bool


def play(
    texts: Sequence[Standing], costs: Costs, *, every: int = 0, mask: bool = True
) -> Iterator[Call]:
    """Have a model called after each result; the cache goes cold before each `every`-th call."""
    marks: dict[int, str] = {}
    held, missed, calls = 0, 0.0, 0
    for end, piece in enumerate(texts, 1):
        if piece.segment is None or piece.segment.kind is not SegmentKind.TOOL_RESULT:
            continue
        calls += 1
        held = 0 if every and calls % every == 0 else held
        outlook = Outlook(missed=missed, decoded=100, cold=1 / every if every else 0)
        pieces = [
            replace(one, tokens=words(marks[n]), masked=True) if n in marks else one
            for n, one in enumerate(texts[:end])
        ]
        found = masked(pieces, held, pays=lambda c, o=outlook: weigh(c, costs, o)) if mask else None
        if found is not None:
            missed = found.worth.missed
            marks.update(found.marks)
            held = min(held, found.change.before) if found.marks else held
        prompt = tuple(
            marks.get(n, one.segment.text) for n, one in enumerate(texts[:end]) if one.segment
        )
        tokens = sum(words(text) + 3 for text in prompt)
        answer = 100 * costs.decode_behind * tokens
        yield Call(
            costs.reading(min(held, tokens), tokens) + answer, prompt, bool(found and found.marks)
        )
        held = tokens


def total(calls: Iterator[Call]) -> float:
    return sum(call.cost for call in calls)


@settings(deadline=None)
@given(some.lists(some.integers(1, 400), min_size=1, max_size=40), some.integers(0, 6))
def test_between_epochs_prompts_only_grow(sizes: list[int], every: int) -> None:
    texts = [result(f"{number} " * size) for number, size in enumerate(sizes)]
    before: tuple[str, ...] = ()
    for call in play(texts, ATTENTIVE, every=every):
        if not call.is_new_epoch:
            assert call.prompt[: len(before)] == before
        before = call.prompt


@settings(deadline=None)
@given(some.lists(some.integers(1, 400), min_size=1, max_size=40))
def test_a_cache_that_keeps_all_is_never_disturbed(sizes: list[int]) -> None:
    """Where a cached token costs nothing, and what attention costs is not known."""
    texts = [result(f"{number} " * size) for number, size in enumerate(sizes)]
    assert not any(call.is_new_epoch for call in play(texts, Costs()))


@settings(deadline=None)
@given(some.lists(some.integers(1, 400), min_size=1, max_size=40))
def test_a_cache_that_keeps_nothing_makes_every_epoch_free(sizes: list[int]) -> None:
    texts = [result(f"{number} " * size) for number, size in enumerate(sizes)]
    with_it = list(play(texts, ATTENTIVE, every=1))
    without = list(play(texts, ATTENTIVE, every=1, mask=False))
    for one, other in zip(with_it, without, strict=True):
        assert one.cost <= other.cost


def test_a_long_talk_has_few_epochs_and_costs_less() -> None:
    texts = [result(f"{number} " * 300) for number in range(100)]
    calls = list(play(texts, ATTENTIVE))
    assert 2 <= sum(call.is_new_epoch for call in calls) <= 20
    assert sum(call.cost for call in calls) < 0.8 * total(play(texts, ATTENTIVE, mask=False))


@pytest.mark.parametrize("every", [0, 5, 1])
@pytest.mark.parametrize("decode_behind", [0, 1e-6, 5e-6])
def test_recorded_conversations_cost_no_more_than_without(every: int, decode_behind: float) -> None:
    """Each file's together: a conversation that ends right after an epoch has paid for nothing."""
    costs = replace(ATTENTIVE, decode_behind=decode_behind)
    sums: dict[str, list[float]] = {}
    for name, messages in conversations():
        texts = [
            result(one["content"]) if one["kind"] == "tool_result" else message(one["content"])
            for one in messages
        ]
        both = sums.setdefault(name.split()[0], [0.0, 0.0])
        both[0] += total(play(texts, costs, every=every))
        both[1] += total(play(texts, costs, every=every, mask=False))
    assert sums
    for name, (with_it, without) in sums.items():
        assert with_it <= 1.01 * without, name
    if not every and not decode_behind:
        assert all(with_it == without for with_it, without in sums.values())

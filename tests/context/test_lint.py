"""Prefix lint: the first part that differs, why, and what it cost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import (
    Cause,
    Context,
    Finding,
    Linter,
    Part,
    SegmentKind,
    TenantKey,
    Turn,
    canonical_tools,
    find_layout,
    prompt_parts,
    roster_first,
    text_parts,
)
from agentbus.context.lint import MAX_REMEMBERED

EMPTY = TenantKey().empty()
TEAM = EMPTY.role("planner", "You plan.").role("writer", "You write.")
TALK = TEAM.user("Explain tides.").message("planner", " The moon first.")


def words(text: str) -> int:
    return len(text.split())


def lint(*parts: tuple[Part, ...]) -> Finding:
    linter = Linter(words)
    return [linter.grade(prompt) for prompt in parts][-1]


def laid_out(
    *contexts: Context, layout: str = "roster_first", readers: str = "planner planner"
) -> Finding:
    parts = find_layout(layout).parts
    return lint(*(parts(c, r) for c, r in zip(contexts, readers.split(), strict=False)))


def test_the_first_prompt_is_all_new() -> None:
    found = laid_out(TALK)
    assert (found.cause, found.shared, found.lost, found.against) == (Cause.FIRST, 0, 0, None)
    assert found.tokens > 50


def test_what_extends_loses_nothing() -> None:
    found = laid_out(TALK, TALK.user("Shorter, please."), readers="planner writer")
    assert (found.cause, found.segment, found.lost) == (Cause.EXTENDED, "", 0)
    assert found.tokens - found.shared == 2
    again = laid_out(TALK, TALK)
    assert (again.cause, again.shared) == (Cause.EXTENDED, again.tokens)
    beginning = laid_out(TALK, TEAM)
    assert (beginning.cause, beginning.shared) == (Cause.EXTENDED, beginning.tokens)


def test_a_changed_role_is_named() -> None:
    changed = EMPTY.role("planner", "You plot now.").role("writer", "You write.")
    changed = changed.user("Explain tides.").message("planner", " The moon first.")
    found = laid_out(TALK, changed)
    assert (found.cause, found.segment) == (Cause.ROLE, "role of planner")
    assert "'You plan.' became 'You plot now.'" in found.detail
    assert found.lost == words("## writer You write. Explain tides. The moon first.")
    assert found.against == 0


def test_another_reader_s_role_is_said_to_be_one() -> None:
    found = laid_out(TALK, TALK, layout="role_first", readers="planner writer")
    assert (found.cause, found.segment) == (Cause.ROLE, "role of writer")
    assert "where role of planner stood" in found.detail
    assert laid_out(TALK, TALK, layout="roster_first", readers="planner writer").lost == 0


def test_changed_tools_and_rewritten_ones_are_told_apart() -> None:
    schemas = [{"name": "find", "parameters": {"type": "object"}}]
    one = TEAM.tools(canonical_tools(schemas)).user("Go on then.")
    other = TEAM.tools(canonical_tools([{"name": "look"}])).user("Go on then.")
    found = laid_out(one, other)
    assert (found.cause, found.segment, found.lost) == (Cause.TOOLS, "tools", 3)
    loose = TEAM.add(SegmentKind.TOOLS, "", json.dumps(schemas, indent=2)).user("Go on then.")
    found = laid_out(one, loose)
    assert (found.cause, found.segment) == (Cause.TOOLS_REWRITTEN, "tools")
    assert "canonical_tools" in found.detail


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("2026-01-02 10:00:01", "2026-01-02 10:00:07"),
        ("2026-01-02T10:00:01Z", "2026-03-12T23:59:59+02:00"),
        ("Monday, 5 May 2025", "Tuesday, 6 May 2025"),
        ("9:30 am", "11:45 pm"),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("1716900000", "1716900123"),
        ("req_8fJ2kLm1", "req_99aZZq2"),
    ],
)
def test_a_time_or_an_identifier_in_the_head_is_seen(was: str, now: str) -> None:
    heads = [
        EMPTY.role("planner", f"You plan.\nIt is {text}.").user("Go on.") for text in (was, now)
    ]
    found = laid_out(*heads)
    assert (found.cause, found.segment) == (Cause.VOLATILE, "role of planner")
    assert "in its line 4" in found.detail
    assert found.lost == 2


def test_what_was_moved_left_out_or_put_in_is_named() -> None:
    one, two, three = (f"{name} paragraph." for name in ("One", "Two", "Three"))
    a = TEAM.user(one).user(two).document(three)
    assert laid_out(a, TEAM.user(two).user(one).document(three)).cause is Cause.REORDERED
    removed = laid_out(a, TEAM.user(one).document(three))
    assert (removed.cause, removed.segment, removed.lost) == (Cause.REMOVED, "user", 1)
    inserted = laid_out(a, TEAM.document(three, name="tides").user(one).user(two))
    assert (inserted.cause, inserted.segment, inserted.lost) == (
        Cause.INSERTED,
        "document of tides",
        4,
    )


def test_an_edit_is_shown() -> None:
    found = laid_out(TALK, TEAM.user("Explain winds.").message("planner", " The moon first."))
    assert (found.cause, found.segment) == (Cause.EDITED, "user")
    assert found.detail == "'Explain tides.' became 'Explain winds.'"
    ends = text_parts("so " * 40 + "low."), text_parts("so " * 40 + "high, and so on " * 9)
    was, now = lint(*ends).detail.split(" became ")
    assert was.endswith("so so low.'") and "so so high" in now and now.endswith("…'")
    assert found.lost == 3
    other = laid_out(TALK, TEAM.message("planner", "Explain tides."))
    assert (other.cause, other.detail) == (Cause.EDITED, "stands where user stood")


def test_the_best_of_all_earlier_prompts_is_compared_with() -> None:
    parts = find_layout("role_first").parts
    linter = Linter(words)
    grown = TALK.user("Shorter.")
    found = [
        linter.grade(parts(context, reader))
        for context in (TALK, grown)
        for reader in ("planner", "writer")
    ]
    assert [f.against for f in found] == [None, 0, 0, 1]
    assert [f.cause for f in found[2:]] == [Cause.EXTENDED, Cause.EXTENDED]


def test_only_the_latest_prompts_are_remembered() -> None:
    linter = Linter(words)
    first = text_parts("The very first.")
    linter.grade(first)
    for number in range(MAX_REMEMBERED):
        linter.grade(text_parts(f"{number}"))
    assert linter.grade(first).shared == 0


def test_a_text_is_taken_by_paragraphs_named_by_lines() -> None:
    text = "One.\nTwo.\n\nThree.\n\n\nFour.\nFive.\n"
    assert [(p.name, p.turn.text) for p in text_parts(text)] == [
        ("lines 1 to 2", "One.\nTwo.\n\n"),
        ("line 4", "Three.\n\n\n"),
        ("lines 7 to 8", "Four.\nFive.\n"),
    ]
    found = lint(text_parts(text), text_parts(text.replace("Three", "3")))
    assert (found.cause, found.segment, found.lost) == (Cause.EDITED, "line 4", 2)
    grown = lint(text_parts("One.\n\nTwo."), text_parts("One.\n\nTwo.\n\nThree."))
    assert (grown.cause, grown.lost, grown.shared) == (Cause.EXTENDED, 0, 2)


def test_prompts_that_share_nothing_are_said_to() -> None:
    found = lint(text_parts("One."), text_parts(""), text_parts("Two."))
    assert (found.cause, found.segment, found.against) == (Cause.UNRELATED, "", 0)
    assert lint(text_parts("One."), text_parts("")).tokens == 0


def test_where_none_shares_a_beginning_the_most_alike_is_compared_with() -> None:
    found = lint(*(text_parts(t) for t in ("A\n\nB\n\nC", "X", "Y\n\nB\n\nC")))
    assert (found.against, found.lost) == (0, 2)


@settings(deadline=None)
@given(text=st.text("ab \n", max_size=30))
def test_paragraphs_are_the_whole_text(text: str) -> None:
    assert "".join(part.turn.text for part in text_parts(text)) == text


def test_a_bare_prompt_is_named_by_its_turns() -> None:
    prompt = roster_first(TALK, "writer")
    parts = prompt_parts(prompt)
    assert [p.name for p in parts] == [
        "turn 1 (system)",
        "turn 2 (user)",
        "turn 3 (assistant planner)",
    ]
    assert tuple(p.turn for p in parts) == prompt.turns


PROMPTS = st.lists(
    st.builds(
        Part, st.sampled_from("pq"), st.builds(Turn, st.just("user"), st.text("ab \n", max_size=6))
    ),
    max_size=5,
).map(tuple)


@settings(deadline=None)
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=4))
def test_the_counts_add_up(prompts: list[tuple[Part, ...]]) -> None:
    linter = Linter(len)
    for prompt in prompts:
        found = linter.grade(prompt)
        assert 0 <= found.lost
        assert 0 <= found.shared
        assert found.shared + found.lost <= found.tokens == sum(len(p.turn.text) for p in prompt)
        assert (found.lost == 0) or found.cause not in (Cause.FIRST, Cause.EXTENDED)
    assert linter.grade(prompts[0]).shared == sum(len(p.turn.text) for p in prompts[0])

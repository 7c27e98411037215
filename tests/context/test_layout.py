"""Layouts: what each reader gets, and that appending only adds turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.context import (
    LAYOUTS,
    ROSTER_INTRODUCTION,
    Context,
    SegmentKind,
    TenantKey,
    Turn,
    delivered_root,
    find_layout,
    role_first,
    roster_first,
)
from agentbus.errors import LayoutError

TEAM = TenantKey().empty().role("planner", "You plan.").role("writer", "You write.")
TALK = (
    TEAM.document("Tides rise.")
    .user("Explain.")
    .message("planner", " First, the moon.")
    .ask("Write it.", author="planner")
    .message("writer", " The moon pulls.")
)


def test_roster_first_shows_all_readers_the_same_but_the_cue() -> None:
    prompt = roster_first(TALK, "writer")
    assert prompt.turns == (
        Turn(
            "system", f"{ROSTER_INTRODUCTION}\n\n## planner\n\nYou plan.\n\n## writer\n\nYou write."
        ),
        Turn("user", "Tides rise."),
        Turn("user", "Explain."),
        Turn("assistant", " First, the moon.", "planner"),
        Turn("user", " Write it.", "planner"),
        Turn("assistant", " The moon pulls.", "writer"),
    )
    assert prompt.cue == Turn("assistant", "", "writer")
    other = roster_first(TALK, "planner")
    assert other.turns == prompt.turns
    assert other.cue == Turn("assistant", "", "planner")
    assert other.delivered_root == prompt.delivered_root


def test_role_first_shows_each_reader_its_own_view() -> None:
    prompt = role_first(TALK, "writer")
    assert prompt.turns == (
        Turn("system", "You write."),
        Turn("user", "Tides rise."),
        Turn("user", "Explain."),
        Turn("user", " First, the moon.", "planner"),
        Turn("user", " Write it.", "planner"),
        Turn("assistant", " The moon pulls."),
    )
    assert prompt.cue == Turn("assistant", "")
    assert "You plan." not in str(prompt)
    assert role_first(TALK, "guest").turns[0] == Turn("user", "Tides rise.")
    assert role_first(TALK, "planner").delivered_root != prompt.delivered_root


def test_a_named_document_says_its_name() -> None:
    context = TEAM.document("High at noon.", name="tide table")
    assert roster_first(context, "writer").turns[-1] == Turn("user", " High at noon.", "tide table")


def test_a_late_role_is_refused_with_advice() -> None:
    late = TALK.role("critic", "You judge.")
    with pytest.raises(LayoutError, match=r"'critic'.*add all roles first.*role_first"):
        roster_first(late, "critic")
    assert role_first(late, "critic").turns[0] == Turn("system", "You judge.")


NAMES = st.sampled_from(["planner", "writer", "critic"])
PARTS = st.tuples(
    st.sampled_from([kind for kind in SegmentKind if kind is not SegmentKind.ROLE]),
    NAMES,
    st.text(max_size=10),
)


@given(parts=st.lists(PARTS, max_size=8), reader=NAMES, layout=st.sampled_from(sorted(LAYOUTS)))
def test_appending_only_adds_turns(
    parts: list[tuple[SegmentKind, str, str]], reader: str, layout: str
) -> None:
    render = find_layout(layout).render
    context = TEAM
    before = render(context, reader)
    for part in parts:
        context = context.add(*part)
        after = render(context, reader)
        assert after.turns[:-1] == before.turns
        assert after.cue == before.cue
        assert after.delivered_root != before.delivered_root
        before = after


@given(parts=st.lists(PARTS, max_size=8))
def test_roster_first_differs_by_the_cue_alone(parts: list[tuple[SegmentKind, str, str]]) -> None:
    context: Context = TEAM
    for part in parts:
        context = context.add(*part)
    assert len({roster_first(context, name).turns for name in ("planner", "writer", "x")}) == 1


def test_a_delivered_root_names_all_that_shapes_it() -> None:
    other_key = TenantKey(b"k" * 32).empty().user("Explain.")
    same = TenantKey().empty().user("Explain.")
    roots = [
        delivered_root(same, "roster_first", 1),
        delivered_root(same, "roster_first", 2),
        delivered_root(same, "role_first", 1, reader="writer"),
        delivered_root(same, "role_first", 1, reader="planner"),
        delivered_root(other_key, "roster_first", 1),
        delivered_root(same.user("More."), "roster_first", 1),
        same.root,
    ]
    assert len(set(roots)) == len(roots)
    assert roots[0] == delivered_root(same, "roster_first", 1, reader="writer")


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(LayoutError, match="roster_first, role_first"):
        find_layout("haphazard")

"""Layouts: what each reader gets, and that appending only adds turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import (
    LAYOUTS,
    ROSTER_INTRODUCTION,
    SHARED_INTRODUCTION,
    Context,
    SegmentKind,
    TenantKey,
    Turn,
    canonical_tools,
    delivered_root,
    find_layout,
    merge_tools,
    role_first,
    roster_first,
    shared_first,
    write_call,
)
from agentbus.context.layout import REPLACES
from agentbus.context.tools import TOOLS_INTRODUCTION as TOOLS
from agentbus.errors import LayoutError, ToolSchemaError

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
HEAD = (SegmentKind.ROLE, SegmentKind.PRIVATE_ROLE, SegmentKind.TOOLS)
PARTS = st.tuples(
    st.sampled_from([kind for kind in SegmentKind if kind not in HEAD]),
    NAMES,
    st.text(max_size=10),
)


@settings(deadline=None)
@given(
    parts=st.lists(PARTS, max_size=8),
    reader=NAMES,
    layout=st.sampled_from(["roster_first", "role_first"]),
)
def test_appending_only_adds_turns(
    parts: list[tuple[SegmentKind, str, str]], reader: str, layout: str
) -> None:
    render = find_layout(layout).render
    context = TEAM
    before = render(context, reader)
    for part in parts:
        context = context.add(*part)
        after = render(context, reader)
        added = 0 if part[0] is SegmentKind.NOTE else 1
        assert after.turns[: len(after.turns) - added] == before.turns
        assert after.cue == before.cue
        assert after.delivered_root != before.delivered_root
        before = after


@settings(deadline=None)
@given(parts=st.lists(PARTS, max_size=8))
def test_roster_first_differs_by_the_cue_alone(parts: list[tuple[SegmentKind, str, str]]) -> None:
    context: Context = TEAM
    for part in parts:
        context = context.add(*part)
    assert len({roster_first(context, name).turns for name in ("planner", "writer", "x")}) == 1


@settings(deadline=None)
@given(parts=st.lists(PARTS, max_size=8), readers=st.lists(NAMES, min_size=9, max_size=9))
def test_shared_first_shares_all_but_role_and_ask(
    parts: list[tuple[SegmentKind, str, str]], readers: list[str]
) -> None:
    context: Context = TEAM.role("critic", "You judge.", private=True)
    shared: tuple[Turn, ...] = ()
    for part, reader in zip(parts, readers, strict=False):
        context = context.add(*part)
        prompt = shared_first(context, reader)
        assert prompt.cue == Turn("assistant", "", reader)
        assert prompt.turns[: len(shared)] == shared
        asked = next((s for s in context.segments()[::-1] if s.kind is not SegmentKind.NOTE), None)
        own = 2 if asked is not None and asked.kind is SegmentKind.ASK else 1
        shared = prompt.turns[:-own]


def test_shared_first_shows_role_and_ask_last() -> None:
    prompt = shared_first(TALK.ask("Shorter.", author="planner"), "writer")
    assert prompt.turns == (
        Turn("system", SHARED_INTRODUCTION),
        Turn("user", "Tides rise."),
        Turn("user", "Explain."),
        Turn("assistant", " First, the moon.", "planner"),
        Turn("user", " Write it.", "planner"),
        Turn("assistant", " The moon pulls.", "writer"),
        Turn("user", "## writer\n\nYou write."),
        Turn("user", " Shorter.", "planner"),
    )
    assert prompt.cue == Turn("assistant", "", "writer")
    assert shared_first(TALK, "guest").turns == prompt.turns[:-2]


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("reader", ["planner", "writer", "judge", "guest"])
def test_a_private_role_is_shown_to_its_own_agent_alone(layout: str, reader: str) -> None:
    context = TEAM.role("judge", "Hidden rubric.", private=True).user("Begin.")
    context = context.role("", "Nobody's secret.", private=True).user("Go on.")
    if (layout, reader) == ("roster_first", "judge"):
        with pytest.raises(LayoutError, match=r"'judge' is private.*shared_first or role_first"):
            roster_first(context, reader)
        return
    shown = str(find_layout(layout).render(context, reader).turns)
    assert ("Hidden rubric." in shown) == (reader == "judge")
    assert "Nobody's secret." not in shown
    assert "You plan." in shown or layout != "roster_first"


def test_no_layout_shows_a_note() -> None:
    noted = TALK.note("for programs")
    for layout in LAYOUTS.values():
        assert layout.render(noted, "writer").turns == layout.render(TALK, "writer").turns


SEARCH = canonical_tools([{"name": "search"}])
WRITE = canonical_tools([{"name": "write"}])
CALL = write_call("search", '{"q": "tides"}')
TOOLED = (
    TEAM.tools(SEARCH, agent="planner")
    .tools(WRITE, agent="writer")
    .user("Go.")
    .tool_call("planner", CALL)
    .tool_result("search", "High at noon.")
)


def test_roster_first_shows_the_union_of_tools_to_all() -> None:
    prompt = roster_first(TOOLED, "writer")
    assert prompt.turns == roster_first(TOOLED, "planner").turns
    assert prompt.turns[0].text.endswith(f"# Tools\n\n{TOOLS}\n\n{merge_tools([SEARCH, WRITE])}")
    assert prompt.turns[2:] == (
        Turn("assistant", CALL, "planner"),
        Turn("user", "<tool_response>\nHigh at noon.\n</tool_response>"),
    )


def test_role_first_and_shared_first_show_the_reader_s_own_tools() -> None:
    prompt = role_first(TOOLED, "planner")
    assert prompt.turns[0] == Turn("system", f"You plan.\n\n# Tools\n\n{TOOLS}\n\n{SEARCH}")
    assert prompt.turns[2] == Turn("assistant", CALL)
    shared = shared_first(TOOLED, "planner")
    assert shared.turns[0] == Turn("system", SHARED_INTRODUCTION)
    assert shared.turns[-1] == Turn("user", f"# Tools\n\n{TOOLS}\n\n{SEARCH}")
    for_all = TEAM.tools(SEARCH).user("Go.")
    assert shared_first(for_all, "x").turns[0].text.endswith(SEARCH)
    assert role_first(for_all, "x").turns[0].text.endswith(SEARCH)


def test_late_tools_are_refused_where_they_would_change_the_shared_head() -> None:
    late = TALK.tools(SEARCH)
    for layout in ("roster_first", "shared_first"):
        with pytest.raises(LayoutError, match=r"tools .*after the conversation had begun"):
            find_layout(layout).render(late, "writer")
    assert role_first(late, "writer").turns[0].text.endswith(SEARCH)
    own = TALK.tools(SEARCH, agent="writer")
    assert shared_first(own, "writer").turns[-1].text.endswith(SEARCH)
    assert SEARCH not in str(shared_first(own, "planner").turns)


def test_tools_that_two_agents_see_differently_are_a_typed_error() -> None:
    other = canonical_tools([{"name": "search", "description": "Otherwise."}])
    context = TEAM.tools(SEARCH, agent="planner").tools(other, agent="writer")
    with pytest.raises(ToolSchemaError, match="search"):
        roster_first(context, "writer")
    assert role_first(context, "writer").turns[0].text.endswith(other)


def test_what_replaces_an_earlier_segment_says_so_and_the_earlier_one_stays() -> None:
    document = next(s for s in TALK.segments() if s.kind is SegmentKind.DOCUMENT)
    context = TALK.supersede(document, "Tides fall.")
    for layout in LAYOUTS.values():
        turns = layout.render(context, "guest").turns
        assert turns[: len(turns) - 1] == layout.render(TALK, "guest").turns
        assert turns[-1] == Turn("user", f"{REPLACES}\n\nTides fall.")
    message = next(s for s in TALK.segments() if s.kind is SegmentKind.MESSAGE)
    edited = roster_first(TALK.supersede(message, "First, the sun."), "writer").turns[-1]
    assert edited == Turn("assistant", f"{REPLACES}\n\nFirst, the sun.", "planner")


def test_a_role_that_is_replaced_stays_in_the_roster_and_nowhere_else() -> None:
    role = next(s for s in TALK.segments() if s.author == "writer")
    context = TALK.supersede(role, "You write briefly.")
    before, after = roster_first(TALK, "writer"), roster_first(context, "writer")
    assert after.turns[:-1] == before.turns
    assert after.turns[-1] == Turn("user", f"{REPLACES}\n\n## writer\n\nYou write briefly.")
    assert role_first(context, "writer").turns[0] == Turn("system", "You write briefly.")
    shared = shared_first(context, "writer").turns
    assert shared[-1] == Turn("user", "## writer\n\nYou write briefly.")
    assert "You write." not in str(shared)
    compacted = roster_first(context.compacted(), "writer")
    assert compacted.turns[1:] == before.turns[1:]
    assert "You write briefly." in compacted.turns[0].text
    early = TEAM.supersede(TEAM.segments()[1], "You write briefly.")
    assert "You write." not in str(roster_first(early, "writer").turns)


def test_tools_that_are_replaced_are_said_anew_where_all_share_the_head() -> None:
    context = TEAM.tools(SEARCH).user("Go.")
    replaced = context.supersede(context.segments()[2], WRITE)
    for layout in ("roster_first", "shared_first"):
        turns = find_layout(layout).render(replaced, "guest").turns
        assert turns[:-1] == find_layout(layout).render(context, "guest").turns
        assert turns[-1].text.startswith(REPLACES)
        assert turns[-1].text.endswith(WRITE)
    assert role_first(replaced, "guest").turns[0].text.endswith(WRITE)


def test_a_summary_is_said_by_its_author() -> None:
    context = TEAM.summary("They met.", of=TALK)
    assert roster_first(context, "writer").turns[-1] == Turn("user", " They met.", "summary")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_parts_are_the_prompt_under_names(layout: str) -> None:
    found = find_layout(layout)
    context = TOOLED.ask("Now.")
    parts = found.parts(context, "planner")
    turns = found.render(context, "planner").turns
    system = [p.turn.text for p in parts if p.turn.role == "system"]
    assert turns[0] == Turn("system", "\n\n".join(system))
    assert turns[1:] == tuple(p.turn for p in parts if p.turn.role != "system")
    names = {part.name for part in parts}
    assert {
        "role of planner",
        "user",
        "tool call of planner",
        "tool result of search",
        "ask",
    } <= names


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
    with pytest.raises(LayoutError, match="roster_first, role_first, shared_first"):
        find_layout("haphazard")

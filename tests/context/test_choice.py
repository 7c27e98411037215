"""Layouts chosen by predicted prefill: what is predicted, what is chosen, what agents then read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.config import LayoutSetting
from agentbus.context import (
    AUTO,
    BY_ROLE,
    LAYOUTS,
    Context,
    Hop,
    TenantKey,
    Turn,
    choose_layout,
    expected_hops,
    find_layout,
    past_hops,
    predict,
    read_as,
)
from agentbus.errors import LayoutError

EMPTY = TenantKey().empty()
DOCUMENT = "tide " * 400
LONG = "rule " * 300
TEAM = EMPTY.role("planner", "You plan.").role("writer", "You write.")
NAMES = ["planner", "writer"]


def words(text: str) -> int:
    return len(text.split())


def replayed(layout: str, hops: Sequence[Hop]) -> int:
    """Count what is prefilled the slow way: against each prompt before, word by word of turns."""
    known: list[tuple[Turn, ...]] = []
    total = 0
    for hop in hops:
        prompt = find_layout(layout).render(hop.context, hop.reader)
        shared = 0
        for turns in known:
            same = 0
            for one, other in zip(prompt.turns, turns, strict=False):
                if one != other:
                    break
                same += 1
            shared = max(shared, same)
        for turn in (*prompt.turns[shared:], prompt.cue):
            total += words(turn.text) + 4 + (words(turn.name) + 1 if turn.name else 0)
        known.append((*prompt.turns, Turn(prompt.cue.role, hop.answer, prompt.cue.name)))
    return total


TALKS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["a", "b c"])), max_size=6)


@settings(deadline=None)
@given(talk=TALKS, layout=st.sampled_from(sorted(LAYOUTS)))
def test_a_prediction_is_what_a_replay_counts(talk: list[tuple[str, str]], layout: str) -> None:
    context: Context = TEAM.document("Tides rise.")
    for name, text in talk:
        context = context.ask("Go on.").message(name, text)
    hops = past_hops(context)
    assert [(hop.reader, hop.answer) for hop in hops] == talk
    assert predict(layout, hops, words).prefilled == replayed(layout, hops)


def test_roles_in_the_open_are_read_roster_first() -> None:
    choice = choose_layout(expected_hops(TEAM.document(DOCUMENT), NAMES), words)
    assert choice.layout == "roster_first"
    assert [one.layout for one in choice.predictions] == [
        "roster_first",
        "shared_first",
        "role_first",
    ]
    by_name = {one.layout: one.prefilled for one in choice.predictions}
    assert by_name["roster_first"] < by_name["shared_first"] < by_name["role_first"]
    assert all(one.prefilled <= one.prompts for one in choice.predictions)


def test_private_roles_before_a_long_context_are_read_shared_first() -> None:
    hops = expected_hops(EMPTY.document(DOCUMENT), NAMES, private_role="You judge.")
    choice = choose_layout(hops, words)
    assert choice.layout == "shared_first"
    assert "private" in choice.predictions[0].problem


def test_long_private_roles_before_a_short_context_are_read_role_first() -> None:
    hops = expected_hops(EMPTY.user("Go."), NAMES, private_role=LONG)
    assert choose_layout(hops, words).layout == "role_first"


def test_what_was_delivered_before_counts() -> None:
    context = TEAM.document(DOCUMENT)
    hops = [Hop(context.user("Go."), "writer")]
    assert choose_layout(hops, words).layout == "role_first"
    delivered = [find_layout("roster_first").render(context, "planner")]
    choice = choose_layout(hops, words, delivered=delivered)
    assert choice.layout == "roster_first"
    assert choice.predictions[0].prefilled < 20


def test_where_no_layout_fits_each_says_why() -> None:
    hops = [Hop(TEAM.user("Go.").role("judge", "You judge.", private=True), "judge")]
    with pytest.raises(LayoutError, match=r"^roster_first: .*private"):
        choose_layout(hops, words, layouts=["roster_first"])


def test_an_agent_whose_role_stands_in_the_context_reads_it_as_it_is() -> None:
    context = TEAM.user("Go.")
    assert read_as("writer", "ignored", context).layout == "roster_first"
    for layout in (BY_ROLE, AUTO, *LAYOUTS):
        assert read_as("writer", "ignored", context, layout).context is context


def test_an_agent_whose_private_role_stands_in_the_context_can_read_it() -> None:
    """Roster-first would show it to all; so an agent gets no such layout unasked."""
    context = TEAM.role("judge", "You judge.", private=True).user("Go.")
    assert read_as("judge", "ignored", context).layout == "role_first"
    assert read_as("writer", "ignored", context).layout == "roster_first"
    both = TEAM.role("writer", "And in secret.", private=True).user("Go.")
    reading = read_as("writer", "ignored", both)
    assert (reading.layout, reading.context) == ("role_first", both)
    head = find_layout(reading.layout).render(reading.context, "writer").turns[0].text
    assert head == "You write.\n\nAnd in secret."


def test_an_agent_with_a_role_of_its_own_reads_it_as_a_private_one() -> None:
    reading = read_as("judge", "You judge.", TEAM.user("Go."))
    assert reading.layout == "role_first"
    assert reading.context == EMPTY.role("judge", "You judge.", private=True).user("Go.")
    shared = read_as("judge", "You judge.", TEAM.user("Go."), "shared_first")
    assert shared.context == reading.context
    assert read_as("guest", "", TEAM.user("Go.")).context == EMPTY.user("Go.")
    assert read_as("guest", "", TEAM.user("Go."), "roster_first").context == TEAM.user("Go.")
    with pytest.raises(LayoutError, match="no layout 'haphazard'"):
        read_as("guest", "", TEAM, "haphazard")


def test_auto_says_what_was_predicted() -> None:
    reading = read_as("writer", "", TEAM.document(DOCUMENT), AUTO)
    assert reading.layout == "roster_first"
    assert {one.layout for one in reading.predictions} == set(LAYOUTS)
    assert read_as("writer", "", TEAM.document(DOCUMENT)).predictions == ()


def test_auto_lets_agents_with_private_roles_share_what_was_said() -> None:
    context = EMPTY.document(DOCUMENT).ask("Plan.").message("planner", " Done.")
    reading = read_as("judge", "You judge.", context, AUTO)
    assert reading.layout == "shared_first"
    assert read_as("judge", LONG, EMPTY.user("Go."), AUTO).layout == "role_first"


@settings(deadline=None, max_examples=30)
@given(talk=TALKS, document=st.sampled_from(["", "short", DOCUMENT]))
def test_auto_keeps_the_layout_of_a_conversation(
    talk: list[tuple[str, str]], document: str
) -> None:
    context = TEAM.document(document)
    chosen = {read_as(name, "", context, AUTO).layout for name in NAMES}
    for name, text in talk:
        context = context.ask("Go on.").message(name, text)
        chosen |= {read_as(reader, "", context, AUTO).layout for reader in NAMES}
    assert len(chosen) == 1


def test_auto_does_not_change_the_layout_when_much_was_said() -> None:
    context = EMPTY.user("Go.")
    for _ in range(6):
        assert read_as("judge", LONG, context, AUTO).layout == "role_first"
        context = context.message("judge", DOCUMENT).message("writer", DOCUMENT)
    fresh = EMPTY.document(DOCUMENT * 12).message("writer", " Done.")
    assert read_as("judge", LONG, fresh, AUTO).layout == "shared_first"


def test_the_setting_names_all_layouts() -> None:
    assert set(get_args(LayoutSetting)) == {AUTO, BY_ROLE, *LAYOUTS}

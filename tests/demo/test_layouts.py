from __future__ import annotations

import pytest

from agentbus.context.layout import Turn, find_layout
from agentbus.demo.layouts import LAYOUTS, role_first, roster_first
from agentbus.demo.script import Conversation

from .local_way import as_context


def as_message(turn: Turn) -> tuple[str, str]:
    return turn.role, f"{turn.name}:{turn.text}" if turn.name else turn.text


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("index", range(4))
def test_the_layout_by_hand_is_agentbuss_own(
    conversation: Conversation, name: str, index: int
) -> None:
    """So that what the two ways differ in is not the words that the model reads."""
    speaker = conversation.hops[index].target
    by_hand = LAYOUTS[name](conversation.roles, conversation.transcript(index), speaker)
    prompt = find_layout(name).render(as_context(conversation, index), speaker)
    expected = [as_message(turn) for turn in prompt.turns]
    if by_hand["continue_final_message"]:
        expected.append(as_message(prompt.cue))
    else:
        assert as_message(prompt.cue) == ("assistant", "")
    assert [(m["role"], m["content"]) for m in by_hand["messages"]] == expected


def test_role_first_is_the_speakers_own_view(conversation: Conversation) -> None:
    rendered = role_first(conversation.roles, conversation.transcript(2), "alpha")
    assert rendered["add_generation_prompt"] and not rendered["continue_final_message"]
    assert [(m["role"], m["content"]) for m in rendered["messages"]] == [
        ("system", "You count the boats."),
        ("user", "The harbour has boats."),
        ("user", "Which boats?"),
        ("user", "Ask 0, please."),
        ("assistant", " Nine boats."),
        ("user", "alpha: Ask 1, please."),
        ("user", "beta: Gull, Tern."),
        ("user", "beta: Ask 2, please."),
    ]


def test_role_first_only_grows_for_one_speaker(conversation: Conversation) -> None:
    before = role_first(conversation.roles, conversation.transcript(1), "beta")["messages"]
    after = role_first(conversation.roles, conversation.transcript(3), "beta")["messages"]
    assert after[: len(before)] == before


def test_roster_first_only_grows_for_all_speakers(conversation: Conversation) -> None:
    chats = [
        roster_first(conversation.roles, conversation.transcript(hop.index), hop.target)
        for hop in conversation.hops
    ]
    for hop, earlier, later in zip(conversation.hops, chats, chats[1:], strict=False):
        *shared, cue = earlier["messages"]
        assert earlier["continue_final_message"] and not earlier["add_generation_prompt"]
        assert later["messages"][: len(shared)] == shared
        assert later["messages"][len(shared)] == {**cue, "content": cue["content"] + hop.text}

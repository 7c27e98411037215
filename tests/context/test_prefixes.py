"""The tree of recent prompts answers as a look at each of them does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import Part, Turn
from agentbus.context.prefixes import RecentPrompts, common_length

TURNS = st.builds(Turn, st.sampled_from(["user", "system"]), st.text("ab", max_size=3))
PROMPTS = st.lists(TURNS.map(lambda turn: Part("p", turn)), min_size=1, max_size=4).map(tuple)


def shared(one: tuple[Part, ...], other: tuple[Part, ...]) -> int:
    size = 0
    for a, b in zip(one, other, strict=False):
        if a.turn != b.turn:
            alike = a.turn.role == b.turn.role
            return size + (common_length(a.turn.text, b.turn.text) if alike else 0)
        size += len(a.turn.text)
    return size


@settings(deadline=None)
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=12), limit=st.integers(1, 5))
def test_the_nearest_prompt_shares_most(prompts: list[tuple[Part, ...]], limit: int) -> None:
    recent = RecentPrompts(limit)
    for number, prompt in enumerate(prompts):
        kept = dict(list(enumerate(prompts[:number]))[-limit:])
        if kept:
            found, parts = recent.nearest(prompt)
            assert kept[found] == parts
            assert shared(prompt, parts) == max(shared(prompt, other) for other in kept.values())
        recent.add(number, prompt)
        assert len(recent) == min(number + 1, limit)


@settings(deadline=None)
@given(one=st.text("ab"), other=st.text("ab"))
def test_common_length_is_that_of_the_common_beginning(one: str, other: str) -> None:
    size = common_length(one, other)
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]

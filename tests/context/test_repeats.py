"""How much of a prompt is said again, in another place than in its owner's last prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.context import LastPrompts, Turn

A, B, C, D = (Turn("user", letter * 10) for letter in "abcd")
TURNS = st.lists(st.sampled_from([A, B, C, D]), max_size=6)


@pytest.mark.parametrize(
    ("last", "new", "share"),
    [
        ([A, B], [A, B, C], 0.0),
        ([A, B], [A, B], 0.0),
        ([A, B, C], [A, B], 0.0),
        ([], [A, B], 0.0),
        ([A, B], [C, D], 0.0),
        ([A, B, C], [D, A, B, C], 0.75),
        ([A, B, C], [A, C, B], 2 / 3),
        ([A, B, C], [A, D, C], 1 / 3),
        ([A, B], [A, C, A], 0.0),
        ([A, B, A], [A, C, A], 1 / 3),
        ([A, B], [A, Turn("assistant", B.text)], 0.0),
        ([Turn("user", "")], [A, Turn("user", "")], 0.0),
    ],
)
def test_what_stood_behind_the_fork_and_stands_there_again_is_lost(
    last: list[Turn], new: list[Turn], share: float
) -> None:
    prompts = LastPrompts(9)
    assert prompts.repeated("ann", last) == 0.0
    assert prompts.repeated("ann", new) == pytest.approx(share)


@given(TURNS, TURNS)
def test_it_is_a_share_and_nothing_of_what_no_cache_could_miss(
    last: list[Turn], new: list[Turn]
) -> None:
    prompts = LastPrompts(9)
    prompts.repeated("ann", last)
    share = prompts.repeated("ann", new)
    assert 0 <= share <= 1
    assert prompts.repeated("ann", new) == prompts.repeated("ann", [*new, A]) == 0


def test_each_owner_has_a_last_prompt_of_its_own_and_the_oldest_is_forgotten() -> None:
    prompts = LastPrompts(2)
    prompts.repeated("ann", [A, B])
    prompts.repeated("bob", [C])
    assert prompts.repeated("ann", [B, A]) == 1.0
    prompts.repeated("eve", [C])
    prompts.repeated("bob", [A, B])
    assert prompts.repeated("eve", [A, C]) == 0.5
    assert prompts.repeated("ann", [A, B]) == 0.0, "it was forgotten"

"""Eviction by next use, through the index: what stays when room runs out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentbus.errors import KVExhausted
from agentbus.kv import LRU, MAX_OWNERS, BlockPool, RadixIndex, Step, WorkflowAware
from agentbus.kv.tree import pack_tokens

N = b"model"
BLOCK = 4


def index(total: int, policy: LRU | WorkflowAware | None = None) -> RadixIndex:
    return RadixIndex(BlockPool(total), BLOCK, policy)


def call(radix: RadixIndex, owner: str, tokens: Sequence[int], step: Step = Step.UNKNOWN) -> int:
    """Make a call; return what it reused."""
    lease = radix.begin(N, tokens, owner=owner)
    radix.commit(lease, tokens, step=step)
    radix.check_integrity()
    return lease.reused


def cached(radix: RadixIndex, *prompts: Sequence[int]) -> list[int]:
    return [radix.match_length(N, prompt) for prompt in prompts]


def teach(radix: RadixIndex, rounds: int = 40) -> None:
    """Tools come back in the next call, turns that are over after forty."""
    for number in range(rounds):
        call(radix, "tools", [1], Step.TOOL)
        if number % 40 == 0:
            call(radix, "turns", [2], Step.REPLY)
    radix.clear()


A, B, C = range(100, 116), range(200, 216), range(300, 316)


def test_who_waits_for_a_tool_stays_longer_than_whose_turn_is_over() -> None:
    radix = index(12)
    teach(radix, 120)
    call(radix, "a", A, Step.TOOL)
    call(radix, "b", B, Step.REPLY)
    call(radix, "c", C)
    call(radix, "d", range(400, 416))
    assert cached(radix, A, B) == [16, 0]


def test_among_equals_the_least_recently_used_goes_first() -> None:
    radix = index(13)
    for owner, prompt in (("a", A), ("b", B), ("c", C), ("a", A), ("d", range(400, 416))):
        call(radix, owner, prompt, Step.TOOL)
    assert cached(radix, A, B, C) == [16, 4, 16]


def test_without_owners_it_is_lru() -> None:
    ours, lru = index(10, WorkflowAware()), index(10, LRU())
    for number in range(200):
        start = number * number % 7 * 100
        tokens = range(start, start + 5 + number % 11)
        assert call(ours, "", tokens) == call(lru, "", tokens)


def test_who_never_came_back_from_a_reply_is_waited_for_less_than_who_did() -> None:
    radix = index(12)
    system = list(range(50, 58))
    for number in range(60):
        if number % 4 == 0:
            call(radix, "main", A[:4], Step.REPLY)
        call(radix, f"sub{number}", [*system, 60, number], Step.REPLY)
    radix.clear()
    call(radix, "main", A, Step.REPLY)
    for name, end in (("one", 72), ("two", 92)):
        call(radix, name, [*system, *range(end - 12, end)], Step.REPLY)
    call(radix, "other", B, Step.TOOL)
    assert cached(radix, A) == [16]
    assert cached(radix, [*system, *range(60, 72)]) == [8]
    assert cached(radix, [*system, *range(80, 92)])[0] > 8, "the last used stays longest"


def test_what_agents_share_is_not_judged_by_whether_one_of_them_comes_back() -> None:
    radix = index(32)
    for number in range(3):
        call(radix, f"sub{number}", [*A, number, number, number, number], Step.REPLY)
    (root,) = radix._roots.values()
    (shared,) = root.children.values()
    assert (shared.length, shared.step) == (16, Step.TOOL)
    assert {node.step for node in shared.children.values()} == {Step.FIRST_REPLY}


def test_who_came_back_from_a_reply_is_known_from_then_on() -> None:
    policy, owner = WorkflowAware(), (N, "a")
    steps = []
    for number, step in enumerate([Step.TOOL, Step.REPLY, Step.TOOL, Step.REPLY, Step.REPLY]):
        policy.called(owner, b"", number)
        steps.append(policy.left(owner, step, number))
    assert steps == [Step.TOOL, Step.FIRST_REPLY, Step.TOOL, Step.REPLY, Step.REPLY]
    assert policy._returns[Step.FIRST_REPLY]._returns == policy._returns[Step.REPLY]._returns == 1


def test_what_was_computed_ahead_is_kept_for_its_call() -> None:
    radix = index(12)
    for _ in range(8):
        call(radix, "prompt", [1], Step.AHEAD)
        call(radix, "prompt", [1], Step.REPLY)
        for number in range(40):
            call(radix, f"other{number}", [2], Step.REPLY)
    radix.clear()
    call(radix, "next", A, Step.AHEAD)
    call(radix, "b", B, Step.REPLY)
    call(radix, "c", C, Step.REPLY)
    call(radix, "d", range(400, 416), Step.REPLY)
    assert cached(radix, A, B) == [16, 0]


def test_a_superseded_tail_goes_before_older_prompts() -> None:
    radix = index(12)
    call(radix, "other", B, Step.TOOL)
    call(radix, "compacts", [*A, *range(116, 128)], Step.TOOL)
    call(radix, "compacts", [*A[:8], *range(500, 508)], Step.TOOL)
    assert cached(radix, B, A[:8]) == [16, 8]
    assert cached(radix, [*A, *range(116, 128)])[0] < 28


def test_an_agent_that_alternates_keeps_both_its_prompts() -> None:
    radix = index(64)
    plan, act = [*range(8), *range(1000, 1016)], [*range(8), *range(2000, 2016)]
    for _ in range(12):
        call(radix, "both", plan, Step.TOOL)
        call(radix, "both", act, Step.TOOL)
    policy = WorkflowAware()
    owner = (N, "both")
    first = policy.superseded(owner, 8, pack_tokens(plan[8:]))
    for number in range(8):
        now, then = (act, plan) if number % 2 else (plan, act)
        policy.called(owner, pack_tokens(now), number)
        last = policy.superseded(owner, 8, pack_tokens(then[8:]))
    assert last == 0 < first


def test_a_short_rest_of_a_block_is_not_a_superseded_tail() -> None:
    radix = index(16)
    call(radix, "a", A, Step.TOOL)
    call(radix, "a", [*A[:13], 7, 7, 7, 7], Step.TOOL)
    assert policy_of(radix)._superseded == 0


def policy_of(radix: RadixIndex) -> WorkflowAware:
    policy = radix._policy
    assert isinstance(policy, WorkflowAware)
    return policy


def test_what_is_left_of_a_prompt_is_still_its_owner_s() -> None:
    radix = index(12)
    call(radix, "a", A[:8], Step.TOOL)
    call(radix, "a", A, Step.TOOL)
    call(radix, "b", range(200, 240), Step.TOOL)
    assert cached(radix, A) == [8]
    end = radix._trails.end((N, "a"))
    assert end is not None and (end.end, end.owner) == (8, (N, "a"))


def test_owners_are_bounded() -> None:
    policy = WorkflowAware()
    for number in range(MAX_OWNERS + 5):
        policy.called((N, str(number)), b"", number)
        policy.left((N, str(number)), Step.TOOL, number)
    assert len(policy._seen) == MAX_OWNERS
    assert len(policy._returns[Step.TOOL]._waiting) == MAX_OWNERS


def test_of_two_calls_of_one_owner_the_later_end_counts() -> None:
    radix = index(16)
    first, second = radix.begin(N, A, owner="a"), radix.begin(N, B, owner="a")
    radix.commit(first, A, step=Step.TOOL)
    radix.commit(second, B, step=Step.REPLY)
    radix.check_integrity()
    assert policy_of(radix)._seen[N, "a"].step is Step.FIRST_REPLY
    assert not policy_of(radix)._returns[Step.TOOL]._waiting


def test_a_running_call_that_computes_what_another_needs_is_found() -> None:
    radix = index(32)
    call(radix, "", A[:4])
    assert radix.computing(N, A) is None
    short = radix.begin(N, A[:8])
    long = radix.begin(N, [*A, 1, 2])
    found = radix.computing(N, [*A, 9, 9])
    assert found is not None and found.lease is long and found.length == 16
    assert radix.computing(b"other", A) is None
    assert radix.computing(N, B) is None
    radix.commit(long, [*A, 1, 2])
    assert radix.computing(N, [*A, 9, 9]) is None
    assert radix.begin(N, [*A, 9, 9]).reused == 16
    radix.release(short)


def test_what_a_call_keeps_to_itself_is_not_waited_for() -> None:
    radix = index(16)
    radix.begin(N, A, reuse=False)
    assert radix.computing(N, A) is None


def test_a_call_that_goes_on_by_another_lease_is_one_call() -> None:
    radix = index(32)
    first = radix.begin(N, A, owner="a")
    radix.commit(first, A, step=None)
    policy = policy_of(radix)
    assert policy._seen[N, "a"].step is None
    again = radix.begin(N, [*A, 7, 8], owner="a")
    assert not policy._returns[Step.UNKNOWN]._returns
    radix.commit(again, [*A, 7, 8], step=Step.TOOL)
    assert policy._seen[N, "a"].step is Step.TOOL
    assert policy._superseded == 0


def test_who_says_nothing_of_itself_says_nothing_of_its_step() -> None:
    radix = index(32)
    call(radix, "", A, Step.REPLY)
    end = radix._trails.end((N, ""))
    assert end is None
    (root,) = radix._roots.values()
    assert {node.step for node in root.subtree()} == {Step.UNKNOWN}


def test_a_call_that_finds_no_room_supersedes_once() -> None:
    radix = index(8)
    call(radix, "a", A, Step.TOOL)
    held = radix.begin(N, range(900, 916))
    for _ in range(5):
        with pytest.raises(KVExhausted):
            radix.begin(N, [*A[:4], *range(800, 830)], owner="a")
    assert policy_of(radix)._superseded == 1
    radix.release(held)
    radix.check_integrity()

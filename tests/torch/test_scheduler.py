"""Who gets which rows of a step: fairness, single flight, preemption, and no block lost."""

from __future__ import annotations

import pytest
from agentbus_torch.choose import Chooser
from agentbus_torch.scheduler import (
    AHEAD_TOKENS,
    CHUNK_TOKENS,
    MAX_SEQUENCES,
    PATIENCE,
    Scheduler,
    Step,
    common_length,
)
from agentbus_torch.sequence import Call, Sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus import kv
from agentbus.errors import KVExhausted
from agentbus.kv import BlockPool, RadixIndex, WorkflowAware

SIZE = 4


class Engine:
    """Performs steps without a model: every sequence decodes ones."""

    def __init__(self, blocks: int = 4096) -> None:
        self.index = RadixIndex(BlockPool(blocks), SIZE)
        self.scheduler = Scheduler(self.index, SIZE)
        self.ended: list[Sequence] = []
        self._count = 0

    def add(self, prompt: tuple[int, ...], answer: int = 4, *, reuse: bool = True) -> Sequence:
        call = Call(prompt=prompt, max_tokens=answer, reuse=reuse)
        sequence = Sequence(call, self._count, list(prompt), Chooser())
        self._count += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Step:
        step = self.scheduler.plan()
        self.ended += step.failed
        for sequence, count in step.rows:
            assert sequence.lease is not None
            assert 0 < count <= sequence.left
            assert sequence.computed + count <= len(sequence.lease.blocks) * SIZE
            was_prompt = not sequence.decodes
            sequence.computed += count
            awaited = 0 < sequence.awaited <= sequence.computed
            if sequence.left:
                if awaited and self.scheduler.may_publish(sequence):
                    self.scheduler.publish(sequence)
                continue
            if len(sequence.generated) < sequence.call.answer_length:
                sequence.tokens.append(1)
            if len(sequence.generated) == sequence.call.answer_length:
                sequence.reason = "length"
                self.scheduler.release(sequence, keep=sequence.shares)
                self.ended.append(sequence)
            elif was_prompt and self.scheduler.may_publish(sequence):
                self.scheduler.publish(sequence)
        self.index.check_integrity()
        return step

    def run(self, limit: int = 10_000) -> None:
        while self.scheduler.waiting or self.scheduler.running:
            limit -= 1
            assert limit, "nobody makes progress"
            step = self.step()
            assert step.rows or step.failed
        assert self.index.stats().locked == 0


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple((seed * 1000 + n * (seed + 7)) % 30_011 for n in range(length))


class Sink:
    """Takes hidden states, and forgets them."""

    def take(self, start: int, hidden: object) -> None:
        pass


def rows(step: Step) -> dict[int, int]:
    return {sequence.number: count for sequence, count in step.rows}


def test_a_long_prompt_and_decoding_share_every_step() -> None:
    engine = Engine()
    engine.add(prompt(10, 1), 200)
    engine.step()
    engine.add(prompt(40 * CHUNK_TOKENS, 2), 2)
    for _ in range(40):
        assert rows(engine.step()) == {0: 1, 1: CHUNK_TOKENS}
    assert rows(engine.step()) == {0: 1, 1: 1}


@pytest.mark.parametrize(("length", "steps"), [(288, [288]), (289, [256, 33]), (544, [256, 288])])
def test_the_rest_of_a_prompt_goes_along(length: int, steps: list[int]) -> None:
    engine = Engine()
    engine.add(prompt(length, 1), 1)
    assert [rows(engine.step())[0] for _ in steps] == steps


def test_a_rest_that_goes_along_leaves_no_room_for_others() -> None:
    engine = Engine()
    engine.add(prompt(CHUNK_TOKENS + 32, 1), 1)
    engine.add(prompt(CHUNK_TOKENS + 64, 2), 1)
    assert rows(engine.step()) == {0: CHUNK_TOKENS + 32}


def test_prompts_nobody_waits_for_hold_up_those_that_decode_by_less() -> None:
    engine = Engine()
    engine.add(prompt(10, 0), 200)
    engine.step()
    engine.add(prompt(1000, 20), 0)
    assert rows(engine.step()) == {0: 1, 1: AHEAD_TOKENS}
    engine.add(prompt(100, 21), 2)
    assert rows(engine.step()) == {0: 1, 2: 100, 1: AHEAD_TOKENS}


def test_a_score_is_waited_for() -> None:
    engine = Engine()
    engine.add(prompt(600, 1), 0)
    call = Call(prompt=prompt(700, 2), max_tokens=0, rows=Sink())
    sequence = Sequence(call, 9, list(call.prompt), Chooser())
    engine.scheduler.add(sequence)
    assert rows(engine.step()) == {9: CHUNK_TOKENS}


def test_prompts_fill_a_step_together() -> None:
    engine = Engine()
    for number in range(4):
        engine.add(prompt(CHUNK_TOKENS // 4, number))
    assert set(rows(engine.step()).values()) == {CHUNK_TOKENS // 4}


def test_what_is_cached_goes_first() -> None:
    engine = Engine()
    engine.add(prompt(600, 1), 1)
    engine.run()
    engine.add(prompt(700, 2), 1)
    engine.add(prompt(600, 1) + prompt(100, 3), 1)
    step = engine.step()
    assert rows(step) == {2: 100, 1: CHUNK_TOKENS - 100}


def test_work_ahead_gives_way() -> None:
    engine = Engine()
    engine.add(prompt(600, 1), 0)
    engine.add(prompt(700, 2), 1)
    assert rows(engine.step()) == {1: CHUNK_TOKENS}


def test_short_prompts_overtake_a_long_one_but_not_for_ever() -> None:
    engine = Engine()
    long = engine.add(prompt(20 * CHUNK_TOKENS, 99), 1)
    served = []
    for number in range(3 * PATIENCE):
        engine.add(prompt(CHUNK_TOKENS, number), 1)
        served.append(long.number in rows(engine.step()))
    assert not served[0] and sum(served) >= 2
    engine.run()


def test_no_more_than_so_many_run() -> None:
    engine = Engine()
    for number in range(MAX_SEQUENCES + 8):
        engine.add(prompt(5, number), 10)
    while len(engine.scheduler.running) < MAX_SEQUENCES:
        engine.step()
    engine.step()
    assert len(engine.scheduler.running) == MAX_SEQUENCES
    engine.run()
    assert len(engine.ended) == MAX_SEQUENCES + 8


def test_a_new_prefix_is_computed_once() -> None:
    engine = Engine()
    shared = prompt(1500, 1)
    siblings = [engine.add(shared + prompt(20, 2 + n), 8) for n in range(8)]
    computed = 0
    while engine.scheduler.waiting or engine.scheduler.running:
        computed += sum(n for s, n in engine.step().rows if not s.generated)
    assert computed <= 1500 + 8 * (20 + SIZE)
    assert all(sibling.reason for sibling in siblings)


def test_siblings_start_when_the_shared_part_is_there() -> None:
    """The first one's own part is long: they do not wait for that."""
    engine = Engine()
    shared = prompt(CHUNK_TOKENS, 1)
    first = engine.add(shared + prompt(3000, 2), 1)
    engine.step()
    second = engine.add(shared + prompt(8, 3), 1)
    while not second.reason:
        engine.step()
    assert not first.reason and first.computed < 1500
    engine.run()


@pytest.mark.parametrize("computed", [0, CHUNK_TOKENS])
def test_when_the_first_is_cancelled_another_computes(computed: int) -> None:
    engine = Engine()
    first = engine.add(prompt(900, 1), 1)
    second = engine.add((*prompt(900, 1), 7), 1)
    third = engine.add((*prompt(900, 1), 8), 1)
    engine.step()
    assert second.lease is None and third.lease is None
    engine.scheduler.release(first, keep=computed > 0)
    step = engine.step()
    assert len(step.rows) == 1 and step.rows[0][0].computed == computed + CHUNK_TOKENS
    engine.run()


def test_without_reuse_nobody_waits_for_another() -> None:
    engine = Engine()
    engine.add(prompt(100, 1), reuse=False)
    engine.add(prompt(100, 1), reuse=False)
    assert rows(engine.step()) == {0: 100, 1: 100}


def test_the_latest_gives_way_when_blocks_run_out() -> None:
    engine = Engine(blocks=24)
    sequences = [engine.add(prompt(20, n), 40) for n in range(4)]
    first_to_end = []
    for _ in range(500):
        engine.step()
        first_to_end += [s.number for s in engine.ended if s.number not in first_to_end]
        if len(engine.ended) == 4:
            break
    assert engine.scheduler.preempted > 0
    assert first_to_end[0] == 0
    for sequence in sequences:
        assert sequence.reason == "length" and len(sequence.generated) == 40
        assert sequence.generated == [1] * 40
    assert engine.index.stats().locked == 0


def test_room_that_never_comes_is_an_error() -> None:
    engine = Engine(blocks=8)
    held = engine.index.begin(b"elsewhere", prompt(20, 1))
    sequence = engine.add(prompt(24, 2))
    step = engine.step()
    assert step.failed == [sequence] and isinstance(sequence.error, KVExhausted)
    engine.index.release(held)
    engine.add(prompt(24, 2))
    engine.run()


@pytest.mark.parametrize("length", range(25, 33))
def test_one_that_takes_the_whole_pool_ends(length: int) -> None:
    engine = Engine(blocks=8)
    for _ in range(2):
        sequence = engine.add(prompt(length - 6, 1), 6)
        engine.run()
        assert sequence.reason == "length"


CALLS = st.tuples(
    st.integers(0, 3), st.integers(1, 40), st.integers(0, 2), st.integers(0, 12), st.booleans()
)


@settings(deadline=None)
@given(st.lists(st.tuples(CALLS, st.integers(0, 4), st.booleans()), max_size=25))
def test_any_calls_all_end_and_leave_nothing(
    script: list[tuple[tuple[int, int, int, int, bool], int, bool]],
) -> None:
    """Calls with shared prefixes on a small pool, some cancelled, at any moment."""
    engine = Engine(blocks=16)
    cancelled = 0
    for (family, length, tail, answer, reuse), steps, cancel in script:
        sequence = engine.add((*prompt(length, family), tail), answer, reuse=reuse)
        for _ in range(steps):
            engine.step()
        if cancel and not sequence.ended:
            cancelled += 1
            engine.scheduler.release(sequence, keep=sequence.shares)
            engine.index.check_integrity()
    engine.run()
    assert len(engine.ended) + cancelled == len(script)
    for ended in engine.ended:
        assert ended.error is None and len(ended.generated) == ended.call.answer_length


@given(st.lists(st.integers(0, 2), max_size=600), st.integers(0, 600), st.integers(0, 600))
def test_common_length(items: list[int], cut: int, stop: int) -> None:
    other = [*items[:cut], 9, *items[cut:]][:stop]
    assert common_length(items, other) == min(cut, stop, len(items))


def test_an_owner_s_call_is_one_however_often_its_lease_ends() -> None:
    engine = Engine(blocks=24)
    policy = engine.index._policy
    assert isinstance(policy, WorkflowAware)
    for number in range(2):
        call = Call(prompt=prompt(20, number), max_tokens=40, owner=f"agent{number}")
        sequence = Sequence(call, number, list(call.prompt), Chooser(), step=kv.Step.TOOL)
        engine.scheduler.add(sequence)
    for _ in range(3):
        engine.step()
    assert [seen.step for seen in policy._seen.values()] == [None, None]
    engine.run()
    assert engine.scheduler.preempted
    steps = {owner: seen.step for (_, owner), seen in policy._seen.items()}
    assert steps == {"agent0": kv.Step.TOOL, "agent1": kv.Step.TOOL}
    assert not policy._returns[kv.Step.UNKNOWN]._returns

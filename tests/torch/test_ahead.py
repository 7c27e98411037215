"""Steps launched before the last one is read: the same answers, and nothing wrong is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from agentbus_torch import choose, sampling
from agentbus_torch.batch import Batch
from agentbus_torch.choose import Chooser, Picked, pick
from agentbus_torch.config import read_config
from agentbus_torch.device import Eager
from agentbus_torch.embed import MeanPool
from agentbus_torch.load import load_runner
from agentbus_torch.runner import Runner
from agentbus_torch.score import ContinuationScore
from agentbus_torch.sequence import Call, Sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.engine import Sampling
from agentbus.kv import PoolStats, Tier
from tests.torch.tiny import DEVICE, TinyModel, tiny_settings
from tests.torch.under_way import Unwaited, let_run_ahead

SIZE = 4
END = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel().write(tmp_path_factory.mktemp("tiny"))


def make(folder: Path, *, ahead: bool = False, kv_tokens: int = 4096, host: int = 0) -> Runner:
    chosen = tiny_settings(kv_tokens=kv_tokens, block_size=SIZE, kv_host_bytes=host)
    return let_run_ahead(load_runner(folder, read_config(folder), chosen, (END,)), ahead)


def text(seed: int, length: int) -> tuple[int, ...]:
    return tuple(3 + (seed * 31 + n * n * 7 + n * seed) % 250 for n in range(length))


def ask(
    prompt: tuple[int, ...],
    answer: int = 12,
    how: Sampling = Sampling(),  # noqa: B008 - it is frozen
    *,
    ends: frozenset[int] = frozenset({END}),
    forced: tuple[int, ...] = (),
    logprobs: int = 0,
    ignore_end: bool = False,
    reuse: bool = True,
) -> Call:
    chooser = Chooser(how, end_ids=ends, ignore_end=ignore_end, forced=forced, logprobs=logprobs)
    return Call(
        prompt=prompt,
        max_tokens=answer,
        forced=forced,
        reuse=reuse,
        namespace=b"t",
        chooser=chooser,
    )


@dataclass
class Played:
    """A runner, and what its reader saw."""

    runner: Runner
    stops: Mapping[int, int] = field(default_factory=dict)
    """The token at which the reader of the n-th call stops it."""
    sequences: list[Sequence] = field(default_factory=list)
    reported: dict[Sequence, list[object]] = field(default_factory=dict)
    logits: dict[Sequence, list[torch.Tensor]] = field(default_factory=dict)
    open: set[Sequence] = field(default_factory=set)

    def add(self, call: Call) -> Sequence:
        tiers, chain = self.runner.tiers, None
        if tiers is not None:
            tiers.prefilled(1, 1e9)  # fetching is worth it
            chain = tiers.chain("t")
            call = replace(call, namespace=chain.namespace)
        sequence = self.runner.add(call, chain)
        self.sequences.append(sequence)
        self.open.add(sequence)
        self.reported[sequence], self.logits[sequence] = [], []
        return sequence

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for sequence, chosen in self.runner.step():
                assert sequence in self.open
                if chosen is not None:
                    assert sequence.logits is not None
                    self.reported[sequence].append(chosen.reported)
                    self.logits[sequence].append(sequence.logits)
                    if self.stops.get(self.sequences.index(sequence)) == chosen.token:
                        sequence.reason = "stop"
                if sequence.ended:
                    self.finish(sequence)
            self.runner.check_integrity()

    def finish(self, sequence: Sequence) -> None:
        self.open.remove(sequence)
        self.runner.finish(sequence)
        self.runner.check_integrity()

    def run(self, limit: int = 5000) -> Played:
        while self.open:
            limit -= 1
            assert limit, "nobody makes progress"
            self.step()
        assert self.runner.stats().locked == 0
        return self

    def answers(self) -> list[tuple[list[int], str, bool]]:
        return [(list(s.generated), s.reason, s.error is None) for s in self.sequences]


def play(runner: Runner, calls: list[Call], stops: Mapping[int, int] | None = None) -> Played:
    played = Played(runner, stops or {})
    for call in calls:
        played.add(call)
    return played.run()


WARM = Sampling(temperature=0.9, seed=7)
CUT = Sampling(temperature=1.2, top_p=0.8, min_p=0.01, top_k=100, seed=8)
STERN = Sampling(temperature=0.8, seed=9, repetition_penalty=1.3)
CASES: dict[str, Callable[[], list[Call]]] = {
    "greedy": lambda: [ask(text(n, 9 + n), 20) for n in range(4)],
    "one": lambda: [ask(text(1, 9), 20)],
    "one_token": lambda: [ask(text(1, 9), 1), ask(text(2, 9), 2)],
    "seeded": lambda: [ask(text(n, 9 + n), 20, WARM) for n in range(4)],
    "cut": lambda: [ask(text(n, 9 + n), 20, CUT) for n in range(4)],
    "lengths": lambda: [ask(text(n, 9), 3 + 4 * n) for n in range(6)],
    "forced": lambda: [ask(text(1, 9), forced=text(3, 12)), ask(text(2, 9), 20, WARM)],
    "told": lambda: [ask(text(1, 9), logprobs=3), ask(text(2, 9), 20, CUT, logprobs=1)],
    "deaf": lambda: [
        ask(text(n, 9), 20, ignore_end=True, ends=frozenset(range(3, 120))) for n in range(3)
    ],
    "penalties": lambda: [ask(text(1, 9), 20, STERN), ask(text(2, 9), 20)],
    "siblings": lambda: [ask(text(1, 70) + text(n, 5 + n), 20) for n in range(5)],
    "alone": lambda: [ask(text(1, 70) + text(n, 5), 20, reuse=n > 1) for n in range(4)],
    "many": lambda: [ask(text(n, 3 + n % 7), 4 + n % 5) for n in range(45)],
}


@pytest.mark.parametrize("pool", [4096, 160], ids=["ample", "small"])
@pytest.mark.parametrize("case", CASES)
def test_answers_are_the_same(folder: Path, case: str, pool: int) -> None:
    plain = play(make(folder, kv_tokens=pool), CASES[case]())
    ahead = play(make(folder, ahead=True, kv_tokens=pool), CASES[case]())
    assert ahead.answers() == plain.answers()
    for one, other in zip(ahead.sequences, plain.sequences, strict=True):
        torch.testing.assert_close(
            torch.stack(ahead.logits[one]), torch.stack(plain.logits[other]), atol=3e-4, rtol=3e-4
        )
        assert len(ahead.reported[one]) == len(plain.reported[other]) == len(one.generated)
        for said, wanted in zip(ahead.reported[one], plain.reported[other], strict=True):
            assert (said is None) == (wanted is None)
            if said is not None and wanted is not None:
                assert cast(Any, said)[0] == pytest.approx(cast(Any, wanted)[0], abs=1e-3)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is launched and what is read, in this order, with positions."""
    noted: list[str] = []
    made: dict[Picked, str] = {}
    launch, read = Runner._launch, Picked.read

    def launched(self: Runner, rows: Any, before: Any = None) -> Any:
        name = "+".join(str(s.computed + (before is not None)) for s, _ in rows)
        noted.append(f"launch {name}")
        flight = launch(self, rows, before)
        made[flight.picked] = name
        return flight

    def was_read(self: Picked, rows: Any = None) -> Any:
        noted.append(f"read {made[self]}")
        return read(self, rows)

    monkeypatch.setattr(Runner, "_launch", launched)
    monkeypatch.setattr(Picked, "read", was_read)
    return noted


def test_a_step_is_launched_before_the_last_one_is_read(folder: Path, trace: list[str]) -> None:
    play(make(folder, ahead=True), [ask(text(1, 9), 5)])
    assert trace == [
        *("launch 0", "read 0"),
        *("launch 9", "launch 10", "read 9"),
        *("launch 11", "read 10"),
        *("launch 12", "read 11"),
        "read 12",  # the last one, by the answer's length: nothing is launched in vain
    ]


def test_where_nothing_runs_ahead_a_step_is_read_at_once(folder: Path, trace: list[str]) -> None:
    assert not Eager.runs_ahead
    play(make(folder), [ask(text(1, 9), 3)])
    assert trace == ["launch 0", "read 0", "launch 9", "read 9", "launch 10", "read 10"]


def test_those_that_end_are_left_out_and_the_others_go_on(folder: Path, trace: list[str]) -> None:
    play(make(folder, ahead=True), [ask(text(1, 9), 3), ask(text(2, 19), 6)])
    assert trace[2:] == [
        *("launch 9+19", "launch 10+20", "read 9+19"),
        *("launch 21", "read 10+20"),
        *("launch 22", "read 21"),
        *("launch 23", "read 22"),
        "read 23",
    ]


def test_an_end_token_makes_one_row_void(folder: Path, trace: list[str]) -> None:
    (plain,) = play(make(folder), [ask(text(1, 9), 8)]).sequences
    stop = plain.generated[3]
    assert stop not in plain.generated[:3]
    other = ask(text(2, 19), 8)
    del trace[:]
    ends = ask(text(1, 9), 8, ends=frozenset({stop}))
    played = play(make(folder, ahead=True), [ends, other])
    assert played.sequences[0].generated == plain.generated[:3]
    assert played.sequences[0].reason == "end"
    after = trace.index("read 11+21")
    # launched before it was read that the first has ended; the next one is without it
    assert trace[after - 1 : after + 3] == ["launch 12+22", "read 11+21", "launch 23", "read 12+22"]


def test_a_new_call_waits_for_what_is_under_way_only(folder: Path, trace: list[str]) -> None:
    played = Played(make(folder, ahead=True))
    played.add(ask(text(1, 9), 30))
    played.step(4)
    assert trace[-2:] == ["launch 12", "read 11"]
    played.add(ask(text(2, 9), 3))
    played.step()
    assert trace[-1] == "read 12"
    played.step()
    assert trace[-2:] == ["launch 13+0", "read 13+0"]
    played.run()


def test_more_than_may_run_keep_nobody_from_running_ahead(folder: Path, trace: list[str]) -> None:
    played = Played(make(folder, ahead=True))
    for number in range(40):
        played.add(ask(text(number, 5), 20, ignore_end=True))
    played.step(5)
    assert played.runner.waiting == 8
    assert trace[-2:] == ["launch " + "+".join(["9"] * 32), "read " + "+".join(["8"] * 32)]
    played.run()


def cached(runner: Runner, sequence: Sequence, *more: int) -> int:
    return runner._index.match_length(sequence.call.namespace, [*sequence.tokens, *more])


def check_what_is_reused(folder: Path, played: Played) -> None:
    """Go on behind each answer, by what is kept of it: scores are those of an empty runner."""
    again, fresh = Played(played.runner), Played(make(folder))
    for sequence in played.sequences:
        forced = text(77, 3)
        again.add(ask((*sequence.tokens, 5, 6), forced=forced))
        fresh.add(ask((*sequence.tokens, 5, 6), forced=forced, reuse=False))
    again.run()
    fresh.run()
    for one, other in zip(again.sequences, fresh.sequences, strict=True):
        found, wanted = torch.stack(again.logits[one]), torch.stack(fresh.logits[other])
        torch.testing.assert_close(found, wanted, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("length", range(5, 14))
def test_the_kv_of_a_token_that_was_dropped_is_not_kept(folder: Path, length: int) -> None:
    """The end token's KV is computed in vain; at each place within a block."""
    (sequence,) = play(make(folder), [ask(text(1, length), 8)]).sequences
    stop = sequence.generated[3]
    pools: list[PoolStats] = []
    for ahead in (False, True):
        used = make(folder, ahead=ahead, kv_tokens=64)
        played = play(used, [ask(text(1, length), 8, ends=frozenset({stop}))])
        (ended,) = played.sequences
        known = len(ended.tokens)
        assert ended.computed == known and cached(used, ended, stop, 5) == known
        pools.append(used.stats())
        check_what_is_reused(folder, played)
    assert pools[0] == pools[1]


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_blocks_and_slots_of_a_void_row_serve_others_at_once(folder: Path, how: str) -> None:
    """A pool of just two calls: who comes next gets what the void row still writes."""
    calls = [ask(text(n, 13), 20, ignore_end=True) for n in range(4)]
    plain = play(make(folder), [ask(c.prompt, 20, ignore_end=True, reuse=False) for c in calls])
    for steps in range(2, 12):
        played = Played(make(folder, ahead=True, kv_tokens=72))
        first = played.add(ask(calls[0].prompt, 20, ignore_end=True))
        second = played.add(ask(calls[1].prompt, 20, ignore_end=True))
        played.step(steps)
        if how == "stop":
            first.reason = "stop"
        played.finish(first)
        others = [played.add(ask(call.prompt, 20, ignore_end=True)) for call in calls[2:]]
        played.run()
        found = [list(one.generated) for one in (second, *others)]
        assert found == [list(one.generated) for one in plain.sequences[1:]]
        assert cached(played.runner, first, 5) <= len(first.tokens)
        check_what_is_reused(folder, played)


def test_a_step_under_way_of_nobody_is_forgotten(folder: Path, trace: list[str]) -> None:
    played = Played(make(folder, ahead=True))
    first = played.add(ask(text(1, 9), 30))
    played.step(3)
    played.finish(first)
    played.add(ask(text(2, 9), 2))
    played.step()
    assert trace[-2:] == ["launch 0", "read 0"]  # in the same step
    played.run()


def test_what_room_ahead_evicts_goes_down_before_it_is_overwritten(folder: Path) -> None:
    """A pool that one long answer fills: it takes the blocks of the prompt before it."""
    played = Played(make(folder, ahead=True, kv_tokens=64, host=1 << 20))
    played.add(ask(text(1, 40), 1))
    played.run()
    played.add(ask(text(2, 5), 50, ignore_end=True))
    played.run()
    assert played.runner.tiers is not None
    assert played.runner.tiers.stats().demoted >= 8
    played.add(ask((*text(1, 40), 4), 4))
    played.run()
    assert played.runner.tiers.stats().fetched[Tier.HOST] > 0
    (alone,) = play(make(folder), [ask((*text(1, 40), 4), 4)]).sequences
    assert played.sequences[-1].generated == alone.generated
    check_what_is_reused(folder, played)


@pytest.mark.parametrize("host", [0, 1 << 20], ids=["device", "tiers"])
def test_prompts_scores_and_vectors_in_between(folder: Path, host: int) -> None:
    def between(made: Runner) -> tuple[Played, list[Any]]:
        played = Played(made)
        played.add(ask(text(1, 60), 40))
        played.step(6)
        played.add(ask((*text(1, 60), 9, 8), 20, WARM))
        scored = ContinuationScore(60, text(5, 9), made.model.logits)
        prompt = text(1, 60) + text(5, 9)[:-1]
        played.step(3)
        played.add(Call(prompt=prompt, max_tokens=0, namespace=b"t", rows=scored, reuse_limit=59))
        played.step(2)
        pool = MeanPool(made.model.normed)
        played.add(Call(prompt=text(6, 30), max_tokens=0, reuse=False, rows=pool))
        played.add(Call(prompt=text(7, 30), max_tokens=0, namespace=b"t"))
        played.step(2)
        played.add(ask((*text(7, 30), 4), 20, CUT))
        played.run()
        return played, [*scored.logprobs, *pool.vector()]

    plain, wanted = between(make(folder, kv_tokens=240, host=host))
    ahead, found = between(make(folder, ahead=True, kv_tokens=240, host=host))
    assert ahead.answers() == plain.answers()
    assert found == pytest.approx(wanted, abs=1e-4)
    assert [s.reused for s in ahead.sequences] == [s.reused for s in plain.sequences]
    check_what_is_reused(folder, ahead)


def test_undecided_tokens_make_the_row_behind_void(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flat choice among more tokens than a first look has."""
    monkeypatch.setattr(sampling, "_FIRST_LOOK", 8)
    broad = Sampling(temperature=1.1, top_p=0.95, seed=3)

    def calls() -> list[Call]:
        return [ask(text(n, 9), 20, broad, logprobs=n) for n in range(3)] + [ask(text(9, 9), 20)]

    undecided: list[int] = []
    read = Picked.read

    def was_read(self: Picked, rows: Any = None) -> Any:
        chosen = read(self, rows)
        undecided.append(len(self.undecided))
        return chosen

    monkeypatch.setattr(Picked, "read", was_read)
    plain = play(make(folder), calls())
    ahead = Played(make(folder, ahead=True))
    for call in calls():
        ahead.add(call)
    ahead.step(12)
    lengths = [len(sequence.generated) for sequence in ahead.sequences]
    assert lengths[-1] <= 12 and min(lengths) >= 6  # nobody is left behind for long
    ahead.run()
    assert ahead.answers() == plain.answers()
    assert sum(undecided) > 20 and undecided.count(0) > 5
    assert [s.reused for s in ahead.sequences] == [s.reused for s in plain.sequences]
    check_what_is_reused(folder, ahead)


class Broken:
    """Breaks steps: `launch` when they are launched, `read` when they are read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.launch: Callable[[list[Sequence], bool], Exception | None] = lambda rows, ahead: None
        self.read: Callable[[list[Sequence]], Exception | None] = lambda rows: None
        self._rows: dict[Picked, list[Sequence]] = {}
        launch, read = Runner._launch, Picked.read

        def launched(made: Runner, rows: Any, before: Any = None) -> Any:
            sequences = [sequence for sequence, _ in rows]
            if error := self.launch(sequences, before is not None):
                raise error
            flight = launch(made, rows, before)
            self._rows[flight.picked] = sequences
            return flight

        def was_read(picked: Picked, rows: Any = None) -> Any:
            if error := self.read(self._rows[picked]):
                raise error
            return read(picked, rows)

        patch.setattr(Runner, "_launch", launched)
        patch.setattr(Picked, "read", was_read)


def three_under_way(folder: Path) -> Played:
    """Return a runner amid the answers of three calls."""
    played = Played(make(folder, ahead=True))
    for number in range(3):
        played.add(ask(text(number, 9), 20))
    played.step(5)
    return played


@pytest.mark.parametrize("when", ["launch", "read"])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), MemoryError()], ids=repr)
def test_what_breaks_one_sequence_spares_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: str, error: Exception
) -> None:
    plain = play(make(folder), [ask(text(n, 9), 20) for n in range(3)])
    broken, played = Broken(monkeypatch), three_under_way(folder)
    cursed = played.sequences[1]
    if when == "launch":
        broken.launch = lambda rows, ahead: error if cursed in rows else None
    else:
        broken.read = lambda rows: error if cursed in rows else None
    played.run()
    assert cursed.error is error and 4 <= len(cursed.generated) <= 6
    for number in (0, 2):
        assert played.answers()[number] == plain.answers()[number]
    check_what_is_reused(folder, played)


@pytest.mark.parametrize("when", ["launch", "read"])
def test_memory_that_runs_out_for_a_while_costs_time_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    plain = play(make(folder), [ask(text(n, 9), 20) for n in range(3)])
    broken, played = Broken(monkeypatch), three_under_way(folder)
    none_left = MemoryError()
    if when == "launch":
        broken.launch = lambda rows, ahead: none_left if len(rows) > 1 else None
    else:
        broken.read = lambda rows: none_left if len(rows) > 1 else None
    played.run()
    assert played.answers() == plain.answers()
    assert played.runner.preempted
    check_what_is_reused(folder, played)


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), MemoryError()], ids=repr)
def test_a_step_ahead_that_breaks_is_as_if_it_had_not_been(
    folder: Path, monkeypatch: pytest.MonkeyPatch, calls: int, error: Exception
) -> None:
    broken = Broken(monkeypatch)
    broken.launch = lambda rows, ahead: error if ahead else None
    plain = play(make(folder), [ask(text(n, 9), 20) for n in range(calls)])
    ahead = play(make(folder, ahead=True), [ask(text(n, 9), 20) for n in range(calls)])
    assert ahead.answers() == plain.answers()
    assert ahead.runner.preempted == 0


def test_scores_that_are_no_numbers_end_their_sequence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = play(make(folder), [ask(text(n, 9), 20) for n in range(3)])
    played = Played(make(folder, ahead=True))
    for number in range(3):
        played.add(ask(text(number, 9), 20))
    played.step(5)
    cursed, original = played.sequences[1], played.runner.steps.hidden

    def spoiled(batch: Batch) -> torch.Tensor:
        hidden = original(batch)
        for number, part in enumerate(batch.parts):
            if part.slot == cursed.slot:
                hidden[number] = math.nan
        return hidden

    monkeypatch.setattr(played.runner.steps, "hidden", spoiled)
    played.run()
    assert "not numbers" in str(cursed.error)
    assert len(cursed.generated) == 6  # the last of them was under way
    for number in (0, 2):
        assert played.answers()[number] == plain.answers()[number]
    monkeypatch.undo()
    check_what_is_reused(folder, played)


def test_a_void_row_that_is_no_number_is_nobody_s_fault(folder: Path) -> None:
    played = Played(make(folder, ahead=True))
    first, second = played.add(ask(text(1, 9), 20)), played.add(ask(text(2, 9), 20))
    played.step(4)
    flight = played.runner._flight
    assert flight is not None
    with torch.inference_mode():
        flight.picked._tokens[flight.asking.index(first)] = flight.logits.shape[1]
    played.finish(first)
    played.run()
    assert second.error is None and len(second.generated) == 20


STEPS = st.one_of(
    st.tuples(
        st.just("add"),
        st.integers(0, 3),
        st.integers(1, 30),
        st.integers(0, 2),
        st.integers(0, 12),
        st.sampled_from(["best", "warm", "cut", "stern", "forced", "deaf", "told", "alone"]),
    ),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
)


def _call(family: int, length: int, tail: int, answer: int, how: str) -> Call:
    prompt = (*text(family, length), 3 + tail)
    seeded = Sampling(temperature=1.0, seed=length)
    cut = Sampling(temperature=1.3, top_p=0.9, seed=length)
    ends = frozenset(range(3, 23))
    kinds: dict[str, Callable[[], Call]] = {
        "best": lambda: ask(prompt, answer, ends=ends),
        "warm": lambda: ask(prompt, answer, seeded, ends=ends),
        "cut": lambda: ask(prompt, answer, cut, ends=ends),
        "stern": lambda: ask(prompt, answer, STERN, ends=ends),
        "forced": lambda: ask(prompt, 0, forced=text(tail, answer)),
        "deaf": lambda: ask(prompt, answer, ends=ends, ignore_end=True),
        "told": lambda: ask(prompt, answer, seeded, ends=ends, logprobs=2),
        "alone": lambda: ask(prompt, answer, ends=ends, reuse=False),
    }
    return kinds[how]()


class Script:
    """Performs random steps; what is asked for is the same each time."""

    def __init__(self, played: Played) -> None:
        self._played = played
        self.cancelled: set[int] = set()

    def run(self, script: list[Any]) -> None:
        for name, *rest in script:
            getattr(self, name)(*rest)
        self._played.run()

    def add(self, family: int, length: int, tail: int, answer: int, how: str) -> None:
        self._played.add(_call(family, length, tail, answer, how))

    def step(self, times: int) -> None:
        self._played.step(times)

    def cancel(self, number: int) -> None:
        if number < len(self._played.sequences):
            self.cancelled.add(number)
            if (sequence := self._played.sequences[number]) in self._played.open:
                self._played.finish(sequence)


@pytest.mark.parametrize("host", [0, 1 << 16], ids=["device", "tiers"])
@settings(deadline=None, max_examples=60 if DEVICE.type == "cpu" else 6)  # graphs take time
@given(script=st.lists(STEPS, max_size=30), look=st.sampled_from([12, 256]))
def test_any_schedule_gives_the_same_answers(
    folder: Path, host: int, script: list[Any], look: int
) -> None:
    """Calls with shared prefixes on a small pool, some stopped or cancelled, at any moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_FIRST_LOOK", look)
        made = [make(folder, ahead=ahead, kv_tokens=72, host=host) for ahead in (False, True)]
        plain, ahead = (Played(one, stops={1: 40, 4: 50}) for one in made)
        for played in (plain, ahead):
            acting = Script(played)
            acting.run(script)
        for number, (one, other) in enumerate(zip(ahead.answers(), plain.answers(), strict=True)):
            length = min(len(one[0]), len(other[0]))
            assert one[0][:length] == other[0][:length]
            assert number in acting.cancelled or one == other
        check_what_is_reused(folder, ahead)


KINDS: dict[str, Callable[[], Chooser]] = {
    "best": lambda: Chooser(end_ids=frozenset({1})),
    "deaf": lambda: Chooser(end_ids=frozenset({1, 2}), ignore_end=True),
    "warm": lambda: Chooser(WARM),
    "cut": lambda: Chooser(CUT),
    "forced": lambda: Chooser(forced=(1, 2, 3)),
    "told": lambda: Chooser(WARM, logprobs=3),
}


@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in KINDS), list(KINDS), ["best", "best"]], ids="+".join
)
def test_picking_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, kinds: list[str]) -> None:
    downloads: list[tuple[torch.Tensor, ...]] = []

    def download(device: torch.device, *tensors: torch.Tensor) -> None:
        downloads.append(tensors)

    monkeypatch.setattr(choose, "Download", download)
    unwaited = Unwaited(monkeypatch, choose, sampling)
    scores = unwaited.take(len(kinds), 400)
    with unwaited, torch.inference_mode():
        picked = pick(scores, [KINDS[kind]() for kind in kinds], behind=1)
        assert picked.known.shape == (len(kinds),)
    assert len(downloads) == 1 and len(downloads[0]) == (4 if "told" in kinds else 1)
    assert unwaited.uploads == 0 or set(kinds) != {"best"}

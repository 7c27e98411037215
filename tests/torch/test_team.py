"""How many threads compute, beside others that need the same cores."""

from __future__ import annotations

import gc
import os
import time
import warnings
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from agentbus_torch.in_team import InTeam, process_team
from agentbus_torch.team import FIRST_PAUSE_S, LAST_PAUSE_S, Team

STEP_S = 0.02


@dataclass
class Machine:
    """Has so many cores, of which others take some; threads of a step spin for one another."""

    cores: float
    threads: int
    """Of each engine."""
    told: bool = False
    """Whether it says which cores are idle."""
    now: float = 1000.0
    cpu: float = 100.0
    others: float = 0.0
    team: Team = field(init=False)

    def __post_init__(self) -> None:
        self.team = Team(lambda: max(0.0, self.cores - self.others) if self.told else None)

    def run(self, seconds: float, others: float = 0.0, engines: int = 1) -> list[int]:
        """Compute for a while, all engines at once; return the threads of one of them, each number
        once in a row."""
        taken: list[int] = []
        self.others = others
        end = self.now + seconds
        while self.now < end:
            given = [
                self.team.begin(engine, self.threads, self.now, self.cpu)
                for engine in range(engines)
            ]
            if taken[-1:] != given[-1:]:
                taken.append(given[-1])
            self.now += STEP_S
            threads = sum(given)
            self.cpu += STEP_S * threads * min(1.0, self.cores / (threads + others))
            for engine in range(engines):
                self.team.end(engine, self.now, self.cpu)
        return taken


def machine(cores: float, threads: int, *, told: bool = False) -> Machine:
    return Machine(cores, threads, told)


def test_alone_all_threads_compute() -> None:
    assert machine(2, 2).run(60) == [2]
    assert machine(64, 64).run(60) == [64]
    assert machine(1, 1).run(60, others=5) == [1]


def test_beside_one_other_there_is_a_thread_less() -> None:
    assert machine(2, 2).run(FIRST_PAUSE_S / 2, others=1) == [2, 1]
    assert machine(8, 8).run(FIRST_PAUSE_S / 2, others=1) == [8, 7]


def test_a_share_of_a_large_machine_is_found_at_once() -> None:
    """As in a container that may use two of its host's cores."""
    found = machine(2, 64).run(FIRST_PAUSE_S / 2)
    assert found == [64, 2]


def test_when_the_others_leave_all_threads_compute_again() -> None:
    made = machine(8, 8)
    made.run(0.5, others=6)
    assert made.run(10)[-1] == 8


def test_threads_that_were_too_many_are_tried_less_and_less_often() -> None:
    made = machine(2, 2)
    tries = [made.run(LAST_PAUSE_S, others=1).count(2) for _ in range(8)]
    assert tries[0] > tries[-1] == 1
    assert made.run(LAST_PAUSE_S + 1) in ([1, 2], [2])
    made.run(0.1, others=1)
    assert made.run(FIRST_PAUSE_S + STEP_S)[-1] == 2  # they were not too many: no long pause


def test_who_comes_back_from_a_rest_begins_with_more() -> None:
    made = machine(2, 2)
    made.run(0.5, others=1)
    made.now += 60
    assert made.run(STEP_S) == [2]


def test_one_short_step_says_nothing() -> None:
    made = machine(2, 2)
    made.team.begin(0, 2, made.now, made.cpu)
    made.team.end(0, made.now + 0.004, made.cpu)
    made.now += 0.004
    assert made.run(1.0) == [2]


def test_where_idle_cores_are_told_no_thread_is_tried_in_vain() -> None:
    made = machine(2, 2, told=True)
    assert made.run(60, others=1) == [1]
    assert made.run(60, others=5) == [1]
    assert made.run(1) == [1, 2]
    assert made.run(60, others=1) == [2, 1]
    assert machine(8, 8, told=True).run(60, others=2.6) == [5]
    assert machine(64, 64, told=True).run(60) == [64]


def test_where_idle_cores_are_told_all_threads_are_back_soon() -> None:
    made = machine(8, 8, told=True)
    assert made.run(10, others=7) == [1]
    assert made.run(FIRST_PAUSE_S * 6)[-1] == 8


def test_engines_that_compute_at_once_share_the_threads() -> None:
    made = machine(2, 2)
    assert made.run(1) == [2]
    assert made.run(10, engines=2) == [1]
    made.now += 0.1  # from here on the other one rests
    assert made.run(1) == [2]
    assert machine(16, 16).run(10, engines=3)[-1] == 5


def test_more_engines_than_cores_have_a_thread_each_and_leave_all_to_the_last() -> None:
    made = machine(2, 2)
    assert made.run(10, engines=5) == [1]
    made.now += 0.1
    assert made.run(0.1) == [2]


def test_engines_that_share_the_threads_find_that_others_have_cores() -> None:
    made = machine(8, 8)
    assert made.run(FIRST_PAUSE_S / 2, others=4, engines=2)[-1] == 2
    assert made.run(10, engines=2)[-1] == 4


def test_an_engine_of_few_threads_leaves_the_rest_to_one_of_many() -> None:
    team = Team()
    assert team.begin("one", 1, 1000.0, 100.0) == 1
    assert team.begin("all", 8, 1000.0, 100.0) == 7
    assert team.begin("two", 2, 1000.0, 100.0) == 2
    team.end("all", 1000.01, 100.1)
    assert team.begin("all", 8, 1000.01, 100.1) == 5


def test_more_threads_than_those_that_compute_take_are_not_tried() -> None:
    made = machine(2, 64)
    assert made.run(FIRST_PAUSE_S / 2)[-1] == 2
    made.threads = 2
    made.now += 0.1
    assert made.run(60) == [2]
    assert made.run(60, engines=2) == [1]


def test_an_engine_that_takes_fewer_shrinks_nobody() -> None:
    made = machine(8, 2)
    assert made.run(1) == [2]
    made.threads = 8
    assert made.run(STEP_S) == [8]
    made.threads = 2
    assert made.run(STEP_S) == [2]
    made.threads = 8
    assert made.run(STEP_S) == [8]


def test_what_is_used_while_no_engine_computes_does_not_count() -> None:
    made = machine(2, 2)
    taken = []
    for _ in range(10):
        taken += made.run(STEP_S, others=1)
        made.now, made.cpu = made.now + 0.01, made.cpu + 0.04
    assert taken[0] == 2 and taken[-1] == 1


def test_that_a_core_is_missed_by_one_engine_takes_one_thread_from_all() -> None:
    made = machine(64, 64)
    assert made.run(1) == [64]
    made.team.begin("one", 1, made.now, made.cpu)
    made.now, made.cpu = made.now + 0.06, made.cpu + 0.02
    made.team.end("one", made.now, made.cpu)
    made.now += 0.1
    assert made.run(STEP_S) == [63]


def test_a_team_keeps_no_model_that_nobody_else_does() -> None:
    steps: Any = SimpleNamespace(attention=None, chunk_tokens=1, hidden=lambda batch: batch)
    team = Team()
    computes = InTeam(steps, team, 1)
    batch: Any = None
    computes.hidden(batch)
    kept = weakref.ref(computes)
    del computes
    gc.collect()
    assert kept() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_child_has_a_team_of_its_own() -> None:
    team = process_team()
    with warnings.catch_warnings(action="ignore"):  # of forks beside threads
        child = os.fork()
    if not child:
        os._exit(3 if process_team() is team else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert process_team() is team


def test_a_step_that_breaks_holds_no_threads() -> None:
    def breaks(batch: Any) -> Any:
        raise RuntimeError("broken")

    team = Team()
    steps: Any = SimpleNamespace(attention=None, chunk_tokens=1, hidden=breaks)
    batch: Any = None
    with pytest.raises(RuntimeError, match="broken"):
        InTeam(steps, team, 4).hidden(batch)
    later = time.perf_counter() + 1
    assert team.begin("another", 4, later, time.process_time()) == 4

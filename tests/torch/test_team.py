"""How many threads compute, beside others that need the same cores."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from agentbus_torch.team import FIRST_PAUSE_S, LAST_PAUSE_S, Team

STEP_S = 0.02


def none() -> None:
    """Nothing is told."""


@dataclass
class Machine:
    """Has so many cores, of which others take some; threads of a step spin for one another."""

    cores: float
    team: Team
    told: bool = False
    """Whether it says which cores are idle."""
    now: float = 1000.0
    taken: list[int] = field(default_factory=list)

    def run(self, seconds: float, others: float = 0.0) -> list[int]:
        """Compute for a while; return the numbers of threads, each once in a row."""
        self.taken = []
        end = self.now + seconds
        while self.now < end:
            left = max(0.0, self.cores - others)
            threads = self.team.threads(self.now, partial(float, left) if self.told else none)
            if self.taken[-1:] != [threads]:
                self.taken.append(threads)
            self.now += STEP_S
            share = min(1.0, self.cores / (threads + others))
            self.team.observe(self.now, STEP_S, STEP_S * threads * share)
        return self.taken


def machine(cores: float, threads: int, *, told: bool = False) -> Machine:
    return Machine(cores, Team(threads), told)


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
    made.team.observe(made.now, 0.004, 0.0)
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

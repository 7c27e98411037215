"""Idle cores, as the system tells them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from agentbus_torch import cores as module
from agentbus_torch.cores import Cores

COUNT = 4


class Machine:
    """Tells what its cores do; time is said, too."""

    def __init__(self, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = told
        self.now = self.used = 0.0
        self.busy = self.idle = 1000
        monkeypatch.setattr(os, "cpu_count", lambda: COUNT)
        clocks = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.used)
        monkeypatch.setattr(module, "time", clocks)
        self.run(0, others=0, own=0)

    def run(self, seconds: float, *, others: float, own: float) -> None:
        ticks = round(100 * seconds * COUNT)
        busy = round(100 * seconds * (others + own))
        self.now += seconds
        self.used += seconds * own
        self.busy += busy
        self.idle += ticks - busy
        self.told.write_text(f"cpu  {self.busy} 0 0 {self.idle} 0 0 0 0 7 7\ncpu0 1 2 3\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "stat", monkeypatch)


@pytest.mark.parametrize(("others", "own"), [(0, 0), (1, 0), (0, 3), (1, 2), (2.5, 1), (4, 0)])
def test_a_process_could_have_what_others_leave(
    machine: Machine, others: float, own: float
) -> None:
    cores = Cores(machine.told)
    machine.run(2, others=others, own=own)
    assert cores.available() == pytest.approx(COUNT - others, abs=0.05)


def test_too_short_a_time_says_nothing_new(machine: Machine) -> None:
    cores = Cores(machine.told)
    machine.run(0.01, others=4, own=0)
    assert cores.available() is None
    machine.run(0.5, others=1, own=0)
    before = cores.available()
    machine.run(0.05, others=4, own=0)
    assert cores.available() == before != 0
    machine.run(0.5, others=3, own=0)
    assert cores.available() == pytest.approx(COUNT - 3, abs=0.2)


def test_what_was_long_ago_says_nothing(machine: Machine) -> None:
    cores = Cores(machine.told)
    machine.run(60, others=0, own=0)
    assert cores.available() == COUNT, "there was no look before"
    machine.run(60, others=0, own=0)
    assert cores.available() == 0
    machine.run(0.25, others=3, own=0)
    assert cores.available() == pytest.approx(1)


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path) -> None:
    assert Cores(tmp_path / "none").available() is None
    (tmp_path / "odd").write_text("cpu one two\n")
    assert Cores(tmp_path / "odd").available() is None

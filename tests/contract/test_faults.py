"""What the bus promises, over all transports, while something goes wrong; see `perf.faults`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from agentbus.testing import Direction, Fault, FaultKind, Leftovers
from perf.faults.cases import REORDER, WAYS, Case, Happening, reordered, run_case
from perf.faults.killed import FREEZE, KILL, KILLED
from perf.faults.work import Outcome

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Links that end and handlers that fail are the point here."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


async def outcomes(happening: dict[Case, Happening]) -> dict[str, Outcome]:
    """Let cases happen at once; return what came of each."""
    found = await asyncio.gather(*(run_case(case, how) for case, how in happening.items()))
    return {f"{c.way} {c.kind} {c.early}": o for c, o in zip(happening, found, strict=True)}


def broken(found: dict[str, Outcome]) -> dict[str, list[str]]:
    """Return what broke a promise, by case."""
    lines = {name: [*o.violations, *o.untimely] for name, o in found.items()}
    return {name: line for name, line in lines.items() if line}


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.promise(
    "ends.reply-or-error",
    "ends.deadline",
    "ends.left-nothing",
    "order.lane",
    "order.stream",
    "once.delivery",
    "flow.slow",
)
async def test_promises_hold_whatever_happens_to_a_link(direction: Direction) -> None:
    """Each fault over each transport; an asker beside it notices nothing."""
    left = Leftovers()
    chosen: dict[Case, Happening] = {}
    for number, (way, kind) in enumerate((w, k) for w in WAYS for k in FaultKind):
        endless = kind is FaultKind.STALL and number % 2
        fault = Fault(kind, direction, 700 + 70 * number, 0.0 if endless else 0.1)
        early = way != "inproc" and kind in (FaultKind.CUT, FaultKind.CORRUPT)
        chosen[Case(way, kind, fault, number, early)] = WAYS[way]
    found = await outcomes(chosen)
    assert broken(found) == {}
    assert [name for name, o in found.items() if not o.happened] == []
    # Some requests failed of it; where bytes only come later, none.
    for way in WAYS:
        assert any(o.errors for name, o in found.items() if name.startswith(way))
    for way in ("unix", "tcp", "relayed"):
        assert found[f"{way} delay False"].errors == {}
    assert (left.tasks(), left.descriptors()) == ([], [])


@pytest.mark.parametrize("kind", [KILL, FREEZE])
@pytest.mark.promise("ends.peer-lost", "ends.deadline", "once.delivery")
async def test_promises_hold_when_a_process_is_killed_or_stopped(kind: str) -> None:
    fault = Fault(FaultKind.CUT, seconds=0.02)
    found = await outcomes({Case(way, kind, fault, 1): how for way, how in KILLED.items()})
    assert broken(found) == {}


@pytest.mark.promise("order.lane", "flow.slow")
async def test_promises_hold_when_one_link_overtakes_another() -> None:
    fault = Fault(FaultKind.DELAY)
    remote = [way for way in WAYS if way != "inproc"]
    found = await outcomes({Case(way, REORDER, fault, 1): reordered for way in remote})
    assert broken(found) == {}

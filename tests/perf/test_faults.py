"""The suite of faults: which there are, how they are counted, and that it sees broken promises."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, Call, handler
from agentbus.testing import Fault, FaultKind
from perf import __main__ as command
from perf.faults.cases import WAYS, Case, run_case
from perf.faults.suite import Tally, cases
from perf.faults.work import Clerk, Count, Item, Outcome, check_lane, work
from perf.report import VIOLATIONS, Row
from perf.suite import Progress, Suite


def test_a_thousand_faults_are_of_all_kinds_over_all_transports() -> None:
    chosen = list(cases(1000, 1))
    kinds = Counter((case.way, case.kind) for case in chosen)
    assert min(kinds[way, kind] for way in WAYS for kind in FaultKind) >= 40
    remote = {"unix", "tcp", "relayed"}
    assert min(kinds[way, kind] for way in remote for kind in ("kill", "freeze", "reorder")) >= 5
    assert sum(case.early for case in chosen) > 100
    assert chosen == list(cases(1000, 1)) != list(cases(1000, 2))


def test_counts_and_violations() -> None:
    tally = Tally()
    case = Case("unix", "cut", Fault(FaultKind.CUT), 1)
    tally.add(case, Outcome(True, 9, Counter(PeerLost=2), late_s=0.02))
    tally.add(
        case, Outcome(False, 11, violations=["the stream ended"], untimely=["late"], repeats=3)
    )
    rows = {(row.case, row.metric): row.value for row in tally.rows()}
    assert rows == {
        ("unix cut", "injected_faults"): 2,
        ("unix cut", "PeerLost_errors"): 2,
        ("unix cut", "replies"): 20,
        ("all", "injected_faults"): 2,
        ("all", "happened_faults"): 1,
        ("all", "repeated_faults"): 3,
        ("all", "requests"): 22,
        ("all", "latest_ms"): 20,
        ("all", "violations"): 2,
    }
    assert tally.violations[0].endswith(": the stream ended")


class Liar(Clerk):
    """You answer with something else, and lose a part of what you count."""

    @handler
    async def take(self, item: Item, call: Call) -> Item:
        return Item(item.label, item.number + 1, item.padding)

    @handler
    async def count(self, ask: Count, call: Call) -> AsyncIterator[int]:
        for number in range(ask.upto):
            if number != 3:
                yield number


@pytest.mark.anyio
async def test_wrong_answers_are_violations() -> None:
    outcome = Outcome()
    async with Bus.open() as bus:
        await bus.spawn(Liar(), name="liar")
        await work(bus, "liar", "asker", outcome)
    assert len(outcome.violations) == 9
    assert "request 0: item 0 was answered with item 1" in outcome.violations
    assert any(
        line.startswith("the stream: parts came as [0, 1, 2, 4") for line in outcome.violations
    )
    assert outcome.replies == 2  # the feed, and publishing


class _Untyped:
    """A bus whose requests end with errors of nobody's."""

    async def request(self, *arguments: object, **options: object) -> None:
        raise KeyError("lost")

    def stream(self, *arguments: object, **options: object) -> None:
        raise KeyError("lost")

    async def publish(self, topic: str, payload: object) -> None:
        pass


@pytest.mark.anyio
async def test_other_errors_are_violations() -> None:
    outcome = Outcome()
    await work(_Untyped(), "clerk", "asker", outcome)  # type: ignore[arg-type]
    assert outcome.violations == [f"request {n} ended with KeyError: 'lost'" for n in range(8)] + [
        "the stream ended with KeyError: 'lost'",
        "the feed ended with KeyError: 'lost'",
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(("busy", "wrong", "tries"), [(0, 0, 1), (1, 0, 3), (1, 1, 1)])
async def test_what_is_late_on_a_busy_machine_is_done_again(
    busy: int, wrong: int, tries: int
) -> None:
    done: list[Case] = []

    async def happening(case: Case, folder: Path, outcome: Outcome) -> None:
        done.append(case)
        if len(done) < 3:
            await anyio.lowlevel.checkpoint()
            time.sleep(0.3 * busy)  # noqa: ASYNC251 - as if others had the machine
            outcome.untimely.append("late")
            outcome.violations += ["wrong"] * wrong
        await anyio.sleep(0.05)

    outcome = await run_case(Case("unix", "cut", Fault(FaultKind.CUT), 1), happening)
    assert (len(done), outcome.repeats) == (tries, tries - 1)
    assert bool(outcome.untimely) == (tries == 1)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([1, 2, 2], "items came twice"), ([2, 1], "items came in another order"), ([1, 3], "")],
)
def test_lanes(numbers: list[int], said: str) -> None:
    outcome = Outcome()
    check_lane("items", numbers, outcome)
    assert [line.partition(":")[0] for line in outcome.violations] == ([said] if said else [])


def test_a_violation_is_the_runs_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(peers: object, *, quick: bool, progress: Progress) -> list[Row]:
        return [Row("toy", "all", "violations", float(quick), VIOLATIONS, None, None, None)]

    toy = Suite(name="toy", peers=(), method="none.", run=run)
    monkeypatch.setattr(command, "SUITES", {"toy": toy})
    assert command.main(["toy"]) == 0
    assert command.main(["toy", "--quick"]) == 1

"""When a process asks for another grant, and when it lets one go; the clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from agentbus.client.gate import MAX_DECISIONS
from agentbus.client.grants import Grants
from agentbus.client.peer import Peer
from agentbus.client.pool import WorkerPool, Workload

pytestmark = pytest.mark.promise("peer.grant")


class Timer:
    """One timer of a loop that does not run."""

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self.seconds = seconds
        self.fire = action
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Process:
    """Stands in for loop and pool."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self.jobs: list[Workload] = []

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        self.timers.append(Timer(seconds, action))
        return self.timers[-1]

    def run(self, job: Workload) -> None:
        self.jobs.append(job)

    @property
    def waiting(self) -> Timer:
        (timer,) = [timer for timer in self.timers if not timer.cancelled]
        return timer

    def fire(self) -> None:
        timer = self.waiting
        self.timers.remove(timer)
        timer.fire()


class Link:
    def __init__(self) -> None:
        self.last_id = 1
        self.granted: dict[tuple[str, str], None] | None = None


def made() -> tuple[Grants, Process, Any]:
    process = Process()
    loop, pool = cast(asyncio.AbstractEventLoop, process), cast(WorkerPool, process)
    return Grants(loop, pool), process, Link()


async def renew() -> None:
    raise AssertionError("nobody runs it here")


def shown(grants: Grants, link: Any, source: str = "writer", target: str = "reviewer") -> None:
    grants.shown((cast(Peer, link), source, target), 60.0, renew)


def test_a_grant_that_is_used_is_renewed_before_it_ends() -> None:
    grants, process, link = made()
    shown(grants, link)
    assert process.waiting.seconds == pytest.approx(36.0)
    link.last_id += 1
    process.fire()
    assert len(process.jobs) == 1
    assert grants.covers(link, "writer", "reviewer")  # meanwhile
    assert process.waiting.seconds == pytest.approx(18.0)
    shown(grants, link)  # as the renewal does
    assert process.waiting.seconds == pytest.approx(36.0)


def test_a_grant_that_is_not_used_ends() -> None:
    grants, process, link = made()
    shown(grants, link)
    process.fire()
    assert process.jobs == []
    assert grants.covers(link, "writer", "reviewer")
    process.fire()
    assert not grants.covers(link, "writer", "reviewer")
    assert not [timer for timer in process.timers if not timer.cancelled]


def test_a_grant_covers_its_edge_and_the_instances_of_its_agents() -> None:
    grants, _, link = made()
    assert grants.covers(link, "anyone", "anything")  # no grant is due on such a link
    shown(grants, link)
    assert grants.covers(link, "writer/a", "reviewer/b")
    assert not grants.covers(link, "", "reviewer")
    assert not grants.covers(link, "writer", "other")
    assert not grants.covers(link, "reviewer", "writer")
    for key in range(2 * MAX_DECISIONS):
        assert grants.covers(link, "writer", f"reviewer/{key}")
    assert len(link.granted) <= MAX_DECISIONS


def test_grants_end_with_their_link_and_with_the_policy() -> None:
    grants, process, link = made()
    other: Any = Link()
    shown(grants, link)
    shown(grants, other)
    grants.forget_peer(link)
    assert not grants.covers(link, "writer", "reviewer")
    assert grants.covers(other, "writer", "reviewer")
    grants.forget_all()
    assert other.granted is None  # the next request finds out whether one is due
    assert all(timer.cancelled for timer in process.timers)

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from agentbus.client.busy_poll import BusyPoll

WINDOW = 1e-4
LONG = 50 * WINDOW
"""Much less than the time between two comparisons, so that there are some requests for each."""


class Loop:
    """Runs what was called soon one turn at a time; each turn takes a tenth of a window."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ready: list[Callable[[], Any]] = []
        self.turned = 0

    def call_soon(self, action: Callable[[], Any]) -> None:
        self.ready.append(action)

    def run(self, seconds: float) -> None:
        """Turn while there is something to do, then sleep, until `seconds` have passed."""
        end = self.now + seconds
        while self.ready and self.now < end:
            ready, self.ready = self.ready, []
            for action in ready:
                action()
            self.now += WINDOW / 10
            self.turned += 1
        self.now = max(self.now, end)


class Traffic:
    """Requests whose answers take one time if the loop polls and another if it sleeps."""

    def __init__(self, window: float = WINDOW) -> None:
        self.loop = Loop()
        self.poll = BusyPoll(
            cast(asyncio.AbstractEventLoop, self.loop), window, lambda: self.loop.now
        )

    def polled(self, requests: int, *, polling: float, sleeping: float) -> float:
        """Return the share of requests during which the loop polled, after some to settle."""
        self._polled(400, polling, sleeping)
        return self._polled(requests, polling, sleeping)

    def _polled(self, requests: int, polling: float, sleeping: float) -> float:
        count = 0
        for _ in range(requests):
            self.poll.sent()
            polls = bool(self.loop.ready)
            count += polls
            self.loop.run(polling if polls else sleeping)
            self.poll.heard()
            self.loop.run(LONG)
        return count / requests


def test_stays_awake_for_one_window_after_a_message_and_no_longer() -> None:
    traffic = Traffic()
    traffic.poll.sent()
    traffic.loop.run(LONG)
    assert 10 <= traffic.loop.turned <= 12


def test_a_message_prolongs_the_window_and_never_polls_twice() -> None:
    traffic = Traffic()
    traffic.poll.sent()
    traffic.loop.run(WINDOW / 2)
    traffic.poll.sent()
    assert len(traffic.loop.ready) == 1
    traffic.loop.run(LONG)
    assert 14 <= traffic.loop.turned <= 18


@pytest.mark.parametrize(
    ("polling", "sleeping", "polls"),
    [
        (0.2 * WINDOW, 0.5 * WINDOW, True),
        (0.5 * WINDOW, 0.2 * WINDOW, False),
        (0.49 * WINDOW, 0.5 * WINDOW, False),  # not worth its CPU time
        (LONG / 2, LONG / 2, False),  # answers take long
    ],
)
def test_keeps_the_better_way(polling: float, sleeping: float, polls: bool) -> None:
    share = Traffic().polled(20_000, polling=polling, sleeping=sleeping)
    assert share > 0.9 if polls else share < 0.1


def test_finds_out_when_the_better_way_changes() -> None:
    traffic = Traffic()
    assert traffic.polled(2_000, polling=0.2 * WINDOW, sleeping=0.5 * WINDOW) > 0.9
    assert traffic.polled(2_000, polling=0.5 * WINDOW, sleeping=0.2 * WINDOW) < 0.1
    assert traffic.polled(2_000, polling=0.2 * WINDOW, sleeping=0.5 * WINDOW) > 0.9


def test_requests_on_their_way_at_once_do_not_mislead_it() -> None:
    traffic = Traffic()
    for _ in range(1_000):
        for _ in range(20):
            traffic.poll.sent()
        traffic.loop.run(0.5 * WINDOW)
        for _ in range(20):
            traffic.poll.heard()
    assert traffic.polled(1_000, polling=0.2 * WINDOW, sleeping=0.5 * WINDOW) > 0.9


def test_messages_that_nobody_answers_do_not_keep_it_awake() -> None:
    traffic = Traffic()
    for _ in range(20_000):
        traffic.poll.sent()
        traffic.loop.run(LONG)
    assert traffic.loop.turned < 20_000 * 11 * 0.1


def test_a_window_of_nothing_never_polls() -> None:
    traffic = Traffic(window=0)
    assert traffic.polled(1_000, polling=0.1 * WINDOW, sleeping=0.5 * WINDOW) == 0

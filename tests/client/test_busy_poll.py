from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from agentbus.client.busy_poll import BusyPoll

WINDOW = 1.0
LONG = 50 * WINDOW


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
        """Return the share of requests during which the loop polled."""
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
        (0.2, 0.5, True),
        (0.5, 0.2, False),
        (0.49, 0.5, False),  # not worth its CPU time
        (LONG / 2, LONG / 2, False),  # answers take long
    ],
)
def test_keeps_the_better_way(polling: float, sleeping: float, polls: bool) -> None:
    traffic = Traffic()
    traffic.polled(5_000, polling=polling, sleeping=sleeping)
    share = traffic.polled(20_000, polling=polling, sleeping=sleeping)
    assert share > 0.99 if polls else share < 0.01


def test_finds_out_when_the_better_way_changes() -> None:
    traffic = Traffic()
    traffic.polled(5_000, polling=0.2, sleeping=0.5)
    traffic.polled(20_000, polling=0.5, sleeping=0.2)
    assert traffic.polled(10_000, polling=0.5, sleeping=0.2) < 0.02
    traffic.polled(20_000, polling=0.2, sleeping=0.5)
    assert traffic.polled(10_000, polling=0.2, sleeping=0.5) > 0.98


def test_messages_that_nobody_answers_do_not_keep_it_awake() -> None:
    traffic = Traffic()
    for _ in range(20_000):
        traffic.poll.sent()
        traffic.loop.run(LONG)
    assert traffic.loop.turned < 20_000 * 11 * 0.02


def test_a_window_of_nothing_never_polls() -> None:
    traffic = Traffic(window=0)
    assert traffic.polled(1_000, polling=0.1, sleeping=0.5) == 0

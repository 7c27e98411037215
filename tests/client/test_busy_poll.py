from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from agentbus.client.busy_poll import BusyPoll

WINDOW = 1.0


class Loop:
    """Runs what was called soon one turn at a time; each turn takes a tenth of a window."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ready: list[Callable[[], Any]] = []

    def call_soon(self, action: Callable[[], Any]) -> None:
        self.ready.append(action)

    def turns(self, most: int = 1000) -> int:
        """Run until the loop would sleep; returns the number of turns."""
        count = 0
        while self.ready and count < most:
            ready, self.ready = self.ready, []
            for action in ready:
                action()
            self.now += WINDOW / 10
            count += 1
        return count


def polling(window: float = WINDOW) -> tuple[Loop, BusyPoll]:
    loop = Loop()
    return loop, BusyPoll(cast(asyncio.AbstractEventLoop, loop), window, lambda: loop.now)


def test_stays_awake_for_one_window_after_a_message_and_no_longer() -> None:
    loop, poll = polling()
    poll.sent()
    assert 10 <= loop.turns() <= 12


def test_a_message_prolongs_the_window_and_never_polls_twice() -> None:
    loop, poll = polling()
    poll.sent()
    loop.turns(5)
    poll.sent()
    assert len(loop.ready) == 1
    assert 10 <= loop.turns() <= 12


def test_rests_when_answers_do_not_come_in_time() -> None:
    loop, poll = polling()
    for _ in range(100):
        poll.sent()
        loop.turns()
        loop.now += 50 * WINDOW
        poll.heard()
    poll.sent()
    assert loop.turns() == 0


def test_goes_on_while_answers_come_in_time() -> None:
    loop, poll = polling()
    for _ in range(100):
        poll.sent()
        assert loop.turns(5) == 5
        poll.heard()


def test_begins_again_once_answers_come_quickly() -> None:
    loop, poll = polling()
    for _ in range(20):
        poll.sent()
        loop.turns()
    poll.sent()
    assert loop.turns() == 0
    loop.now += 1.5 * WINDOW  # waking up took its time
    poll.heard()
    poll.sent()
    assert loop.turns() > 0


def test_a_window_of_nothing_never_polls() -> None:
    loop, poll = polling(0)
    poll.sent()
    poll.heard()
    poll.sent()
    assert loop.turns() == 0

"""The thread that computes: how what it yields gets to its readers' event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from agentbus_torch.driver import Driver, Job, Outbox
from agentbus_torch.sequence import Call
from anyio.lowlevel import checkpoint

from agentbus.engine import GenerateRequest, Piece

pytestmark = pytest.mark.anyio


class Speaks:
    """A worker whose jobs get a piece at each of some steps, all together."""

    running = 0

    def __init__(self, expected: int, steps: int) -> None:
        self._expected = expected
        self._jobs: list[Job] = []
        self._pieces = [Piece(f"{n}", (n,)) for n in range(steps)]

    def prepare(self) -> None:
        pass

    def begin(self, job: Job) -> bool:
        self._jobs.append(job)
        return True

    def step(self) -> list[Job]:
        if len(self._jobs) < self._expected:
            return []
        piece = self._pieces.pop(0)
        for job in self._jobs:
            job.post(piece)
        return [] if self._pieces else self._jobs

    def end(self, job: Job) -> None:
        job.post(Piece("end", ()))

    def cancel(self, job: Job) -> None:
        pass

    def rest(self) -> None:
        pass


def _call() -> Call:
    return Call(prompt=(1,), max_tokens=1)


async def _texts(job: Job) -> list[str]:
    texts: list[str] = []
    while "end" not in texts:
        result = await job.next()
        assert isinstance(result, Piece)
        texts.append(result.text)
    return texts


async def test_a_loop_is_woken_once_for_all_answers_of_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, woken = asyncio.get_running_loop(), 0
    original = loop.call_soon_threadsafe

    def count(*args: Any, **options: Any) -> asyncio.Handle:
        nonlocal woken
        woken += threading.current_thread().name == "agentbus-torch"
        return original(*args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    readers, steps = 8, 5
    driver = Driver(Speaks(readers, steps), name="tiny", limit=readers)
    jobs = [driver.submit(GenerateRequest(prompt=(1,)), _call) for _ in range(readers)]
    with anyio.fail_after(10):
        found = [await _texts(job) for job in jobs]
        for job in jobs:
            await job.ended()
        await driver.aclose()
    assert found == [[*(str(n) for n in range(steps)), "end"]] * readers
    assert woken == steps + 1  # and once for how all of them ended


async def test_a_loop_that_is_gone_keeps_nothing_from_the_others() -> None:
    outbox, gone = Outbox(), asyncio.new_event_loop()
    gone.close()
    arrived: list[int] = []
    outbox.add(gone, lambda: arrived.append(0))
    for number in (1, 2):
        outbox.add(asyncio.get_running_loop(), _append(arrived, number))
    outbox.flush()
    outbox.flush()
    await checkpoint()
    assert arrived == [1, 2]


def _append(to: list[int], number: int) -> Callable[[], None]:
    return lambda: to.append(number)


async def test_a_worker_rests_once_after_each_time_that_it_had_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentbus_torch.driver._REST_S", 0.001)
    rested: list[str] = []
    worker = Speaks(expected=1, steps=1)
    monkeypatch.setattr(worker, "rest", lambda: rested.append(threading.current_thread().name))
    driver = Driver(worker, name="model", limit=9)
    for n in (1, 2):
        with anyio.fail_after(5):
            while len(rested) < n:
                await checkpoint()
            await anyio.sleep(0.02)
        assert rested == ["agentbus-torch"] * n
        worker._jobs, worker._pieces = [], [Piece("", ())]
        await _texts(driver.submit(GenerateRequest(prompt=(1,)), _call))
    await driver.aclose()

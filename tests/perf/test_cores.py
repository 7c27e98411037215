from __future__ import annotations

import asyncio
import time

import pytest

from perf import cores
from perf.cores import machine_idle

pytestmark = pytest.mark.anyio


async def test_a_turn_waits_until_others_have_stopped_computing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = [0.0, 0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.401, 0.401]
    seen = iter(used)
    monkeypatch.setattr(cores, "_busy_seconds", lambda: next(seen))
    monkeypatch.setattr(cores, "_LOOK_S", 0.001)
    monkeypatch.setattr(cores, "_BUSY_SHARE", 10.0)
    monkeypatch.setattr(cores, "_IDLE_LOOKS", 2)
    await machine_idle()
    assert list(seen) == used[-1:], "it did not wait for two looks in a row at an idle machine"


async def test_a_machine_that_is_never_idle_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "_busy_seconds", time.perf_counter)
    monkeypatch.setattr(cores, "_LOOK_S", 0.01)
    monkeypatch.setattr(cores, "_LONGEST_WAIT_S", 0.1)
    async with asyncio.timeout(10):
        await machine_idle()

"""Threads of OpenMP are let go while nothing is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from agentbus_torch import openmp

TASKS = Path("/proc/self/task")


def count() -> int:
    return len(list(TASKS.iterdir()))


@pytest.mark.skipif(not TASKS.exists(), reason="this system does not tell of threads")
def test_threads_that_are_let_go_end_and_come_again() -> None:
    if openmp._pause() is None:
        pytest.skip("torch brought no OpenMP of its own")
    with ThreadPoolExecutor(1) as own:

        def add() -> int:
            torch.set_num_threads(3)
            assert float(torch.ones(1 << 20).add_(1).sum()) == 2 << 20
            return count()

        for _ in range(2):
            with_threads = own.submit(add).result()
            own.submit(openmp.let_threads_go).result()
            assert count() == with_threads - 2


def test_without_an_openmp_of_torch_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libgomp.so.1").write_text("no library")
    openmp._pause.cache_clear()
    openmp.let_threads_go()
    openmp._pause.cache_clear()

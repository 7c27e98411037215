"""Steps of a CPU, and whose threads compute them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .batch import Batch
from .cores import Cores
from .device import Scores, Steps
from .team import Team

__all__ = ["InTeam", "process_team"]

_Computed = TypeVar("_Computed")


class InTeam:
    """Steps of a CPU, computed by as many threads as others leave cores for: other processes, and
    other engines of this one."""

    runs_ahead = False

    def __init__(self, steps: Steps, team: Team, most: int) -> None:
        """Compute them by at most so many threads of a team."""
        self._steps = steps
        self._team = team
        self._most = most
        # What the team knows this engine by: it may keep it for longer than the model is there.
        self._engine = object()
        self.attention = steps.attention
        self.chunk_tokens = steps.chunk_tokens

    def hidden(self, batch: Batch) -> Tensor:
        """See `Steps.hidden`."""
        return self._observed(self._steps.hidden, batch)

    def scores(self, batch: Batch) -> Scores:
        """See `Steps.scores`."""
        return self._observed(self._steps.scores, batch)

    def _observed(self, compute: Callable[[Batch], _Computed], batch: Batch) -> _Computed:
        """Only this is looked at: all threads compute here, and one alone does what else a step
        does."""
        threads = self._team.begin(
            self._engine, self._most, time.perf_counter(), time.process_time()
        )
        try:
            if threads != torch.get_num_threads():
                torch.set_num_threads(threads)
            return compute(batch)
        finally:
            self._team.end(self._engine, time.perf_counter(), time.process_time())


@functools.cache
def process_team() -> Team:
    """Return the team of this process, which looks from now on at what others do."""
    return Team(Cores().available)


if hasattr(os, "register_at_fork"):  # in a child no engine of its parent computes
    os.register_at_fork(after_in_child=process_team.cache_clear)

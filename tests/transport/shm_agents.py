"""Agents with large payloads, for processes of their own and for buses in one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentbus import Agent, Call, handler


@dataclass
class Arrays:
    arrays: list[np.ndarray[Any, Any]]
    """To be held for ever if the list is not empty; else what is held is let go of."""


@dataclass
class Make:
    size: int


class Bulk(Agent):
    """You handle arrays."""

    def __init__(self) -> None:
        self.held: list[np.ndarray[Any, Any]] = []

    @handler
    async def sum(self, array: np.ndarray[Any, Any], call: Call) -> float:
        if call.context is not None:
            call.context = call.context.message(self.name, f"{array.size} summed")
        return float(array.sum())

    @handler
    async def hold(self, what: Arrays, call: Call) -> int:
        self.held = what.arrays
        return sum(map(len, self.held))

    @handler
    async def make(self, what: Make, call: Call) -> np.ndarray[Any, Any]:
        return np.arange(what.size, dtype=np.float64)

    @handler
    async def stream(self, count: int, call: Call) -> AsyncIterator[np.ndarray[Any, Any]]:
        array = np.zeros(100_000)
        for _ in range(count):
            array += 1  # in place: what was yielded before must not change
            yield array

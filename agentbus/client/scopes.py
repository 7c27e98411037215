"""Askers whose requests have something in common: a budget, a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..telemetry import Budget, Ledger, TraceIds
from ..telemetry.trace import TRACE_ID
from .origin import Origin
from .requester import Requester

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Limited", "Traced"]


class Limited(Requester):
    """An asker whose requests share a budget. Made by `Requester.within`."""

    __slots__ = ("_asker", "_ledger")

    def __init__(self, asker: Requester, ledger: Ledger) -> None:
        self._asker = asker
        self._ledger = ledger

    @property
    def budget(self) -> Budget | None:
        """What is left."""
        return Budget.of(self._ledger.left)

    def within(self, budget: Budget) -> Requester:
        """Return an asker whose requests together stay within a budget that is part of this one."""
        return Limited(self._asker, Ledger.of(budget, self._ledger))

    @property
    def _sender(self) -> Node:
        return self._asker._sender

    @property
    def _name_as_source(self) -> str:
        return self._asker._name_as_source

    @property
    def _process(self) -> str:
        return self._asker._process

    def _origin(self, deadline: float | None) -> Origin:
        return self._asker._origin(deadline)

    def _lending(self, deadline: float | None, budget: Budget | None) -> Origin:
        return self._origin(deadline).lent(self._ledger.lend(budget))


class Traced(Requester):
    """An asker whose requests belong to a trace from elsewhere. Made by `Bus.traced`."""

    __slots__ = ("_asker", "_ids", "_trace")

    def __init__(self, asker: Requester, ids: TraceIds, trace: bytes) -> None:
        self._asker = asker
        self._ids = ids
        self._trace = trace

    @property
    def budget(self) -> Budget | None:
        """What is left to the asker."""
        return self._asker.budget

    def within(self, budget: Budget) -> Requester:
        """Return an asker whose requests together stay within a budget, and in this trace."""
        return Limited(self, Ledger.of(budget))

    @property
    def _sender(self) -> Node:
        return self._asker._sender

    @property
    def _name_as_source(self) -> str:
        return self._asker._name_as_source

    @property
    def _process(self) -> str:
        return self._asker._process

    def _origin(self, deadline: float | None) -> Origin:
        return self._in_trace(self._asker._origin(deadline))

    def _lending(self, deadline: float | None, budget: Budget | None) -> Origin:
        return self._in_trace(self._asker._lending(deadline, budget))

    def _in_trace(self, origin: Origin) -> Origin:
        origin.trace = self._ids.caused(self._trace)
        origin.parent = self._trace[TRACE_ID:]
        return origin

"""Accounts of what hops cost, and what a process counts. Pure values and counters."""

from .account import NO_COST, HopAccount, ModelCost
from .metrics import (
    TIMES,
    AgentMetrics,
    AgentReport,
    BusReport,
    Distribution,
    Histogram,
    LinkReport,
    Metrics,
    TimeLog,
    upper_bound,
)

__all__ = [
    "NO_COST",
    "TIMES",
    "AgentMetrics",
    "AgentReport",
    "BusReport",
    "Distribution",
    "Histogram",
    "HopAccount",
    "LinkReport",
    "Metrics",
    "ModelCost",
    "TimeLog",
    "upper_bound",
]

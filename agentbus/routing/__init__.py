"""Routing tables and the words processes and broker use about them: pure, no I/O."""

from .control import (
    BROKER,
    BUS,
    MODEL,
    PROCESS,
    AgentList,
    ListAgents,
    ListProcesses,
    Locate,
    Location,
    Register,
    Unregister,
)
from .table import SubscriptionTable

__all__ = [
    "BROKER",
    "BUS",
    "MODEL",
    "PROCESS",
    "AgentList",
    "ListAgents",
    "ListProcesses",
    "Locate",
    "Location",
    "Register",
    "SubscriptionTable",
    "Unregister",
]

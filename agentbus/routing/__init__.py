"""Routing tables and the words processes and broker use about them: pure, no I/O."""

from .control import (
    BROKER,
    BUS,
    MODEL,
    PRESENCE,
    PROCESS,
    AgentList,
    ListAgents,
    ListProcesses,
    Locate,
    Location,
    Presence,
    Register,
    Unregister,
)
from .table import SubscriptionTable

__all__ = [
    "BROKER",
    "BUS",
    "MODEL",
    "PRESENCE",
    "PROCESS",
    "AgentList",
    "ListAgents",
    "ListProcesses",
    "Locate",
    "Location",
    "Presence",
    "Register",
    "SubscriptionTable",
    "Unregister",
]

"""agentbus: the communication layer for systems of foundation-model agents.

Write agents as classes, spawn them on a `Bus`, and ask them by name: in one process, across
processes, with contexts that travel by reference and models that prefill only what is new.
"""

from .client import (
    Agent,
    Answer,
    Bus,
    Call,
    Published,
    Reply,
    ReplyStream,
    Subscription,
    agent_of,
    handler,
    load_keys,
)
from .config import BusSettings, EngineSettings, FilterRule, Keys, Limits, Prices, TelemetrySettings
from .context import Context
from .routing import PRESENCE, Presence
from .telemetry import Budget, HopAccount, ModelCost

__all__ = [
    "PRESENCE",
    "Agent",
    "Answer",
    "Budget",
    "Bus",
    "BusSettings",
    "Call",
    "Context",
    "EngineSettings",
    "FilterRule",
    "HopAccount",
    "Keys",
    "Limits",
    "ModelCost",
    "Presence",
    "Prices",
    "Published",
    "Reply",
    "ReplyStream",
    "Subscription",
    "TelemetrySettings",
    "agent_of",
    "handler",
    "load_keys",
]

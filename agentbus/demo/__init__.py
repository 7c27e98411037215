"""The demo: a team answers a question over agentbus, then the ordinary ways, side by side."""

from __future__ import annotations

from .account import Account, HopAccount, LogEntry, UnequalWork
from .compare import check_comparable, compare
from .events import Event, HopEnded, HopResult, HopStarted, HopText, Leg, Progress
from .live import AgentbusWay, Stage, engine_settings, hold, stage
from .page import write_page
from .roles import (
    DEFAULT_QUESTION,
    ROLES,
    ROUNDS,
    WORKERS,
    Role,
    Step,
    load_default_document,
    load_document,
    steps,
)
from .script import Conversation, Hop, Said
from .table import MEANINGS, Comparison, WayReport, sentences, side_by_side, to_json
from .view import LiveView, replay_view, show_comparison
from .ways import Way

__all__ = [
    "DEFAULT_QUESTION",
    "MEANINGS",
    "ROLES",
    "ROUNDS",
    "WORKERS",
    "Account",
    "AgentbusWay",
    "Comparison",
    "Conversation",
    "Event",
    "Hop",
    "HopAccount",
    "HopEnded",
    "HopResult",
    "HopStarted",
    "HopText",
    "Leg",
    "LiveView",
    "LogEntry",
    "Progress",
    "Role",
    "Said",
    "Stage",
    "Step",
    "UnequalWork",
    "Way",
    "WayReport",
    "check_comparable",
    "compare",
    "engine_settings",
    "hold",
    "load_default_document",
    "load_document",
    "replay_view",
    "sentences",
    "show_comparison",
    "side_by_side",
    "stage",
    "steps",
    "to_json",
    "write_page",
]

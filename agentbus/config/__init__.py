"""Frozen settings, made at the edge and handed down. Nothing here reads files or environment."""

from __future__ import annotations

from .access import AclSettings, Keys, Operation, RuleSettings, TokenSettings
from .bus import BusSettings, LayoutSetting, Limits, TelemetrySettings
from .daemon import DaemonSettings, LogSettings
from .engine import EngineSettings, Prices
from .filter_rule import FilteredKind, FilterName, FilterRule

__all__ = [
    "AclSettings",
    "BusSettings",
    "DaemonSettings",
    "EngineSettings",
    "FilterName",
    "FilterRule",
    "FilteredKind",
    "Keys",
    "LayoutSetting",
    "Limits",
    "LogSettings",
    "Operation",
    "Prices",
    "RuleSettings",
    "TelemetrySettings",
    "TokenSettings",
]

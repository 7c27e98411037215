"""The root of the tree of errors."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["AgentbusError"]


class AgentbusError(Exception):
    """Base of all errors of agentbus."""

    code: ClassVar[str] = "error"

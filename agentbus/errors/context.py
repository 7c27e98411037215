"""Contexts that cannot be resolved or rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = [
    "ContextError",
    "ForgottenContext",
    "LayoutError",
    "ToolSchemaError",
    "TranscriptError",
    "UnknownContext",
]


class ContextError(AgentbusError):
    """A context cannot be resolved or rendered."""


@dataclass(eq=False)
class UnknownContext(ContextError):
    """A context was referred to that neither side of the link holds."""

    code: ClassVar[str] = "unknown_context"
    root: str

    def __str__(self) -> str:
        return f"nobody here holds the context {self.root[:16]}; retain what is to be fetched"


@dataclass(eq=False)
class ForgottenContext(UnknownContext):
    """A context was referred to that was held here, and has been forgotten."""

    code: ClassVar[str] = "forgotten_context"

    def __str__(self) -> str:
        return f"the context {self.root[:16]} was forgotten here; retain what is to stay"


@dataclass(eq=False)
class LayoutError(ContextError):
    """A context cannot be laid out as the prompt that was asked for."""

    code: ClassVar[str] = "layout"
    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False)
class ToolSchemaError(ContextError):
    """A tool's schema is not one that a model can be given."""

    code: ClassVar[str] = "tool_schema"
    tool: str
    """The tool's name, or its place in the list; empty where there is no list."""
    problem: str

    def __str__(self) -> str:
        return f"tool {self.tool}: {self.problem}" if self.tool else f"tools: {self.problem}"


@dataclass(eq=False)
class TranscriptError(ContextError):
    """A transcript is not one of chat completions."""

    code: ClassVar[str] = "transcript"
    place: str
    """Such as `messages[3].tool_calls[0].id`."""
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"

"""The kinds of segments that a context is made of."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SegmentKind"]


class SegmentKind(StrEnum):
    """What a segment is in the conversation. Layouts place each kind."""

    ROLE = "role"
    """An agent's standing instructions; `author` is the agent they are for."""
    DOCUMENT = "document"
    """Material that all may read."""
    USER = "user"
    """Said by the user, or by a program on the user's behalf."""
    ASK = "ask"
    """What the next speaker is asked to do."""
    MESSAGE = "message"
    """Said by the agent named in `author`."""
    SUMMARY = "summary"
    """Stands for a stretch of what was said; `refers` is the root of the context summed up."""
    TOOLS = "tools"
    """Tool schemas, as a canonical JSON list; `author` is the agent that may call them, or empty
    if all may."""
    TOOL_CALL = "tool_call"
    """What the agent named in `author` asked of a tool."""
    TOOL_RESULT = "tool_result"
    """What the tool named in `author` gave back."""
    PRIVATE_ROLE = "private_role"
    """As a role, but no layout shows it to another agent's model than that of `author`. The text
    travels with the context: append it to what only that agent gets."""
    NOTE = "note"
    """Kept with the context for programs; no layout shows it to a model."""

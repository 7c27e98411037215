"""Steps of a workflow, as far as they tell when a prompt's KV is needed again."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Owner", "Step"]

Owner = tuple[bytes, str]
"""A namespace, and in it the name of who makes calls one after the other: an agent's line of work.
Its next call is taken to replace its last one."""


class Step(StrEnum):
    """How a call left its owner, which is what its next call depends on."""

    UNKNOWN = "unknown"
    TOOL = "tool"
    """The answer called a tool: the owner goes on as soon as the result is there."""
    REPLY = "reply"
    """The owner's turn is over: somebody else, a user perhaps, has to speak first."""
    FIRST_REPLY = "first_reply"
    """The same of an owner that has never come back from a reply. It may have done its work, as a
    sub-agent that has reported. A policy finds that out; nobody needs to say it."""
    AHEAD = "ahead"
    """Nothing was answered: the prompt was computed ahead of the owner's call, which is to come."""

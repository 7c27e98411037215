"""What is known of one handler of an agent class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .payload import PayloadType

__all__ = ["HandlerSpec"]


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler of an agent class."""

    method: str
    function: Callable[..., Any]
    """The method as the class has it: takes the agent, the message and the call."""
    accepts: PayloadType
    returns: tuple[PayloadType, ...]
    """Types of the reply, or of the streamed parts; empty where they are not annotated."""
    streams: bool

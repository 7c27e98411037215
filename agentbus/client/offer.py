"""A request that goes to another agent than the one that it was made to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..context import Context
from ..errors import AgentbusError
from ..messages import Envelope, Kind
from ..wire import Frames, failure_envelope
from .origin import Origin
from .payload import payload_type

__all__ = ["Offer", "refusal"]


@dataclass(frozen=True, slots=True)
class Offer:
    """What an agent is to answer."""

    target: str
    payload: Any
    """The object; its frames, if it comes from another process."""
    schema: str
    context: Context | None
    origin: Origin
    peer: str = ""
    """The process that it comes from; empty if it is this one."""

    @property
    def frames(self) -> Frames:
        """The payload as it goes over a link.

        Raises:
            InvalidMessage: it cannot be written.
        """
        if self.peer:
            frames: Frames = self.payload
            return frames
        return payload_type(type(self.payload)).encode(self.payload)


def refusal(number: int, error: AgentbusError) -> Envelope:
    """Return the answer that the new agent of a handed-over request has not accepted it."""
    failure = failure_envelope(number, error)
    return Envelope(Kind.HANDOFF, number, schema=failure.schema, payloads=failure.payloads)

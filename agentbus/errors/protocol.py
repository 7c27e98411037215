"""How a peer broke the protocol; its link is closed, no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = ["FrameTooLarge", "MalformedFrame", "ProtocolError", "UnexpectedFrame", "VersionMismatch"]


class ProtocolError(AgentbusError):
    """A peer broke the protocol. Its link is closed; no other link is harmed."""


@dataclass(eq=False)
class MalformedFrame(ProtocolError):
    """Bytes that are not a frame of this protocol."""

    code: ClassVar[str] = "malformed_frame"
    problem: str

    def __str__(self) -> str:
        return f"malformed frame: {self.problem}"


@dataclass(eq=False)
class FrameTooLarge(ProtocolError):
    """A frame announces more bytes than the named limit allows."""

    code: ClassVar[str] = "frame_too_large"
    what: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.what} of {self.size} bytes is over the limit of {self.limit}"


@dataclass(eq=False)
class VersionMismatch(ProtocolError):
    """The peer speaks a version of the protocol that this process does not."""

    code: ClassVar[str] = "version_mismatch"
    theirs: int
    ours: int

    def __str__(self) -> str:
        return f"the peer speaks protocol version {self.theirs}, this process {self.ours}"


@dataclass(eq=False)
class UnexpectedFrame(ProtocolError):
    """A well-formed frame that is not allowed in the link's present state."""

    code: ClassVar[str] = "unexpected_frame"
    kind: str
    state: str

    def __str__(self) -> str:
        return f"a {self.kind} frame is not allowed while the link is {self.state}"

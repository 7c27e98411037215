"""The protocol between two processes, without I/O: frames, and the session of one link."""

from __future__ import annotations

from .codec import MAX_TEXT, Buffer, Decoder, Encoder, encode
from .failures import failure_envelope, read_failure
from .liveness import Liveness, Verdict
from .session import Hello, Session, State
from .version import PROTOCOL_VERSION

__all__ = [
    "MAX_TEXT",
    "PROTOCOL_VERSION",
    "Buffer",
    "Decoder",
    "Encoder",
    "Hello",
    "Liveness",
    "Session",
    "State",
    "Verdict",
    "encode",
    "failure_envelope",
    "read_failure",
]

"""Errors as data: the code and the fields that travel for an error, and the error for these.

The table of errors that travel is here; how their fields are packed is `wire`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from .base import AgentbusError
from .context import LayoutError, UnknownContext
from .delivery import (
    DeadlineExceeded,
    Draining,
    HandlerFailed,
    HopsExhausted,
    LinkFull,
    MailboxFull,
    NoHandler,
    NoResponder,
    PeerLost,
    QuorumMissed,
    RequestCancelled,
    StreamOverflow,
)
from .engine import (
    ContextTooLong,
    EngineFailed,
    KVExhausted,
    ModelBroken,
    ModelNotFound,
    UnknownEngine,
)
from .misuse import (
    Closed,
    ConfigError,
    InvalidMessage,
    InvalidName,
    NameTaken,
    NotAuthorised,
    TooLarge,
    UnreadableFile,
)
from .protocol import FrameTooLarge, MalformedFrame, UnexpectedFrame, VersionMismatch

__all__ = ["describe", "restore"]

Scalar = str | int | float | None

_DATA_ERRORS: tuple[type[AgentbusError], ...] = (
    ConfigError,
    InvalidName,
    NameTaken,
    InvalidMessage,
    TooLarge,
    Closed,
    UnreadableFile,
    NotAuthorised,
    NoResponder,
    NoHandler,
    PeerLost,
    Draining,
    DeadlineExceeded,
    RequestCancelled,
    MailboxFull,
    LinkFull,
    StreamOverflow,
    HopsExhausted,
    QuorumMissed,
    HandlerFailed,
    MalformedFrame,
    FrameTooLarge,
    VersionMismatch,
    UnexpectedFrame,
    UnknownContext,
    LayoutError,
    UnknownEngine,
    ModelNotFound,
    ModelBroken,
    ContextTooLong,
    KVExhausted,
    EngineFailed,
)
_FIELD_TYPES = {"str": str, "int": int}
_BY_CODE = {error.code: error for error in _DATA_ERRORS}


def describe(error: AgentbusError) -> tuple[str, dict[str, Scalar]]:
    """Return an error's code and fields, as they travel on the wire."""
    if type(error) in _DATA_ERRORS:
        own = fields(error)  # type: ignore[arg-type]
        data = {f.name: getattr(error, f.name) for f in own}
        # An error that a handler filled with other things than its fields' would not be restored.
        if all(isinstance(data[f.name], _FIELD_TYPES[str(f.type)]) for f in own):
            return error.code, data
    text = str(error.args[0]) if error.args else str(type(error).__doc__)
    return HandlerFailed.code, {"target": "", "error_type": type(error).__name__, "text": text}


def restore(code: str, data: Mapping[str, object]) -> AgentbusError:
    """Rebuild the error that `describe` took apart.

    A code that this version does not know becomes `HandlerFailed` under that code's name.

    Raises:
        MalformedFrame: the fields are not those of the error that the code names.
    """
    kind = _BY_CODE.get(code)
    if kind is None:
        return HandlerFailed(target="", error_type=code, text=str(dict(data)))
    expected = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    if set(data) != set(expected):
        raise MalformedFrame(f"error {code!r} with other fields than its own")
    for name, type_name in expected.items():
        if type(data[name]).__name__ != type_name:
            raise MalformedFrame(f"error {code!r}: field {name!r} is not {type_name}")
    return kind(**data)

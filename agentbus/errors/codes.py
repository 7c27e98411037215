"""Errors as data: the code and the fields that travel for an error, and the error for these.

The table of errors that travel is here; how their fields are packed is `wire`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from .base import AgentbusError
from .context import (
    ForgottenContext,
    LayoutError,
    ToolSchemaError,
    TranscriptError,
    UnknownContext,
)
from .delivery import (
    AnswersInParts,
    BudgetExceeded,
    DeadlineExceeded,
    Draining,
    GrantRefused,
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
    InvalidSchema,
    KVExhausted,
    ModelBroken,
    ModelNotFound,
    UnknownEngine,
    UnparsableReply,
    Unsupported,
)
from .filters import FormBroken
from .misuse import (
    Closed,
    ConfigError,
    InvalidMessage,
    InvalidName,
    NameTaken,
    NotAuthorised,
    PermissionDenied,
    TooLarge,
    UnreadableFile,
)
from .protocol import FrameTooLarge, MalformedFrame, UnexpectedFrame, VersionMismatch

__all__ = ["describe", "restore", "text_of"]

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
    PermissionDenied,
    NoResponder,
    NoHandler,
    AnswersInParts,
    PeerLost,
    Draining,
    GrantRefused,
    DeadlineExceeded,
    RequestCancelled,
    MailboxFull,
    LinkFull,
    StreamOverflow,
    HopsExhausted,
    BudgetExceeded,
    QuorumMissed,
    HandlerFailed,
    MalformedFrame,
    FrameTooLarge,
    VersionMismatch,
    UnexpectedFrame,
    UnknownContext,
    ForgottenContext,
    LayoutError,
    ToolSchemaError,
    TranscriptError,
    FormBroken,
    UnknownEngine,
    ModelNotFound,
    ModelBroken,
    ContextTooLong,
    KVExhausted,
    EngineFailed,
    InvalidSchema,
    Unsupported,
    UnparsableReply,
)
_MAX_INT = 2**63 - 1
_MAX_TEXT = 2048
"""Characters of a text that is made of an exception."""
_BY_CODE = {error.code: error for error in _DATA_ERRORS}


def describe(error: AgentbusError) -> tuple[str, dict[str, Scalar]]:
    """Return an error's code and fields, as they travel on the wire."""
    if type(error) in _DATA_ERRORS:
        own = fields(error)  # type: ignore[arg-type]
        data = {f.name: getattr(error, f.name) for f in own}
        # An error that a handler filled with other things than its fields' would not be restored.
        if all(_travels(data[f.name], str(f.type)) for f in own):
            return error.code, data
    text = text_of(error) if error.args else str(type(error).__doc__)
    return HandlerFailed.code, {"target": "", "error_type": type(error).__name__, "text": text}


def text_of(error: BaseException) -> str:
    """Return an exception's text, shortened; its class's name if it cannot say."""
    try:
        text = str(error)
        text.encode()
    except Exception:  # noqa: BLE001 - whatever its author made of it
        return f"{type(error).__name__}, whose text cannot be read"
    return text[:_MAX_TEXT]


def _travels(value: object, type_name: str) -> bool:
    """Tell whether a field's value can be written, and will be read as what it is."""
    if type_name == "int":
        return isinstance(value, int) and -_MAX_INT <= value <= _MAX_INT
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


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

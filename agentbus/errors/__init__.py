"""Every error that agentbus raises, in one tree.

AgentbusError
├── MisuseError              the caller's own mistake; nothing was sent
│   ├── ConfigError, InvalidName, NameTaken, InvalidMessage, TooLarge, Closed, UnreadableFile
│   ├── NotAuthorised, PermissionDenied
├── DeliveryError            how a request ended without a reply
│   ├── NoResponder, NoHandler, PeerLost, DeadlineExceeded, RequestCancelled
│   ├── MailboxFull, LinkFull, StreamOverflow, HandlerFailed, HopsExhausted, QuorumMissed, Draining
│   ├── AnswersInParts, BudgetExceeded, GrantRefused
├── ProtocolError            a peer broke the protocol; its link is closed, no other
│   ├── MalformedFrame, FrameTooLarge, VersionMismatch, UnexpectedFrame
├── ContextError             a context that cannot be resolved or rendered
│   ├── UnknownContext (ForgottenContext), LayoutError, ToolSchemaError, TranscriptError
├── FilterError              a delivered text that cannot be read back
│   ├── FormBroken
└── EngineError              a model that cannot do what was asked
    ├── UnknownEngine, ModelNotFound, ModelBroken, ContextTooLong, KVExhausted, EngineFailed
    ├── InvalidSchema, Unsupported, UnparsableReply

An error's fields are its data: they travel on the wire beside its code, so that the caller of a
remote agent catches the class that the callee raised. `describe` and `restore` convert.
"""

from __future__ import annotations

from .base import AgentbusError
from .codes import describe, restore, text_of
from .context import (
    ContextError,
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
    DeliveryError,
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
    EngineError,
    EngineFailed,
    InvalidSchema,
    KVExhausted,
    ModelBroken,
    ModelNotFound,
    UnknownEngine,
    UnparsableReply,
    Unsupported,
)
from .filters import FilterError, FormBroken
from .misuse import (
    Closed,
    ConfigError,
    InvalidMessage,
    InvalidName,
    MisuseError,
    NameTaken,
    NotAuthorised,
    PermissionDenied,
    TooLarge,
    UnreadableFile,
)
from .protocol import FrameTooLarge, MalformedFrame, ProtocolError, UnexpectedFrame, VersionMismatch

__all__ = [
    "AgentbusError",
    "AnswersInParts",
    "BudgetExceeded",
    "Closed",
    "ConfigError",
    "ContextError",
    "ContextTooLong",
    "DeadlineExceeded",
    "DeliveryError",
    "Draining",
    "EngineError",
    "EngineFailed",
    "FilterError",
    "ForgottenContext",
    "FormBroken",
    "FrameTooLarge",
    "GrantRefused",
    "HandlerFailed",
    "HopsExhausted",
    "InvalidMessage",
    "InvalidName",
    "InvalidSchema",
    "KVExhausted",
    "LayoutError",
    "LinkFull",
    "MailboxFull",
    "MalformedFrame",
    "MisuseError",
    "ModelBroken",
    "ModelNotFound",
    "NameTaken",
    "NoHandler",
    "NoResponder",
    "NotAuthorised",
    "PeerLost",
    "PermissionDenied",
    "ProtocolError",
    "QuorumMissed",
    "RequestCancelled",
    "StreamOverflow",
    "TooLarge",
    "ToolSchemaError",
    "TranscriptError",
    "UnexpectedFrame",
    "UnknownContext",
    "UnknownEngine",
    "UnparsableReply",
    "UnreadableFile",
    "Unsupported",
    "VersionMismatch",
    "describe",
    "restore",
    "text_of",
]

"""Every error that agentbus raises, in one tree.

AgentbusError
├── MisuseError              the caller's own mistake; nothing was sent
│   ├── ConfigError, InvalidName, NameTaken, InvalidMessage, TooLarge, Closed, UnreadableFile
│   ├── NotAuthorised
├── DeliveryError            how a request ended without a reply
│   ├── NoResponder, NoHandler, PeerLost, DeadlineExceeded, RequestCancelled
│   ├── MailboxFull, LinkFull, HandlerFailed, HopsExhausted, QuorumMissed, Draining
├── ProtocolError            a peer broke the protocol; its link is closed, no other
│   ├── MalformedFrame, FrameTooLarge, VersionMismatch, UnexpectedFrame
├── ContextError             a context that cannot be resolved or rendered
│   ├── UnknownContext, LayoutError
└── EngineError              a model that cannot do what was asked
    ├── UnknownEngine, ModelNotFound, ModelBroken, ContextTooLong, KVExhausted, EngineFailed

An error's fields are its data: they travel on the wire beside its code, so that the caller of a
remote agent catches the class that the callee raised. `describe` and `restore` convert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

Scalar = str | int | float | None

__all__ = [
    "AgentbusError",
    "Closed",
    "ConfigError",
    "ContextError",
    "ContextTooLong",
    "DeadlineExceeded",
    "DeliveryError",
    "Draining",
    "EngineError",
    "EngineFailed",
    "FrameTooLarge",
    "HandlerFailed",
    "HopsExhausted",
    "InvalidMessage",
    "InvalidName",
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
    "ProtocolError",
    "QuorumMissed",
    "RequestCancelled",
    "TooLarge",
    "UnexpectedFrame",
    "UnknownContext",
    "UnknownEngine",
    "UnreadableFile",
    "VersionMismatch",
    "describe",
    "restore",
]


class AgentbusError(Exception):
    """Base of all errors of agentbus."""

    code: ClassVar[str] = "error"


class MisuseError(AgentbusError):
    """The caller did something that can never work; nothing was sent."""


@dataclass(eq=False)
class ConfigError(MisuseError):
    """A setting has a value that agentbus cannot use."""

    code: ClassVar[str] = "config"
    setting: str
    problem: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


@dataclass(eq=False)
class InvalidName(MisuseError):
    """A name, address, topic or pattern is not well formed."""

    code: ClassVar[str] = "invalid_name"
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name!r} is not a valid name: {self.problem}"


@dataclass(eq=False)
class NameTaken(MisuseError):
    """Another agent on this bus already has the name."""

    code: ClassVar[str] = "name_taken"
    name: str

    def __str__(self) -> str:
        return f"an agent named {self.name!r} is already on this bus; choose another name"


@dataclass(eq=False)
class InvalidMessage(MisuseError):
    """A payload is not of a type that can be sent, or does not fit the receiver's type."""

    code: ClassVar[str] = "invalid_message"
    type_name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.type_name}: {self.problem}"


@dataclass(eq=False)
class TooLarge(MisuseError):
    """A value is over a named limit; found by the sender, before sending."""

    code: ClassVar[str] = "too_large"
    what: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.what} is {self.size} bytes, over the limit of {self.limit}"


@dataclass(eq=False)
class Closed(MisuseError):
    """The object was used after it was closed."""

    code: ClassVar[str] = "closed"
    what: str

    def __str__(self) -> str:
        return f"the {self.what} is closed"


@dataclass(eq=False)
class UnreadableFile(MisuseError):
    """A file that the user named cannot be read."""

    code: ClassVar[str] = "unreadable_file"
    path: str
    problem: str

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.problem}"


@dataclass(eq=False)
class NotAuthorised(MisuseError):
    """This process's keys do not open the way to the peer."""

    code: ClassVar[str] = "not_authorised"
    peer: str
    problem: str

    def __str__(self) -> str:
        return f"{self.peer} does not let this process in: {self.problem}"


class DeliveryError(AgentbusError):
    """A request ended without a reply."""


@dataclass(eq=False)
class NoResponder(DeliveryError):
    """No agent of that name is on the bus."""

    code: ClassVar[str] = "no_responder"
    target: str

    def __str__(self) -> str:
        return f"no agent named {self.target!r} is on this bus"


@dataclass(eq=False)
class NoHandler(DeliveryError):
    """The agent exists but has no handler for this type of message."""

    code: ClassVar[str] = "no_handler"
    target: str
    type_name: str

    def __str__(self) -> str:
        return f"agent {self.target!r} has no handler for {self.type_name}"


@dataclass(eq=False)
class PeerLost(DeliveryError):
    """The process that had the request went away before it answered."""

    code: ClassVar[str] = "peer_lost"
    peer: str

    def __str__(self) -> str:
        return f"the process {self.peer!r} went away before it answered"


@dataclass(eq=False)
class Draining(DeliveryError):
    """The agent's process is ending and takes no new requests; it did not begin with this one."""

    code: ClassVar[str] = "draining"
    target: str

    def __str__(self) -> str:
        return f"the process of {self.target!r} is ending; ask again, or ask another agent"


@dataclass(eq=False)
class DeadlineExceeded(DeliveryError):
    """The deadline passed before the reply came."""

    code: ClassVar[str] = "deadline_exceeded"
    target: str

    def __str__(self) -> str:
        return f"{self.target!r} did not answer before the deadline"


@dataclass(eq=False)
class RequestCancelled(DeliveryError):
    """The callee, or the process that runs it, cancelled the request."""

    code: ClassVar[str] = "cancelled"
    target: str

    def __str__(self) -> str:
        return f"the request to {self.target!r} was cancelled"


@dataclass(eq=False)
class MailboxFull(DeliveryError):
    """The agent's mailbox is full; the message was refused, not dropped silently."""

    code: ClassVar[str] = "mailbox_full"
    target: str
    limit: int

    def __str__(self) -> str:
        return f"the mailbox of {self.target!r} is full ({self.limit} messages)"


@dataclass(eq=False)
class LinkFull(DeliveryError):
    """The peer reads so slowly that the link's write buffer is full; nothing was sent."""

    code: ClassVar[str] = "link_full"
    peer: str
    limit: int

    def __str__(self) -> str:
        return f"the process {self.peer!r} does not read: over {self.limit} bytes wait for it"


@dataclass(eq=False)
class QuorumMissed(DeliveryError):
    """So many of those asked together failed that too few can answer."""

    code: ClassVar[str] = "quorum_missed"
    wanted: int
    answered: int
    asked: int

    def __post_init__(self) -> None:
        self.outcomes: tuple[object, ...] = ()
        """What each question came to: a reply or an error. It does not travel between processes."""

    def __str__(self) -> str:
        return f"{self.answered} of {self.asked} answered, {self.wanted} were wanted"


@dataclass(eq=False)
class HopsExhausted(DeliveryError):
    """The request was caused by so many others in a row that it was not sent."""

    code: ClassVar[str] = "hops_exhausted"
    target: str

    def __str__(self) -> str:
        return (
            f"the request to {self.target!r} is over the limit of hops; do agents call in a circle?"
        )


@dataclass(eq=False)
class HandlerFailed(DeliveryError):
    """The handler raised an exception that is not one of agentbus's own."""

    code: ClassVar[str] = "handler_failed"
    target: str
    error_type: str
    text: str

    def __str__(self) -> str:
        return f"the handler of {self.target!r} raised {self.error_type}: {self.text}"


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


class ContextError(AgentbusError):
    """A context cannot be resolved or rendered."""


@dataclass(eq=False)
class UnknownContext(ContextError):
    """A context was referred to that neither side of the link holds."""

    code: ClassVar[str] = "unknown_context"
    root: str

    def __str__(self) -> str:
        return f"nobody here holds the context {self.root[:16]}"


@dataclass(eq=False)
class LayoutError(ContextError):
    """A context cannot be laid out as the prompt that was asked for."""

    code: ClassVar[str] = "layout"
    problem: str

    def __str__(self) -> str:
        return self.problem


class EngineError(AgentbusError):
    """A model engine cannot do what was asked."""


@dataclass(eq=False)
class UnknownEngine(EngineError):
    """No engine of that kind is installed."""

    code: ClassVar[str] = "unknown_engine"
    kind: str
    installed: str

    def __str__(self) -> str:
        return f"no engine {self.kind!r} is installed; installed: {self.installed or 'none'}"


@dataclass(eq=False)
class ModelNotFound(EngineError):
    """The model's files are not where the name or path says."""

    code: ClassVar[str] = "model_not_found"
    model: str
    advice: str

    def __str__(self) -> str:
        return f"model {self.model!r} was not found: {self.advice}"


@dataclass(eq=False)
class ModelBroken(EngineError):
    """The model's files are there but cannot be used."""

    code: ClassVar[str] = "model_broken"
    path: str
    problem: str

    def __str__(self) -> str:
        return f"the model file {self.path} cannot be used: {self.problem}"


@dataclass(eq=False)
class ContextTooLong(EngineError):
    """The prompt and the room asked for the answer do not fit the model's window."""

    code: ClassVar[str] = "context_too_long"
    tokens: int
    window: int

    def __str__(self) -> str:
        return (
            f"prompt and answer need {self.tokens} tokens, the model's window has {self.window}; "
            "shorten the input or ask for a shorter answer"
        )


@dataclass(eq=False)
class KVExhausted(EngineError):
    """The KV pool has no room left that may be evicted."""

    code: ClassVar[str] = "kv_exhausted"
    needed: int
    available: int

    def __str__(self) -> str:
        return f"{self.needed} KV blocks are needed, {self.available} can be had"


@dataclass(eq=False)
class EngineFailed(EngineError):
    """The engine broke while it worked on the request."""

    code: ClassVar[str] = "engine_failed"
    model: str
    problem: str

    def __str__(self) -> str:
        return f"the engine of {self.model!r} failed: {self.problem}"


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

"""What a model engine cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = [
    "ContextTooLong",
    "EngineError",
    "EngineFailed",
    "InvalidSchema",
    "KVExhausted",
    "ModelBroken",
    "ModelNotFound",
    "UnknownEngine",
    "UnparsableReply",
    "Unsupported",
]


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
        return (
            f"{self.needed} KV blocks are needed, {self.available} can be had; "
            "shorten the input, or give the engine more kv_tokens"
        )


@dataclass(eq=False)
class EngineFailed(EngineError):
    """The engine broke while it worked on the request."""

    code: ClassVar[str] = "engine_failed"
    model: str
    problem: str

    def __str__(self) -> str:
        return f"the engine of {self.model!r} failed: {self.problem}"


@dataclass(eq=False)
class InvalidSchema(EngineError):
    """A JSON schema cannot be made to constrain an answer."""

    code: ClassVar[str] = "invalid_schema"
    problem: str

    def __str__(self) -> str:
        return f"the JSON schema cannot be used: {self.problem}"


@dataclass(eq=False)
class Unsupported(EngineError):
    """The engine lacks an optional part of the contract."""

    code: ClassVar[str] = "unsupported"
    model: str
    what: str

    def __str__(self) -> str:
        return f"the engine of {self.model!r} cannot {self.what}; choose another engine"


@dataclass(eq=False)
class UnparsableReply(EngineError):
    """A model was asked for a value, and none of its answers holds one."""

    code: ClassVar[str] = "unparsable_reply"
    model: str
    wanted: str
    """The type of the value."""
    answers: int
    """How often it was asked: the repairs included."""
    problem: str
    """What is wrong with the last answer."""
    excerpt: str
    """How the last answer begins."""

    def __str__(self) -> str:
        return (
            f"the model {self.model!r} gave no {self.wanted} (answers: {self.answers}); "
            f"the last begins {self.excerpt!r}: {self.problem}"
        )

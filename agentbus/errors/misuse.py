"""The caller's own mistakes: what can never work, found before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = [
    "Closed",
    "ConfigError",
    "InvalidMessage",
    "InvalidName",
    "MisuseError",
    "NameTaken",
    "NotAuthorised",
    "PermissionDenied",
    "TooLarge",
    "UnreadableFile",
]


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


@dataclass(eq=False)
class PermissionDenied(MisuseError):
    """The bus's policy does not let this principal do that."""

    code: ClassVar[str] = "permission_denied"
    principal: str
    """Who, as the policy names it: `key:ann`, or several such names joined by `+`."""
    operation: str
    subject: str
    """The agent, topic or pattern."""

    def __str__(self) -> str:
        question = f"{self.principal} {self.operation} '{self.subject}'"
        return (
            f"{self.principal} may not {self.operation} {self.subject!r}; where the broker runs, "
            f"`agentbus acl explain {question}` says why"
        )

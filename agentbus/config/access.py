"""Who may join, and who may do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..errors import ConfigError
from .checks import STRICT

__all__ = [
    "AclSettings",
    "Keys",
    "Operation",
    "RuleSettings",
    "TokenSettings",
]

_KEY_LENGTH = 40
_Z85 = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The CURVE keys with which one process joins or accepts others over tcp, in Z85.

    Raises:
        ConfigError: a key is not 40 characters of Z85. The key itself is not in the error.
    """

    public: str
    secret: str = field(repr=False)
    server: str = ""
    """Public key of the process to connect to; empty if this one only listens."""
    authorized: Mapping[str, str] = field(default_factory=dict)
    """Public keys that may connect to this process, by their users' names."""
    expires: Mapping[str, float] = field(default_factory=dict)
    """When users' keys end, in seconds since 1970, by their names; the others' do not."""

    def __post_init__(self) -> None:
        given = {"public key": self.public, "secret key": self.secret}
        if self.server:
            given["server's key"] = self.server
        given |= {f"key of {name}": key for name, key in self.authorized.items()}
        for name, key in given.items():
            if len(key) != _KEY_LENGTH or not _Z85.issuperset(key):
                raise ConfigError("keys", f"the {name} is not {_KEY_LENGTH} characters of Z85")
        if len(set(self.authorized.values())) < len(self.authorized):
            raise ConfigError("keys", "two users have the same public key")


Operation = Literal["request", "publish", "subscribe", "register", "list", "admin", "*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """One rule of the access policy, as the settings file has it."""

    __pydantic_config__ = STRICT

    who: tuple[str, ...]
    """Principals: `key:NAME`, `token:NAME`, `uid:NUMBER`, `agent:NAME`, with `*` and `>` as in
    topics; several joined by `+` must all hold; `*` is anyone."""
    allow: tuple[Operation, ...] = ()
    deny: tuple[Operation, ...] = ()
    on: tuple[str, ...]
    """Patterns of agents' names or topics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AclSettings:
    """Who may do what. What no rule allows is denied; a rule that denies wins."""

    __pydantic_config__ = STRICT

    rules: tuple[RuleSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """One bearer token that a process may join with."""

    __pydantic_config__ = STRICT

    hash: str
    """BLAKE3 of the token, in hexadecimal."""
    expires: datetime | None = None

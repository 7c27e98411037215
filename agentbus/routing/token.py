"""Bearer tokens with which processes join: known by their hashes alone. Pure; `wall` is given."""

from __future__ import annotations

from collections.abc import Mapping

from blake3 import blake3

from ..config import TokenSettings
from ..errors import ConfigError, InvalidName, NotAuthorised
from ..names import check_agent_name

__all__ = ["TOKEN_PREFIX", "Tokens", "hash_token"]

TOKEN_PREFIX = "agentbus-"
"""What tokens begin with, so that one that has strayed is known for what it is."""
_HASH_LENGTH = 64
_MAX_TOKEN = 256
"""Characters of what may be a token."""


def hash_token(token: str) -> str:
    """Return what the settings hold of a token. It is random and long, so one pass is enough."""
    return blake3(token.encode()).hexdigest()


class Tokens:
    """The tokens of one bus, by hash."""

    __slots__ = ("_known",)

    def __init__(self, settings: Mapping[str, TokenSettings] | None = None) -> None:
        """Read the settings.

        Raises:
            ConfigError: a name, hash or moment is not well formed, or two tokens are the same.
        """
        self._known: dict[str, tuple[str, float]] = {}
        for name, token in (settings or {}).items():
            digest, until = _checked(f"tokens.{name}", name, token)
            if digest in self._known:
                raise ConfigError(f"tokens.{name}.hash", "another token has the same hash")
            self._known[digest] = name, until

    def find(self, token: str, bus: str, wall: float) -> tuple[str, str, float]:
        """Return a token's hash, its holder's name, and when it ends, in seconds since 1970.

        Raises:
            NotAuthorised: it is unknown, or has ended by `wall`. The token is not in the error.
        """
        digest = hash_token(token) if len(token) <= _MAX_TOKEN else ""
        name, until = self._known.get(digest, ("", 0.0))
        if not name:
            raise NotAuthorised(bus, "it does not know this token")
        if wall >= until:
            raise NotAuthorised(bus, f"the token of {name} has expired")
        return digest, name, until

    def holds(self, digest: str) -> bool:
        """Tell whether there is a token of that hash."""
        return digest in self._known


def _checked(key: str, name: str, token: TokenSettings) -> tuple[str, float]:
    try:
        check_agent_name(name)
    except InvalidName as error:
        raise ConfigError(key, str(error)) from error
    digest = token.hash.lower()
    if len(digest) != _HASH_LENGTH or not set(digest) <= set("0123456789abcdef"):
        problem = f"is {_HASH_LENGTH} hexadecimal digits; `agentbus keys token` makes it"
        raise ConfigError(f"{key}.hash", problem)
    if token.expires is None:
        return digest, float("inf")
    if token.expires.tzinfo is None:
        raise ConfigError(f"{key}.expires", "say the zone, as in 2030-01-31T12:00:00Z")
    return digest, token.expires.timestamp()

"""Buses with a policy, whose processes share a loop and are told apart by their tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from agentbus import Bus
from agentbus.config import AclSettings, Operation, RuleSettings, TokenSettings
from agentbus.daemon import start_broker
from agentbus.guard import Guard
from agentbus.routing import Policy, Tokens, hash_token

__all__ = ["allow", "broker", "deny", "policy", "token_of", "tokens"]


def allow(who: str, operation: Operation, *on: str) -> RuleSettings:
    return RuleSettings(who=(who,), allow=(operation,), on=on or (">",))


def deny(who: str, operation: Operation, *on: str) -> RuleSettings:
    return RuleSettings(who=(who,), deny=(operation,), on=on or (">",))


def policy(*rules: RuleSettings) -> Policy:
    return Policy.of(AclSettings(rules=rules))


def token_of(name: str) -> str:
    return f"agentbus-for-tests-{name}"


def tokens(*names: str, expires: datetime | None = None) -> Tokens:
    return Tokens(
        {name: TokenSettings(hash=hash_token(token_of(name)), expires=expires) for name in names}
    )


@asynccontextmanager
async def broker(
    folder: Path, *rules: RuleSettings, names: Sequence[str] = ("ann", "bob", "eve")
) -> AsyncIterator[tuple[str, Guard]]:
    """A daemon over a Unix socket; yields its url."""
    path = f"{folder}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as bus:
        guard = await start_broker(bus, policy=policy(*rules), tokens=tokens(*names))
        yield f"unix://{path}", guard

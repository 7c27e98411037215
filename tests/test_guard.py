"""The broker's gate against the reference: what is enforced, also from memory, is what is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agentbus.broker import Access
from agentbus.client.gate import MAX_DECISIONS
from agentbus.client.links import Links
from agentbus.client.peer import Peer
from agentbus.config import AclSettings, TokenSettings
from agentbus.errors import PermissionDenied
from agentbus.guard import Guard
from agentbus.routing import Policy, Refused, Tokens, hash_token

from .routing.reference import PRINCIPALS, SEED, SUBJECTS, make_rules, reference

pytestmark = [pytest.mark.anyio, pytest.mark.promise("peer.may")]

TOKENS = Tokens({name: TokenSettings(hash=hash_token(name)) for name in ("a", "b")})


@dataclass(slots=True)
class End:
    """A link."""

    user: str
    key: str = ""

    def abort(self) -> None:
        raise AssertionError("no link is to end here")


@dataclass(slots=True, eq=False)
class Asker:
    """Stands in for a peer."""

    name: str
    link: End
    source: str = ""
    allowed: dict[tuple[str, str, str], float] = field(default_factory=dict)


class Wires:
    """Stands in for the links: notes who is told what."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, object]] = []
        self.failures: list[str] = []

    def guard(self, gate: object) -> None:
        pass

    def joined(self, peer: Any, principal: str) -> None:
        pass

    def failed(self, code: str) -> None:
        self.failures.append(code)

    def tell(self, peer: Any, said: object) -> None:
        self.told.append((peer, said))


def entered(guard: Guard, principal: tuple[str, ...], number: int) -> Asker:
    """Have a process join as a principal."""
    names = dict(identity.split(":") for identity in principal)
    asker = Asker(f"p-{number}", End(principal[0]), names.get("agent", ""))
    guard.join(cast(Peer, asker), names.get("token", ""))
    if asker.source:
        guard.registered(cast(Peer, asker), asker.source)
    return asker


def allowed(check: Callable[[], None]) -> bool:
    try:
        check()
    except PermissionDenied:
        return False
    return True


def asked(guard: Guard, asker: Asker, operation: str, subject: str) -> bool:
    peer = cast(Peer, asker)
    match operation:
        case "request":
            return allowed(lambda: guard.check_request(peer, asker.source, f"{subject}/key"))
        case "publish":
            return allowed(lambda: guard.check_publish(peer, asker.source, subject))
        case _:
            return allowed(lambda: guard.check_subscribe(peer, subject))


async def test_the_gate_agrees_with_the_reference() -> None:
    """Principal × operation × subject under 8 policies, each cell asked twice: 5,376 answers."""
    cells = 0
    for seed in range(SEED, SEED + 8):
        rules = make_rules(seed)
        access = Access("bus", Policy.of(AclSettings(rules=rules)), TOKENS, bytes)
        guard = Guard(cast(Links, Wires()), access)
        askers = [entered(guard, who, number) for number, who in enumerate(PRINCIPALS)]
        operations = ("request", "publish", "subscribe")
        for _ in range(2):
            for at, operation, subject in itertools.product(
                range(len(PRINCIPALS)), operations, SUBJECTS
            ):
                # What a process subscribes to, it does without an agent.
                who: tuple[str, ...] = PRINCIPALS[at]
                if operation == "subscribe":
                    who = tuple(one for one in who if not one.startswith("agent:"))
                expected = reference(rules, who, operation, subject)
                cell = (seed, who, operation, subject)
                assert asked(guard, askers[at], operation, subject) is expected, cell
                cells += 1
    assert cells == 5376


async def test_decisions_that_are_kept_are_bounded_and_publishers_are_told_once() -> None:
    wires = Wires()
    guard = Guard(cast(Links, wires), Access("bus", Policy(), TOKENS, bytes))
    asker = entered(guard, ("key:a",), 1)
    for _ in range(3):
        assert not asked(guard, asker, "publish", "news")
    assert wires.told == [(asker, Refused("key:a", "publish", "", "news"))]
    assert wires.failures == ["permission_denied"] * 3
    for number in range(2 * MAX_DECISIONS):
        asked(guard, asker, "subscribe", f"a.{number}")
        assert len(asker.allowed) <= MAX_DECISIONS

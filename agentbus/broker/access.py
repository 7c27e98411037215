"""Who is who on the bus, and who may what: the broker's part of the policy. Pure.

A process is known by what its link proves (a key, a user) and by the token that it joined with; an
agent is known as its own where that process has registered it. What is asked of the broker is
decided here, and so is which grants a process gets for asking others directly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..errors import NotAuthorised, PermissionDenied
from ..routing import (
    ADMIN,
    GRANT_SECONDS,
    KEY_SIZE,
    NONCE_SIZE,
    PROCESS,
    REQUEST,
    Grant,
    Joined,
    Location,
    Policy,
    Tokens,
    seal,
)

__all__ = ["Access", "asking"]

_MAX_NAMES = 10_000
"""Names that a process is remembered to have had; the oldest are forgotten first."""
_TCP = "ab://"


def asking(target: str) -> tuple[str, str]:
    """Return operation and subject of a request to an address."""
    name = target.partition("/")[0]
    return (ADMIN if name.startswith(PROCESS) else REQUEST), name


@dataclass(slots=True)
class _Process:
    """What is known of a process on the bus."""

    owner: Hashable
    """The link that it came over."""
    user: str
    key: str
    """Its public key, if it came over tcp."""
    token: str = ""
    """Whose token it joined with."""
    digest: str = ""
    secret: bytes = b""
    """With which grants for it are sealed; empty if it has not joined."""
    names: dict[str, None] = field(default_factory=dict)
    """Agents that it has, or had and still answers for."""


class Access:
    """The policy at work. Processes go by name; a name is its first link's until that is gone."""

    __slots__ = ("_bus", "_draw", "_processes", "_tokens", "epoch", "policy")

    def __init__(
        self, bus: str, policy: Policy | None, tokens: Tokens, draw: Callable[[int], bytes]
    ) -> None:
        """Take the rules; without a policy all is allowed. `draw` gives random bytes."""
        self._bus = bus
        self._draw = draw
        self._processes: dict[str, _Process] = {}
        self._tokens = tokens
        self.policy = policy
        self.epoch = 1

    def enter(self, process: str, owner: Hashable, user: str, key: str) -> None:
        """Know a process by its link, if it is not known.

        Raises:
            NotAuthorised: it has the broker's own name; or there is a policy, and another link has
                its name.
        """
        if process == self._bus:
            raise NotAuthorised(self._bus, "that is the broker's own name")
        known = self._processes.get(process)
        if known is not None and known.owner is not owner and self.policy is not None:
            raise NotAuthorised(self._bus, f"another link is that of the process {process}")
        if known is None or known.owner is not owner:
            self._processes[process] = _Process(owner, user, key)

    def join(self, process: str, token: str, wall: float) -> float:
        """A process that was entered joins; returns when its token ends, in seconds since 1970.

        Raises:
            NotAuthorised: it has a token that is not good.
        """
        known, until = self._processes[process], float("inf")
        if token:
            known.digest, known.token, until = self._tokens.find(token, self._bus, wall)
        known.secret = self._draw(KEY_SIZE)
        return until

    def knows(self, process: str, owner: Hashable) -> bool:
        """Tell whether a link is that of a process that has joined."""
        known = self._processes.get(process)
        return known is not None and known.owner is owner and known.secret != b""

    def leave(self, process: str) -> None:
        """Forget a process that has no link any more."""
        self._processes.pop(process, None)

    def joined(self, process: str, now: float) -> Joined:
        """Return what a process is told that has joined; `now` is the clock that grants end by."""
        if self.policy is None:
            return Joined(guarded=False)
        return Joined(True, self._processes[process].secret, self.epoch, now)

    def renew(self, policy: Policy | None, tokens: Tokens) -> None:
        """Take other rules: grants that were given are good no more, nor are tokens that are gone."""
        self.policy = policy
        self._tokens = tokens
        self.epoch += 1
        for known in self._processes.values():
            known.secret = self._draw(KEY_SIZE) if known.secret else b""
            if known.digest and not tokens.holds(known.digest):
                known.token = known.digest = ""

    def register(self, process: str, name: str) -> None:
        """Note that an agent is a process's own."""
        known = self._processes.get(process)
        if known is not None:
            known.names[name] = None
            while len(known.names) > _MAX_NAMES:
                del known.names[next(iter(known.names))]

    def principal(self, process: str, source: str) -> tuple[str, ...]:
        """Return who a process is when the agent `source` acts in it; empty for the program."""
        known = self._processes[process]
        token = (f"token:{known.token}",) if known.token else ()
        name = source.partition("/")[0]
        agent = (f"agent:{name}",) if name in known.names else ()
        return (known.user, *token, *agent)

    def principal_of(self, process: str) -> str:
        """Return who a process is, in one word; empty if it is not known."""
        return "+".join(self.principal(process, "")) if process in self._processes else ""

    def key_of(self, process: str) -> str:
        """Return the public key that a process came with over tcp; empty if it did not."""
        known = self._processes.get(process)
        return "" if known is None else known.key

    def check(self, process: str, source: str, operation: str, subject: str) -> None:
        """Let a process do something, or not; the broker's own, without a name, may do all.

        Raises:
            PermissionDenied: the policy does not let it.
        """
        if self.policy is None or not process:
            return
        decision = self.policy.decide(self.principal(process, source), operation, subject)
        if not decision.allowed:
            raise PermissionDenied(decision.principal, operation, subject)

    def check_asking(self, process: str, source: str, target: str) -> None:
        """Let a process ask an agent, or not. Raises as `check`."""
        self.check(process, source, *asking(target))

    def grant(self, process: str, source: str, location: Location, now: float) -> bytes:
        """Return leave, which was checked, for a process to ask an agent elsewhere.

        It is bound to the asking process's key where the way is tcp. It is empty if none can be
        given: one whose key is not known could be anyone's there. The broker then carries what it
        asks.
        """
        operation, name = asking(location.name)
        asker, receiver = self._processes.get(process), self._processes.get(location.peer)
        is_far = location.path.startswith(_TCP)
        if self.policy is None or asker is None or receiver is None or not receiver.secret:
            return b""
        if is_far and not asker.key:
            return b""
        grant = Grant(
            sender=process,
            holder=asker.key if is_far else "",
            source=source.partition("/")[0],
            target=name,
            operation=operation,
            epoch=self.epoch,
            until=now + GRANT_SECONDS,
            nonce=self._draw(NONCE_SIZE),
            principal=self.principal_of(process),
        )
        return seal(grant, receiver.secret)

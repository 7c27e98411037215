"""The broker's gate: the policy at the links of its process. Who may what is `broker.Access`'s."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

from .broker import Access, asking
from .client.gate import MAX_DECISIONS
from .client.links import Links
from .client.peer import Peer
from .errors import NotAuthorised, PermissionDenied
from .routing import BROKER, BUS, PUBLISH, REQUEST, SUBSCRIBE, Joined, Policy, Refused, Tokens

__all__ = ["Guard"]

logger = logging.getLogger("agentbus")


class Guard:
    """Lets in what the policy allows, and tells processes what they need to know of it.

    Implements `Gate`. Decisions are kept with the link that they are about, so that a message costs
    one look into a table.
    """

    def __init__(self, links: Links, access: Access) -> None:
        self._links = links
        self._access = access
        self._expiries: dict[Peer, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._close_gate_if_needed()

    def join(self, peer: Peer, token: str) -> Joined:
        """Take in a process; its link ends with its token.

        Raises:
            NotAuthorised: it has no good token, or another process's name.
        """
        access, wall = self._access, time.time()
        self._enter(peer)
        until = access.join(peer.name, token, wall)
        if until < inf:
            self._cancel_expiry(peer)
            expiry = self._loop.call_later(until - wall, self._expire, peer)
            self._expiries[peer] = expiry
        peer.allowed.clear()
        self._links.joined(peer, access.principal_of(peer.name))
        return access.joined(peer.name, self._loop.time())

    def left(self, process: str) -> None:
        """Forget a process that went away."""
        for peer in [peer for peer in self._expiries if peer.name == process]:
            self._cancel_expiry(peer)
        self._access.leave(process)

    def registered(self, peer: Peer, name: str) -> None:
        """An agent is a process's own from here on; what was decided before may be otherwise."""
        self._access.register(peer.name, name)
        peer.allowed.clear()

    def renew(self, policy: Policy | None, tokens: Tokens) -> None:
        """Take other rules, at once and everywhere: no grant that was given is good any more."""
        self._access.renew(policy, tokens)
        self._close_gate_if_needed()
        now = self._loop.time()
        for peer in self._links.peers():
            if self._access.knows(peer.name, peer):
                self._links.tell(peer, self._access.joined(peer.name, now))
        for peer, error in self._links.recheck():
            self._links.tell(peer, Refused(error.principal, SUBSCRIBE, "", error.subject))

    def now(self) -> float:
        """The clock that grants end by."""
        return self._loop.time()

    # --- Gate

    def check_request(self, peer: Peer, source: str, target: str) -> None:
        """See `Gate`. What the broker itself is asked, its agent decides on."""
        if not peer.allowed.get((REQUEST, source, target)):
            self._decide(peer, (REQUEST, source, target))

    def check_publish(self, peer: Peer, source: str, topic: str) -> None:
        """See `Gate`. The publisher is told, once."""
        if not peer.allowed.get((PUBLISH, source, topic)):
            self._decide(peer, (PUBLISH, source, topic))

    def check_subscribe(self, peer: Peer, pattern: str) -> None:
        """See `Gate`."""
        if not peer.allowed.get((SUBSCRIBE, "", pattern)):
            self._decide(peer, (SUBSCRIBE, "", pattern))

    def _decide(self, peer: Peer, what: tuple[str, str, str]) -> None:
        operation, source, subject = what
        is_ours = operation == REQUEST and subject in (BROKER, BUS)
        if operation == REQUEST:
            operation, subject = asking(subject)
        if what in peer.allowed:
            self._links.failed(PermissionDenied.code)
            principal = "+".join(self._access.principal(peer.name, source))
            raise PermissionDenied(principal, operation, subject)
        self._enter(peer)
        if len(peer.allowed) >= MAX_DECISIONS:
            peer.allowed.clear()
        if not is_ours:
            try:
                self._access.check(peer.name, source, operation, subject)
            except PermissionDenied as error:
                peer.allowed[what] = 0.0
                self._links.failed(error.code)
                logger.info("denied: %s", error)
                if operation == PUBLISH:  # it has no answer
                    self._links.tell(peer, Refused(error.principal, operation, source, subject))
                raise
        peer.allowed[what] = inf

    def _enter(self, peer: Peer) -> None:
        try:
            self._access.enter(peer.name, peer, peer.link.user, peer.link.key)
        except NotAuthorised:
            # Both would be taken for one process, and share what it has.
            peer.link.abort()
            raise

    def _close_gate_if_needed(self) -> None:
        self._links.guard(None if self._access.policy is None else self)

    def _expire(self, peer: Peer) -> None:
        logger.warning("the link to %s is closed: its token has expired", peer.name)
        self._cancel_expiry(peer)
        peer.link.abort()

    def _cancel_expiry(self, peer: Peer) -> None:
        expiry = self._expiries.pop(peer, None)
        if expiry is not None:
            expiry.cancel()

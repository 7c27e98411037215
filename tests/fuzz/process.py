"""Mutated envelopes for a whole process: its own requests end, and nothing of the link is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.errors import AgentbusError, PeerLost
from agentbus.messages import Envelope
from agentbus.transport import Link
from agentbus.wire import Buffer, Encoder, Hello, JoinKey, Session

from .mutate import mutate_envelope
from .samples import LIMITS, TENANT, envelopes, frame_of
from .trials import TAKEN, Finding

__all__ = ["ProcessCampaign"]

_OPENING = Session(Hello("there", "/run/there"), LIMITS).opening()
_OWN = 3
"""Requests that the process makes over each link: numbers 1 to 3."""
_IDS = (0, 1, 2, 3, 7, 8, 9)
_MOST_FRAMES = 40
_SETTINGS = BusSettings(limits=LIMITS, busy_poll=0, stream_parts=8, context_bytes=100_000)


class Echo(Agent):
    """You repeat what you hear."""

    @handler
    async def text(self, text: str, call: Call) -> str:
        return text

    @handler
    async def count(self, upto: int, call: Call) -> AsyncIterator[int]:
        for number in range(min(upto, 20)):
            yield number


class _Link(Link):
    """A link whose other end is this test."""

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self._owner = owner
        self._encode = Encoder(LIMITS).encode

    bytes_sent = 0
    bytes_received = 0
    requests_received = 0
    shares_memory = False

    @property
    def peer(self) -> Hello:
        return Hello("there", "/run/there")

    def send(self, envelope: Envelope) -> int:
        return sum(map(len, self._encode(envelope)))

    def join(self, key: JoinKey, number: int, head: bytes, value: Buffer) -> int:
        """Never called: it does not join."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Never needed: it is not paused."""

    async def restore(self) -> None:
        """Never called: it is not broken."""

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            self._owner.link_lost(self, PeerLost("there"))


class ProcessCampaign:
    """A run of links to one bus. The same seed makes the same envelopes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.outcomes: Counter[str] = Counter()
        """How envelopes ended: `taken`, refused by the codec, or with the end of their link."""
        self._rng = random.Random(seed)
        self._envelopes = envelopes()
        self._loose: list[str] = []

    async def run(self, frames: int) -> None:
        """Feed so many frames more, a few more at most. Raises as `Campaign.run`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: self._loose.append(str(what)))
        until = self.outcomes.total() + frames
        try:
            async with Bus.open(name="here", settings=_SETTINGS) as bus:
                await bus.spawn(Echo(), name="echo")
                while self.outcomes.total() < until:
                    fed = self.outcomes.total()
                    try:
                        await self._link(bus)
                    except Exception as error:
                        problem = f"{type(error).__name__}: {error} (seed {self.seed}, frame {fed})"
                        raise Finding(problem) from error
        finally:
            loop.set_exception_handler(None)

    async def _link(self, bus: Bus) -> None:
        node = bus._sender
        link, session = _Link(node.peers), Session(Hello("here"), LIMITS)
        session.receive(_OPENING)
        node.peers.link_opened(link)
        pending = [self._ask(node, link) for _ in range(_OWN)]
        for _ in range(_MOST_FRAMES):
            if link.closing:
                break
            self.outcomes[self._feed(node, link, session)] += 1
            if self._rng.randrange(4) == 0:
                await asyncio.sleep(0)
        link.abort()
        await asyncio.sleep(0)
        self._check_ended(node, pending)

    def _ask(self, node: Any, link: Any) -> Any:
        """Make one of the process's own requests over a link."""
        context = TENANT.empty().user("Tides.") if self._rng.randrange(2) else None
        pending = node.pending("far", context, None, stream=self._rng.randrange(2) == 0)
        origin = node.program_origin(None)
        pending.deadline = node.timer.add(origin.deadline_at, pending.expire)
        node.peers.send(node.peers.of(link), pending, "a draft", origin)
        return pending

    def _feed(self, node: Any, link: _Link, session: Session) -> str:
        """Bring the next envelope, if the wire's own rules let it pass."""
        envelope = self._rng.choice(self._envelopes)
        if self._rng.randrange(3):
            envelope = mutate_envelope(self._rng, envelope)
        if self._rng.randrange(2):
            envelope = replace(envelope, id=self._rng.choice(_IDS))
        try:
            arrived = session.receive(frame_of(envelope))
        except AgentbusError as error:
            if session.error is not None:
                link.abort()
            return type(error).__name__
        node.peers.received(link, arrived)
        return TAKEN if not link.closing else f"{envelope.kind.name} ended its link"

    def _check_ended(self, node: Any, pending: list[Any]) -> None:
        left = [p for p in pending if not p.ended]
        if left or self._loose or len(node.timer) or list(node.peers):
            problem = f"{len(left)} requests, {len(node.timer)} deadlines, {self._loose[:1]}"
            raise Finding(f"left behind: {problem}")

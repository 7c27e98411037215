"""A link that outlives its connection for a while, if both sides want that.

Owns what is done when the connection breaks, and how another one takes its place: on the side that
connects, made anew (`redial`); on the side that accepts, given by the link that was begun for it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from mypy_extensions import mypyc_attr

from ..config import Limits
from ..errors import Closed
from ..wire import TICKET_SIZE, Hello, Resume, State
from .base import LinkOwner
from .link import HIGH_WATER, Settled, StreamLink
from .redial import Dialer, Down, restore

__all__ = ["LastingLink", "Tickets"]


@mypyc_attr(allow_interpreted_subclasses=True)
class LastingLink(StreamLink):
    """A `StreamLink` that waits for another connection when its own breaks."""

    __slots__ = ("_dialer", "_limits", "_tickets")

    def __init__(
        self,
        owner: LinkOwner,
        hello: Hello,
        limits: Limits,
        settled: Settled,
        *,
        dialer: Dialer | None = None,
        tickets: Tickets | None = None,
    ) -> None:
        """Make a link that waits for its first connection.

        Args:
            owner: is told what happens to it.
            hello: what this process says about itself.
            limits: bounds on both directions.
            settled: see `Settled`.
            dialer: makes connections, if this side makes them.
            tickets: links of this side, if it accepts them, that may go on over this connection.
        """
        if tickets is not None and hello.resume_ms:
            hello = replace(hello, ticket=secrets.token_bytes(TICKET_SIZE))
        super().__init__(owner, hello, limits, settled)
        self._limits = limits
        self._dialer = dialer
        self._tickets = tickets

    # --- Link

    async def aclose(self) -> None:
        if self.broken:
            self.abort()
        await super().aclose()

    async def restore(self) -> None:
        if self._dialer is not None:
            await restore(self, self._dialer, self._limits)

    # --- asyncio.Protocol

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing and self._resume_time() > 0:
            self._wait_for_another()
        else:
            self._over()

    # --- going on

    @property
    def bytes_kept(self) -> int:
        """What was sent and not acknowledged."""
        return self._bytes_sent - self._forgotten

    def can_resume(self, received: int) -> bool:
        """Say whether another connection may go on with a peer to which so many bytes have come."""
        return not self.closing and self._forgotten <= received <= self._bytes_sent

    def let_go(self) -> None:
        """Hear no more from the connection that there is: another takes its place."""
        if self._transport is not None and not self.broken:
            self._transport.set_protocol(asyncio.Protocol())
            self._transport.abort()

    def adopt(self, transport: asyncio.WriteTransport, received: int) -> None:
        """Go on over a new connection, with a peer to which so many bytes have come."""
        self.let_go()
        self.broken = False
        self._stop_timer()
        self._drop_queue()
        self._transport = transport
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._session.acknowledged = received
        self._forget(received)
        self.resume_writing()
        rest = self._sent.since(received)
        if rest:
            transport.writelines(rest)

    def give_up(self) -> None:
        """End the link: no connection goes on with it."""
        if self.broken:
            self._over()

    def _resume_time(self) -> float:
        """Return for how many seconds both sides wait for another connection."""
        peer = self._peer
        if peer is None or not (self._hello.ticket if self._dialer is None else peer.ticket):
            return 0
        return min(self._hello.resume_ms, peer.resume_ms) / 1000

    def _wait_for_another(self) -> None:
        self.broken = True
        self._drop_queue()
        self._transport = Down(self)
        self.pause_writing()
        self._timer = self._loop.call_later(self._resume_time(), self.give_up)
        self._owner.link_broken(self)

    def _give_away(self) -> None:
        """Give this connection to the link that the peer wants to go on with."""
        transport, resume = self._transport, self._session.resume
        if transport is None or resume is None:
            return
        link = (self._tickets or {}).get(resume.ticket)
        # The ticket says enough; but what was made sure of a link's peer is to stay true.
        is_same = link is not None and (link.user, link.key) == (self.user, self.key)
        if link is None or not is_same or not link.can_resume(resume.received):
            self._fail(Closed("link"))
            return
        self.flush()
        transport.write(Resume(link.bytes_received).encode(self._limits))
        self._transport = None
        self.closing = self._ended = True
        self._settled(None)
        link.adopt(transport, resume.received)
        self._over()

    # --- opening and ending

    def _open(self) -> None:
        if self._session.peer is not None and self._tickets is not None and self._hello.ticket:
            self._tickets[self._hello.ticket] = self
        super()._open()

    def _finish(self) -> None:
        if self._session.state is State.RESUMING and self._session.error is None:
            self._give_away()
        else:
            super()._finish()

    def _over(self) -> None:
        self.broken = False
        if self._tickets is not None:
            self._tickets.pop(self._hello.ticket, None)
        super()._over()


Tickets = dict[bytes, LastingLink]
"""Links that a listener accepted, by the ticket with which their peer goes on with them."""

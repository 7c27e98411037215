"""Drives the session of one link over a byte stream; every stream transport uses this class.

Owns buffering of writes, the order of opening and closing, and telling the owner exactly once that
a link is over. What the peer has not acknowledged is kept, for links that outlive their connection
(`lasting`). What the bytes mean is the session's business; making the stream, and deciding who may
connect, is the transport's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

from mypy_extensions import mypyc_attr

from ..config import Limits
from ..errors import AgentbusError, Closed, LinkFull, PeerLost, TooLarge
from ..messages import Envelope, Kind
from ..wire import ACK_EVERY, Buffer, Hello, Joined, JoinKey, Session, State, Unacknowledged
from .base import Link, LinkOwner
from .shm import LinkMemory

__all__ = ["CLOSE_TIMEOUT", "HIGH_WATER", "IN_FLIGHT", "Settled", "StreamLink"]

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for the flush and the peer's GOODBYE before a closing link is aborted."""
HIGH_WATER: Final = 256 * 1024
"""Bytes waiting to be written from which on a link is paused."""
_JOINED_BYTES: Final = 8 * 1024
_JOINED_BUFFERS: Final = 8
"""Messages of one turn of the loop are written together, at most so many at a time. A write costs
3 µs, more than encoding a message of 1 KiB; but with many more in one, the peer would stand idle
until all of them were made."""
IN_FLIGHT: Final = 16 * 1024 * 1024
"""Bytes that the system and a busy peer may hold unacknowledged; beyond, they count as waiting."""

_REPLIES: Final = Kind.REPLIES
_OPEN: Final = State.OPEN  # looked up for every read, and an enum's members are slow to look up

Settled = Callable[[AgentbusError | None], None]
"""Told once, before anything else, that a link opened (None) or why it never did."""


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamLink(Link):
    """A link over whatever transport the loop connects it to."""

    # Slots also for speed: of an instance with so many attributes Python looks up each by name.
    # fmt: off
    __slots__ = (
        "__weakref__", "_ack_at", "_bytes_received", "_bytes_sent", "_ended", "_ended_loans",
        "_forgotten", "_gone", "_hello", "_joined", "_keep", "_loop", "_memory", "_owner",
        "_peer", "_queue", "_queued", "_replies", "_room_until", "_sent", "_session", "_settled",
        "_shared_limit", "_timer", "_transport", "_writable", "_write_limit",
    )
    # fmt: on

    def __init__(self, owner: LinkOwner, hello: Hello, limits: Limits, settled: Settled) -> None:
        super().__init__()
        self._hello = hello
        self._owner = owner
        self._ended_loans: deque[int] = deque()
        self._memory = LinkMemory(limits, self._loan_ended)
        self._session = Session(hello, limits, self._memory)
        self._write_limit = limits.write_buffer
        self._shared_limit = limits.shared
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._peer: Hello | None = None
        """Set when the owner was told that the link opened."""
        self._ended = False
        """The owner was told that the link is over, or the opener that it never was."""
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._joined = Joined(limits)
        self._replies = Joined(limits)
        """Replies that leave together, behind what else waits: the last parts of streams do not then
        part one reply from the next."""
        self._queue: list[Buffer] = []
        self._queued = 0
        self._sent = Unacknowledged()
        self._keep = self._sent.add
        self._forgotten = 0
        """Bytes sent that are no longer kept."""
        self._room_until = self._write_limit
        """Up to so many bytes sent the link is surely not full."""
        self._ack_at = ACK_EVERY
        """So many bytes received are acknowledged."""
        self._bytes_sent = 0
        self._bytes_received = 0

    # --- Link

    @property
    def peer(self) -> Hello:
        if self._peer is None:
            raise Closed("link")
        return self._peer

    @property
    def requests_received(self) -> int:
        return self._session.last_request

    @property
    def shares_memory(self) -> bool:
        return self._memory.in_use or bool(self._ended_loans)

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent

    @property
    def bytes_received(self) -> int:
        return self._bytes_received

    def send(self, envelope: Envelope) -> int:
        transport = self._transport
        if self.closing or transport is None:
            raise Closed("link")
        if self._ended_loans:  # a reply that lets the peer send again is not to come first
            self._release()
        if self._joined.size or self._replies.size:  # what waits goes before it
            self._send_joined()
        share_from = self._memory.share_from
        for body in envelope.payloads:
            if len(body) >= share_from:
                return self._share(transport, envelope)
        return self._write(transport, self._session.send(envelope))

    def join(self, key: JoinKey, number: int, head: bytes, value: Buffer) -> int:
        joined = self._replies if key[0] is _REPLIES else self._joined
        if not joined.fits(key, number):
            self._send_joined()
        transport = self._transport
        if self.closing or transport is None:
            raise Closed("link")
        waiting = self._joined.size + self._replies.size
        if self._bytes_sent + waiting > self._room_until and self._is_full(waiting):
            raise LinkFull(self.peer.peer, self._write_limit)
        if not joined.add(key, number, head, value):
            self._send_joined()
            self.flush()  # while the peer reads these, others are made
        return len(head) + len(value)

    def _send_joined(self) -> None:
        if self._joined.size:
            self._send_all_of(self._joined)
        if self._replies.size:
            self._send_all_of(self._replies)

    def _send_all_of(self, joined: Joined) -> None:
        if not self.closing:
            buffers = self._session.send(joined.take())
            self._enqueue(buffers, sum(map(len, buffers)))

    def _share(self, transport: asyncio.WriteTransport, envelope: Envelope) -> int:
        """Send an envelope whose large payloads are in shared memory, as far as that has room."""
        payloads = self._memory.place(envelope.payloads)
        try:
            return self._write(transport, self._session.send(replace(envelope, payloads=payloads)))
        except BaseException as error:
            self._memory.take_back(payloads)
            if isinstance(error, TooLarge) and self._memory.lacks_room:
                raise LinkFull(self.peer.peer, self._shared_limit) from None
            raise

    def _loan_ended(self, generation: int) -> None:
        """Note it. Comes at any point of the code and in any thread, so that nothing is sent here."""
        self._ended_loans.append(generation)
        with suppress(RuntimeError):  # the loop is closed, and so is the link
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        """Tell the peer that nothing here views what it placed. Not bound by the write limit: what
        the peer can place bounds it."""
        while self._ended_loans and not self.closing:
            generation = self._ended_loans.popleft()
            self._memory.given_back()
            buffers = self._session.send(Envelope(Kind.RELEASE, generation))
            self._enqueue(buffers, sum(map(len, buffers)))

    def _write(self, transport: asyncio.WriteTransport, buffers: list[Buffer]) -> int:
        alone = len(buffers) == 1
        size = len(buffers[0]) if alone else sum(map(len, buffers))
        if self._bytes_sent + size > self._room_until and self._is_full(size):
            raise LinkFull(self.peer.peer, self._write_limit)
        if alone and not self.joins and not transport.is_closing():
            self._bytes_sent += size
            self._keep(buffers[0])
            self._begin_turn()
            transport.write(buffers[0])
        else:
            # A view is of memory that its owner may change before it is written.
            self._enqueue([b if type(b) is bytes else bytes(b) for b in buffers], size)
        return size

    def _is_full(self, size: int) -> bool:
        """Say whether `size` bytes more would wait, or be on their way unacknowledged, beyond the
        limit."""
        if self._transport is None:
            return True
        waiting = self._queued + self._transport.get_write_buffer_size()
        kept = self._bytes_sent - self._forgotten
        return max(waiting, kept - IN_FLIGHT) + size > self._write_limit

    async def drain(self) -> None:
        await self._writable.wait()
        if self.closing:
            raise Closed("link")

    async def aclose(self) -> None:
        if not self.closing:
            self._send_joined()
            self._say_last(self._session.closing())
        await self._gone.wait()

    def abort(self) -> None:
        transport = self._transport
        if (
            transport is not None
            and self._peer is not None
            and not (self.closing or self._queue or transport.get_write_buffer_size())
        ):
            # Without a word the peer would wait for another connection.
            self._say_last(self._session.farewell(PeerLost(self._hello.peer)))
            transport.close()
        else:
            self.drop()

    def drop(self) -> None:
        """Drop the link without a word."""
        self.closing = True
        self._drop_queue()
        if self._transport is not None:
            self._transport.abort()

    async def restore(self) -> None:
        """Nothing to do: this link is over with its connection."""

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self.closing:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        opening = self._session.opening()
        self._enqueue([opening], len(opening))

    def data_received(self, data: bytes) -> None:
        self._bytes_received += len(data)
        if self._ended:
            return
        session = self._session
        try:
            envelopes = session.receive(data)
        except AgentbusError as error:
            self._fail(error)
            return
        if self._peer is None:
            self._open()
        if session.due or self._bytes_received >= self._ack_at:
            self._keep_up()
        if envelopes and not self.closing:
            # Answers to several at once are joined, like all that is sent within a turn.
            begins = len(envelopes) > 1 and not self.joins
            self.joins |= begins
            try:
                self._owner.received(self, envelopes)
            finally:
                if begins:
                    self._turn_ended()
        if session.state is not _OPEN:
            self._finish()

    def pause_writing(self) -> None:
        if not self.closing:
            self.paused = True
            self._writable.clear()

    def resume_writing(self) -> None:
        self.paused = False
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def _keep_up(self) -> None:
        """Let go of what has come to the peer, and tell it what has come here."""
        session = self._session
        try:
            self._sent.acknowledge(session.acknowledged)
        except AgentbusError as error:
            self._fail(error)
        self._forget(session.acknowledged)
        if self.closing:
            return
        if self._bytes_received >= self._ack_at:
            self._ack_at = self._bytes_received + ACK_EVERY
            ack = session.ack(self._bytes_received)
            self._enqueue([ack], len(ack))
        # A peer that acknowledges nothing is told no more than is kept for it.
        if session.pong_due and not self.paused and not self._is_full(0):
            pong = session.pong()
            self._enqueue([pong], len(pong))
        session.due = session.pong_due

    def _forget(self, count: int) -> None:
        """So many bytes are no longer kept."""
        self._forgotten = count
        self._room_until = count + self._write_limit

    # --- opening and ending

    def _open(self) -> None:
        peer = self._session.peer
        if peer is not None and not self.closing:
            self._peer = peer
            self._settled(None)
            self._owner.link_opened(self)

    def _finish(self) -> None:
        """Act on what the session found behind the last envelope that it gave."""
        error = self._session.error
        if error is not None:
            self._fail(error)
        elif self._session.state is State.CLOSED:
            if not self.closing:
                self._send_joined()
                self._say_last(self._session.closing())
            self._hang_up(None)

    def _fail(self, error: AgentbusError) -> None:
        if self.closing:
            self._hang_up(None)
            return
        refused = self._session.state is State.REFUSED
        self._say_last(b"" if refused else self._session.farewell(error))
        self._hang_up(error)

    def _say_last(self, last: bytes) -> None:
        """Send what stands in the queue and `last`; from here the link must end in time."""
        self.closing = True
        if last:
            self._enqueue([last], len(last))
        self.flush()
        self.resume_writing()
        if self._transport is not None:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _hang_up(self, error: AgentbusError | None) -> None:
        """Stop reading, and close the stream once it is flushed."""
        if self._transport is not None:
            self._transport.close()
        self._end(error)

    def _over(self) -> None:
        """Nothing is left of the connection, and no other comes."""
        self._stop_timer()
        peer = self._peer.peer if self._peer is not None else ""
        error = None if self.closing else PeerLost(peer)
        self.closing = True
        self._drop_queue()
        self._end(error)
        self._memory.close()
        self._gone.set()
        self.resume_writing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, error: AgentbusError | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._peer is not None:
            self._owner.link_lost(self, error)
        else:
            self._settled(error or Closed("link"))

    # --- writing

    def _enqueue(self, buffers: list[Buffer], size: int) -> None:
        self._sent.add_all(buffers)
        self._queue += buffers
        self._queued += size
        self._bytes_sent += size
        if self._queued >= _JOINED_BYTES or len(self._queue) >= _JOINED_BUFFERS:
            self.flush()
        elif not self.joins:
            self._begin_turn()

    def _begin_turn(self) -> None:
        self.joins = True
        self._loop.call_soon(self._turn_ended)

    def _turn_ended(self) -> None:
        self.joins = False
        self._send_joined()
        self.flush()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued = 0

    def flush(self) -> None:
        """Write what was queued, ahead of the end of the tick."""
        queue, size = self._queue, self._queued
        transport = self._transport
        if not queue or transport is None:
            return
        self._queue = []
        self._queued = 0
        if transport.is_closing():
            return  # the loop is about to call connection_lost
        if len(queue) == 1:
            transport.write(queue[0])
        elif size <= HIGH_WATER:
            transport.write(b"".join(queue))
        else:
            transport.writelines(queue)

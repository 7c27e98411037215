"""A bad network between two processes: what joins a bus by way of a proxy, the proxy can harm.

It passes bytes on, over Unix sockets and over tcp, and knows nothing of what they mean: what is
encrypted stays so. It runs in the event loop of the test.

Over a Unix socket each end sees the proxy's process as its peer. Where the two ends are not both in
that process, payloads must not go through shared memory: give both `Limits(share_from=…)` above
their size.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from ..errors import ConfigError
from ..transport import TCP_SCHEME
from .faults import Direction, Fault, FaultKind

__all__ = ["Connection", "FaultProxy", "fault_proxy"]

_UNIX = "unix://"
_FLIPPED = 0x55
_Dial = Callable[[Callable[[], "_End"]], Awaitable[object]]


class FaultProxy:
    """Passes on what connects at `url` to another one. Make it with `fault_proxy`."""

    def __init__(self, dial: _Dial) -> None:
        self.url = ""
        """Where to join the bus behind it."""
        self.connections: list[Connection] = []
        """In the order of connecting; also those that are over."""
        self._dial = dial
        self._first: list[Fault] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def inject(self, fault: Fault) -> None:
        """Let a fault happen to all connections that are there, and to all that come."""
        self._first.append(fault)
        for connection in self.connections:
            connection.inject(fault)

    def heal(self) -> None:
        """Let connections that come be good; those that are there lose what can be taken back."""
        self._first.clear()
        for connection in self.connections:
            connection.heal()

    def cut(self) -> None:
        """Lose all connections that are there."""
        for connection in self.connections:
            connection.cut()

    def accept(self) -> asyncio.Protocol:
        """Make the near end of a new connection, and begin to connect its far end."""
        connection = Connection()
        self.connections.append(connection)
        for fault in self._first:
            connection.inject(fault)
        task = asyncio.get_running_loop().create_task(self._join(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection.near

    async def _join(self, connection: Connection) -> None:
        try:
            await self._dial(lambda: connection.far)
        except OSError:  # nobody listens there any more
            connection.cut()

    async def aclose(self) -> None:
        """Lose all connections."""
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn


class Connection:
    """One connection through a proxy: two ends, and a way in each direction."""

    def __init__(self) -> None:
        self.near = _End()
        self.far = _End()
        self._ways = {
            Direction.TO_LISTENER: _Way(self.near, self.far, self.cut),
            Direction.FROM_LISTENER: _Way(self.far, self.near, self.cut),
        }
        self.near.start(self._ways[Direction.TO_LISTENER], self._ways[Direction.FROM_LISTENER])
        self.far.start(self._ways[Direction.FROM_LISTENER], self._ways[Direction.TO_LISTENER])

    def inject(self, fault: Fault) -> None:
        """Let a fault happen to this connection alone."""
        self._ways[fault.direction].inject(fault)

    def passed(self, direction: Direction) -> int:
        """Return how many bytes have come from the one end for the other."""
        return self._ways[direction].passed

    @property
    def happened(self) -> tuple[Fault, ...]:
        """The faults whose time had come, the bytes being there."""
        return tuple(fault for way in self._ways.values() for fault in way.happened)

    def heal(self) -> None:
        """Take back delays, stalls and what has not happened yet; what is lost stays lost."""
        for way in self._ways.values():
            way.heal()

    def cut(self) -> None:
        """Lose the connection, for both ends at once, with what is on its way."""
        for way in self._ways.values():
            way.close()
        for end in (self.near, self.far):
            end.abort()


class _End(asyncio.Protocol):
    """One socket of the proxy's."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.gone = asyncio.Event()
        self._aborted = False
        self._outward: _Way | None = None
        self._inward: _Way | None = None

    def start(self, outward: _Way, inward: _Way) -> None:
        """Give what comes to `outward`, and write what comes by `inward`."""
        self._outward, self._inward = outward, inward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._aborted:
            self.transport.abort()
        elif self._inward is not None:
            self._inward.push()

    def data_received(self, data: bytes) -> None:
        if self._outward is not None:
            self._outward.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        if self._outward is not None:
            self._outward.finish()

    def pause_writing(self) -> None:
        if self._inward is not None:
            self._inward.choke(full=True)

    def resume_writing(self) -> None:
        if self._inward is not None:
            self._inward.choke(full=False)

    def abort(self) -> None:
        """Lose this socket, also one that is still to be made."""
        self._aborted = True
        if self.transport is not None:
            self.transport.abort()
        self.gone.set()


class _Way:
    """What goes from one end to the other."""

    def __init__(self, source: _End, sink: _End, cut: Callable[[], None]) -> None:
        self._source = source
        self._sink = sink
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._armed: list[tuple[int, Fault]] = []
        """Faults to come, each with the number of the byte before which it comes."""
        self._queue: deque[tuple[float, bytes]] = deque()
        self._next: asyncio.TimerHandle | None = None
        """When more of the queue is due."""
        self._recovery: asyncio.TimerHandle | None = None
        """When a stall is over."""
        self._delay = 0.0
        self._swallows = False
        self._stalled = False
        self._full = False
        self._flips = False
        self._source_gone = False
        self._closed = False
        self.passed = 0
        self.happened: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        self._armed.append((self.passed + fault.after_bytes, fault))
        self._armed.sort(key=lambda armed: armed[0])
        self._happen()

    def heal(self) -> None:
        self._armed.clear()
        self._delay = 0.0
        self._flips = False
        self._queue = deque((0.0, data) for _, data in self._queue)
        self._stall(stalled=False)
        self.push()

    def take(self, data: bytes) -> None:
        """Pass bytes on; a fault that comes between two of them parts them."""
        while data and not self._closed:
            room = self._armed[0][0] - self.passed if self._armed else len(data)
            piece, data = data[:room], data[room:]
            self.passed += len(piece)
            if piece and not self._swallows:
                self._queue.append((self._loop.time() + self._delay, self._spoilt(piece)))
                self.push()
            self._happen()

    def _happen(self) -> None:
        while self._armed and self._armed[0][0] <= self.passed and not self._closed:
            _, fault = self._armed.pop(0)
            self.happened.append(fault)
            match fault.kind:
                case FaultKind.DELAY:
                    self._delay = fault.seconds
                case FaultKind.CUT:
                    self._cut()
                case FaultKind.HALF_OPEN:
                    self._swallows = True
                case FaultKind.CORRUPT:
                    self._flips = True
                case FaultKind.STALL:
                    self._stall(stalled=True)
                    if fault.seconds:
                        self._recovery = self._loop.call_later(fault.seconds, self._recover)

    def _spoilt(self, piece: bytes) -> bytes:
        if not self._flips:
            return piece
        self._flips = False
        return bytes((piece[0] ^ _FLIPPED,)) + piece[1:]

    def push(self) -> None:
        """Write what is due, and come back for the rest."""
        transport = self._sink.transport
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if transport is None or transport.is_closing() or self._closed or self._stalled:
            return
        while self._queue and self._queue[0][0] <= self._loop.time():
            transport.write(self._queue.popleft()[1])
        if self._queue:
            self._next = self._loop.call_at(self._queue[0][0], self.push)
        elif self._source_gone:
            self._closed = True
            transport.close()

    def finish(self) -> None:
        """The source is gone: the sink goes when it has all."""
        self._source_gone = True
        if not self._swallows:  # otherwise the sink is not to know
            self.push()

    def choke(self, *, full: bool) -> None:
        """The sink takes no more for now."""
        self._full = full
        self._set_reading()

    def _stall(self, *, stalled: bool) -> None:
        self._stalled = stalled
        self._set_reading()
        self.push()

    def _recover(self) -> None:
        self._stall(stalled=False)

    def _set_reading(self) -> None:
        transport = self._source.transport
        if transport is None or transport.is_closing():
            return
        wanted = not (self._full or self._stalled)
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted and transport.is_reading():
            transport.pause_reading()

    def close(self) -> None:
        """Pass nothing on any more."""
        self._closed = True
        self._queue.clear()
        for timer in (self._next, self._recovery):
            if timer is not None:
                timer.cancel()


@asynccontextmanager
async def fault_proxy(url: str) -> AsyncGenerator[FaultProxy, None]:
    """Put a proxy before a bus, for the length of the block: join the bus by `proxy.url`.

    Args:
        url: where the bus listens: `unix:///path/to.sock`, the path alone, or `ab://host:port`.

    Raises:
        ConfigError: the url has no port.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        if url.startswith(TCP_SCHEME):
            host, _, port = url.removeprefix(TCP_SCHEME).rpartition(":")
            if not port.isdecimal():
                raise ConfigError("url", f"{url!r} is not of the form ab://host:port")
            proxy = FaultProxy(lambda end: loop.create_connection(end, host.strip("[]"), int(port)))
            server = await loop.create_server(proxy.accept, "127.0.0.1", 0)
            proxy.url = f"{TCP_SCHEME}127.0.0.1:{server.sockets[0].getsockname()[1]}"
        else:
            path = url.removeprefix(_UNIX)
            near = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbus-")) + "/s"
            proxy = FaultProxy(lambda end: loop.create_unix_connection(end, path))
            server = await loop.create_unix_server(proxy.accept, near)
            proxy.url = _UNIX + near
        try:
            yield proxy
        finally:
            server.close()
            await proxy.aclose()

"""Large payloads of a link through memory: the sender copies once, the receiver views.

Owns the memory of both directions of one link; its books are `wire.shared`'s. An arena is as large
as may ever be lent, but has memory only where it was used, which stays for reuse. There are two for
each direction, with one set of books: a block is in one or the other.

The shared arena is a memfd of the sender's. It has no file: the receiver opens it through /proc, as
the same user in the same process namespace, and it is gone when neither process maps it, however
they ended. It is sealed against shrinking, so that no peer can take pages away from under a view.

Memory that processes share is slow when it is first used, page by page. So payloads from
`WRITE_FROM` on are written into the receiver's own memory (`peer_memory`), where it has said where
to.

Where none of this can be (another system or namespace, no descriptors left), payloads go through
the socket.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import mmap
import os
import secrets
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..config import Limits
from ..errors import MalformedFrame, TooLarge
from ..wire import BLOCK_ALIGN, BlockTable, Buffer, Loan, Reference, check_loan
from .peer_memory import NORESERVE, Gate, Landing, PeerMemory, open_peer

__all__ = ["WRITE_FROM", "LinkMemory"]

WRITE_FROM = 4 * 1024 * 1024
"""Bytes from which on a payload is written into the receiver's own memory: the first time in half
the time, and later no slower. For smaller ones, memory that both map is faster from the second on.
"""

_NAME = "agentbus-"
_LANDING = "landing"
"""The arena that is the receiver's own memory."""
_MAX_DESCRIPTOR_DIGITS = 10


class LinkMemory:
    """What one link lends to its peer and borrows from it. Implements `wire.SharedPayloads`.

    Shares nothing until `connect`. `release`, a method, is told which loan has ended, in whatever
    thread dropped the last view.
    """

    def __init__(self, limits: Limits, release: Callable[[int], None]) -> None:
        self._limits = limits
        self._release = release
        self._lender: _Lender | None = None
        self._borrower: _Borrower | None = None
        self._gate: Gate | None = None
        self._borrowed = 0
        """Loans of the peer that it was not told to have ended."""
        self.share_from = sys.maxsize
        """Payloads from this size on are to be placed, in bytes."""
        self.lacks_room = False
        """Whether `place` left a payload where it was since the peer holds too much."""
        self.settled = asyncio.Event()
        """The peer has said what it offers, or says no more."""

    @property
    def in_use(self) -> bool:
        """Whether the peer views what was placed here, or this side what the peer placed."""
        lends = self._lender is not None and len(self._lender.blocks) > 0
        return lends or self._borrowed > 0

    def given_back(self) -> None:
        """The peer is told that one loan has ended."""
        self._borrowed -= 1

    def connect(self, pid: int, gate: Gate) -> None:
        """Share memory with the process at the other end, if that can be.

        Args:
            pid: that process.
            gate: whose words it is told.
        """
        if sys.platform == "linux" and _sees_us(pid):
            self._lender = _Lender(self._limits.shared)
            self._borrower = _Borrower(pid, self._limits.shared, self._release)
            self._gate = gate
            self.share_from = self._limits.share_from

    def attach(self, told: bytes) -> tuple[int, int]:
        """Return address and size of what the peer, whose gate told this, may write to; the size is
        0 if there is nothing, or the peer is out of reach."""
        if self._lender is None or self._borrower is None or self._gate is None:
            return 0, 0
        peer = self._lender.peer = open_peer(self._borrower.pid, told, self._gate)
        if peer is None:
            return 0, 0
        try:
            landing = Landing.make(self._limits.shared, self._gate, peer)
        except OSError:
            return 0, 0
        self._borrower.landing = landing
        return landing.address, len(landing)

    def offered(self, address: int, size: int) -> None:
        """See `wire.SharedPayloads`."""
        if self.settled.is_set():
            raise MalformedFrame("a peer offers memory once")
        self.settled.set()
        if self._lender is not None:
            self._lender.offered = (address, size)

    def place(self, payloads: Sequence[Buffer | Reference]) -> tuple[Buffer | Reference, ...]:
        """Return the payloads with references for the large ones, as far as there is room.

        Raises:
            TooLarge: one is larger than can be sent in any way; none is placed.
        """
        self.lacks_room = False
        for body in payloads:
            if len(body) > max(self._limits.shared, self._limits.frame):
                raise TooLarge("a payload", len(body), self._limits.shared)
        return tuple(self._place(b) if len(b) >= self.share_from else b for b in payloads)

    def _place(self, body: Buffer | Reference) -> Buffer | Reference:
        if self._lender is None or isinstance(body, Reference):
            return body
        reference = self._lender.place(memoryview(body).cast("B"))
        if reference is None:
            self.lacks_room = True
            return body
        return reference

    def take_back(self, payloads: Sequence[Buffer | Reference]) -> None:
        """Undo `place`: the payloads were not sent."""
        for body in payloads:
            if isinstance(body, Reference):
                self.released(body.generation)

    def resolve(self, reference: Reference) -> memoryview:
        """See `wire.SharedPayloads`."""
        if self._borrower is None:
            raise MalformedFrame("this link shares no memory")
        view = self._borrower.view(reference)
        self._borrowed += 1
        return view

    def released(self, generation: int) -> None:
        """See `wire.SharedPayloads`."""
        if self._lender is None:
            raise MalformedFrame("this link shares no memory")
        self._lender.blocks.free(generation)

    def close(self) -> None:
        """Let go of all arenas; views that live keep the memory under them."""
        if self._lender is not None:
            self._lender.close()
        if self._gate is not None:
            self._gate.shut()
        self.settled.set()
        self._lender = self._borrower = self._gate = None
        self.share_from = sys.maxsize


def _sees_us(pid: int) -> bool:
    """Tell whether a process is in this one's process namespace, so that it finds this one."""
    try:
        return pid > 0 and os.path.samefile(f"/proc/{pid}/ns/pid", "/proc/self/ns/pid")
    except OSError:
        return False


class _Lender:
    """What this process writes for its peer."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._shared: _SharedArena | None = None
        self.peer: PeerMemory | None = None
        self.offered = (0, 0)
        """Address and size of the peer's memory that may be written to."""
        self.blocks = BlockTable(capacity)

    def place(self, data: memoryview) -> Reference | None:
        """Copy a payload into an arena; None if there is no room."""
        block = self.blocks.take(len(data))
        if block is None:
            return None
        offset, generation = block
        try:
            arena = self._write(data, offset)
        except OSError:  # no descriptor or no memory left
            self.blocks.free(generation)
            return None
        return Reference(arena, offset, len(data), generation)

    def _write(self, data: memoryview, offset: int) -> str:
        """Write to the arena that suits the payload; returns its name."""
        address, size = self.offered
        if self.peer is not None and len(data) >= WRITE_FROM and offset + len(data) <= size:
            with suppress(OSError):
                self.peer.write(data, address + offset)
                return _LANDING
        self._shared = self._shared or _SharedArena(self._capacity)
        self._shared.write(data, offset)
        return self._shared.name

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
        self._shared = self.peer = None


class _SharedArena:
    """Memory that the peer maps."""

    def __init__(self, capacity: int) -> None:
        token = secrets.token_hex(8)
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._descriptor = os.memfd_create(_NAME + token, flags)
        try:
            os.ftruncate(self._descriptor, capacity)
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._memory = mmap.mmap(self._descriptor, capacity)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.warm = 0
        """Up to this offset, memory is there."""
        self.name = f"{self._descriptor}:{token}"

    def write(self, data: memoryview, offset: int) -> None:
        start, end = offset, offset + len(data)
        if end <= self.warm:
            memoryview(self._memory)[offset:end] = data
            return
        # Into memory that is not there yet, this is faster than page faults, and fails instead of
        # killing the process when there is none.
        while offset < end:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written
        if start <= self.warm:  # else there is none between, where the other arena has its blocks
            self.warm = end + -end % BLOCK_ALIGN

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)


class _Borrower:
    """What the peer wrote: its arena, mapped once, when first referred to, and what is landed."""

    def __init__(self, pid: int, limit: int, release: Callable[[int], None]) -> None:
        self.pid = pid
        self._limit = limit
        self.release = release
        """Told of each loan that ends, by its generation."""
        self._arena = ""
        self._size = 0
        self._memory: mmap.mmap | None = None
        self.landing: Landing | None = None
        """Memory of this process's that the peer writes to."""
        self._last = 0

    def view(self, reference: Reference) -> memoryview:
        if reference.arena == _LANDING and self.landing is not None:
            return self._lend(reference, self.landing, len(self.landing), changes=True)
        memory = self._memory or self._map(reference.arena)
        if reference.arena != self._arena:
            raise MalformedFrame("the peer refers to an arena that it did not lend")
        return self._lend(reference, memory, self._size, changes=False)

    def _lend(
        self, reference: Reference, memory: mmap.mmap, size: int, *, changes: bool
    ) -> memoryview:
        """View what a reference refers to; says whether the memory may stay changed behind it."""
        loan = check_loan(reference, self._last, size, self._limit)
        self._last = loan.generation
        # The finalizer is a root: it must not keep the link, whose owner may keep the view.
        # Unlike a memoryview, this can be watched by a finalizer.
        lent = (ctypes.c_char * loan.size).from_buffer(memory, loan.offset)
        lent.loan = loan  # type: ignore[attr-defined]
        restored = None if changes else memory
        finalizer = weakref.finalize(lent, _end_loan, loan, restored, weakref.ref(self))
        finalizer.atexit = False
        return memoryview(lent).cast("B").toreadonly()

    def _map(self, arena: str) -> mmap.mmap:
        """Map the arena of that name, which can only be a memfd of the peer that it made for this.

        The mapping is private: what is written to it in spite of read-only views, as tensors can
        be, is seen by this process alone.
        """
        number, _, token = arena.partition(":")
        digits = number.isascii() and number.isdecimal() and len(number) <= _MAX_DESCRIPTOR_DIGITS
        path = f"/proc/{self.pid}/fd/{number}"
        try:
            if not digits or os.readlink(path) != f"/memfd:{_NAME}{token} (deleted)":
                raise MalformedFrame("the peer has no such arena")
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            descriptor = os.open(path, flags)
            try:
                memory = self._map_descriptor(descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise MalformedFrame(f"the peer's arena cannot be mapped: {error}") from error
        self._arena, self._memory = arena, memory
        return memory

    def _map_descriptor(self, descriptor: int) -> mmap.mmap:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise MalformedFrame("the peer's arena could shrink")
        self._size = os.fstat(descriptor).st_size
        return mmap.mmap(
            descriptor,
            min(self._size, self._limit),
            flags=mmap.MAP_PRIVATE | NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


def _end_loan(loan: Loan, memory: mmap.mmap | None, borrower: weakref.ref[_Borrower]) -> None:
    """Give a block back. Runs in whatever thread drops the last view."""
    if loan.written and memory is not None:  # forget the pages that differ from the peer's
        memory.madvise(mmap.MADV_DONTNEED, loan.offset, loan.size + -loan.size % BLOCK_ALIGN)
    told = borrower()
    if told is not None:
        told.release(loan.generation)

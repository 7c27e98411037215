"""Writing large payloads straight into the memory of the process at the other end (Linux).

Cross-memory attach, as MPI implementations use it on one host. Owns the system calls, the memory
that a peer may write to, and the proof that it is the right process; which bytes go where is
`shm`'s.

Who is written to is the process that the kernel names as the socket's other end, never one that a
peer names, and the kernel asks for it what it asks of a debugger: the same user, and no Yama that
forbids it. Where it refuses, payloads take another way; Yama's protection is left as it is, for to
allow a peer this would allow it all that a debugger may. Each side has a `Gate`, whose address and
random bytes it tells in its HELLO:

- A process is written to only if those bytes were in its memory just before. So neither a process
  to which the number of one that ended was given, nor one to which a socket was handed, is taken for
  the peer.
- Memory that a peer may write to is given back to the system only after the bytes were wiped, and
  if then the peer's own gate says that no write goes on. Whoever writes says so first and looks for
  the bytes then: one of the two sees the other. If a peer is stopped amid a write, the memory is
  emptied and its addresses are left unused until this process ends.

A hostile peer runs as the same user and could write to this process, stop it or end it anyhow. It
can make who writes to it fail, which sends the payload another way, or wait, and it can leave
nonsense in the memory that was set apart for it. It cannot have an honest process write to another
one, or to other memory than the peer's own.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import secrets
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

__all__ = ["NORESERVE", "Gate", "Landing", "PeerMemory", "open_peer"]

_TOLD = struct.Struct(">Q16s")
_PROOF_BYTES = 16
_GATE_BYTES = _PROOF_BYTES + 8
NORESERVE = 0x4000
"""MAP_NORESERVE, which Python's mmap does not name: what is not used is not accounted for."""
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_OVERCOMMIT = "/proc/sys/vm/overcommit_memory"


class Gate:
    """Says in this process's own memory, for one peer to read, that it may write and that it is
    written to."""

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(secrets.token_bytes(_PROOF_BYTES), _GATE_BYTES)

    def told(self) -> bytes:
        """Return what the peer has to know: where it is, and what is there."""
        proof = self._bytes.raw[:_PROOF_BYTES]
        return _TOLD.pack(ctypes.addressof(self._bytes), proof)

    def set_writing(self, writing: bool) -> None:
        """Say whether this process may be amid writing to the peer."""
        self._bytes[_PROOF_BYTES] = b"\1" if writing else b"\0"

    def shut(self) -> None:
        """The peer may write no more."""
        ctypes.memset(self._bytes, 0, _PROOF_BYTES)


class _Part(ctypes.Structure):
    """The system's `iovec`."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _View(ctypes.Structure):
    """Python's `Py_buffer`: alone tells where a read-only buffer is."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("object", ctypes.c_void_p),
        ("size", ctypes.c_ssize_t),
        ("rest", ctypes.c_byte * 128),
    )


class PeerMemory:
    """The memory of the process at the other end.

    Args:
        pid: that process.
        told: what its `Gate` tells.
        gate: this side's.

    Raises:
        AttributeError: the system has no such calls.
    """

    def __init__(self, pid: int, told: bytes, gate: Gate) -> None:
        self._pid = pid
        self._gate_address, self._proof = _TOLD.unpack(told)
        self._gate = gate
        self._read, self._write = _LIBRARY.process_vm_readv, _LIBRARY.process_vm_writev
        number, parts = ctypes.c_ulong, ctypes.POINTER(_Part)
        for call in (self._read, self._write):
            call.restype = ctypes.c_ssize_t
            call.argtypes = (ctypes.c_int, parts, number, parts, number, number)

    def check(self) -> None:
        """See that this process may write to it, and that it is who it should be.

        Raises:
            OSError: it has ended, is another, or forbids it, or the system does.
        """
        if self._read_gate()[:_PROOF_BYTES] != self._proof:
            raise OSError(errno.EACCES, "its gate is shut")

    def is_writing(self) -> bool:
        """Say whether it may be amid writing to this process, if it may no more begin to."""
        try:
            gate = self._read_gate()
        except OSError as error:  # that it has ended or has no gate any more is as good as a no
            return error.errno not in (errno.ESRCH, errno.EFAULT)
        return gate[:_PROOF_BYTES] == self._proof and any(gate[_PROOF_BYTES:])

    def write(self, data: memoryview, address: int) -> None:
        """Write there, in two threads, since most of it is the system's finding of pages.

        Raises:
            OSError: as `check`, or there is no such memory.
        """
        view = _View()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
        self._gate.set_writing(True)
        try:
            self.check()  # behind the line above: the system call keeps the two in order
            half = len(data) // 2
            with ThreadPoolExecutor(1) as helper:
                first = helper.submit(self._move, self._write, view.address, address, half)
                rest = len(data) - half
                self._move(self._write, view.address + half, address + half, rest)
                first.result()
        except RuntimeError as error:  # no thread can be started
            raise OSError(errno.EAGAIN, str(error)) from error
        finally:
            self._gate.set_writing(False)
            ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))

    def _read_gate(self) -> bytes:
        found = ctypes.create_string_buffer(_GATE_BYTES)
        self._move(self._read, ctypes.addressof(found), self._gate_address, _GATE_BYTES)
        return found.raw

    def _move(self, call: ctypes._NamedFuncPointer, here: int, there: int, size: int) -> None:
        while size > 0:
            count = call(self._pid, _Part(here, size), 1, _Part(there, size), 1, 0)
            if count <= 0:
                code = ctypes.get_errno() if count < 0 else errno.EFAULT
                raise OSError(code, os.strerror(code))
            here, there, size = here + count, there + count, size - count


def open_peer(pid: int, told: bytes, gate: Gate) -> PeerMemory | None:
    """Return the memory of the process that told this of its gate; None if it is out of reach."""
    if sys.platform != "linux" or len(told) != _TOLD.size:
        return None
    try:
        peer = PeerMemory(pid, told, gate)
        peer.check()
    except (OSError, AttributeError):
        return None
    return peer


class Landing(mmap.mmap):
    """Memory of this process's that one peer may write to, while the gate is open."""

    _gate: Gate | None = None
    """None if the system refused the memory."""
    _peer: PeerMemory

    @classmethod
    def make(cls, size: int, gate: Gate, peer: PeerMemory) -> Landing:
        """Reserve `size` bytes, of which there is memory only where it is used.

        Raises:
            OSError: there is no room, or it would be accounted for whether used or not.
        """
        with open(_OVERCOMMIT, encoding="ascii") as file:
            accounted = file.read().strip() == "2"
        if accounted or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        landing = cls(-1, size, flags=flags)
        landing._gate, landing._peer = gate, peer
        return landing

    @property
    def address(self) -> int:
        """Where it is."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self))

    def __del__(self) -> None:
        if self._gate is None:
            return
        self._gate.shut()  # ahead of the look at the peer's: see `PeerMemory.write`
        if self._peer.is_writing():
            self.madvise(mmap.MADV_DONTNEED)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # stays where it is for ever

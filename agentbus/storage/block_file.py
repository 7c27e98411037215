"""One block of KV as a file: how it is written, and all that is checked before it is believed.

A file is a header (magic, version, length, fingerprint, key, checksum) and the payload. The
checksum is the BLAKE3 of all else, keyed with a secret: a file that was cut, changed by a bit,
written for another model, moved under another name or made by somebody without the secret is told
from a good one. It is written under a name of its own and renamed when it is whole; nothing waits
for the disk, since a file that a crash left behind half written fails its checksum.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
from enum import StrEnum
from pathlib import Path

from blake3 import blake3

from ..kv import KEY_SIZE, BlockKey
from .base import Buffer

__all__ = ["HEADER_BYTES", "TEMPORARY", "BlockFormat", "Rejected", "Rejection"]

_MAGIC = b"ABKV"
_VERSION = 1
_FIELDS = struct.Struct(f"<4sHxxQ{KEY_SIZE}s{KEY_SIZE}s")
"""Magic, version, bytes of payload, fingerprint, key; the checksum follows."""
HEADER_BYTES = _FIELDS.size + KEY_SIZE
TEMPORARY = ".tmp"
"""How the name of a file ends that is not yet whole."""
_FILE_MODE = 0o600


class Rejection(StrEnum):
    """Why a file was not believed."""

    NOT_A_FILE = "not_a_file"
    UNFINISHED = "unfinished"
    SIZE = "size"
    VERSION = "version"
    FINGERPRINT = "fingerprint"
    KEY = "key"
    CHECKSUM = "checksum"
    UNREADABLE = "unreadable"


class Rejected(Exception):
    """A file is no block that may be used."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.value)
        self.reason = reason


class BlockFormat:
    """Reads and writes the files of blocks of one size and fingerprint."""

    __slots__ = ("_block_bytes", "_fingerprint", "_secret", "file_bytes")

    def __init__(self, *, fingerprint: bytes, secret: bytes, block_bytes: int) -> None:
        self._fingerprint = fingerprint
        self._secret = secret
        self._block_bytes = block_bytes
        self.file_bytes = HEADER_BYTES + block_bytes
        """Size of each file."""

    def write(self, path: Path, key: BlockKey, payload: Buffer) -> None:
        """Write a block so that `path` is it, whole, or what it was before.

        Raises:
            OSError: it cannot be written; nothing of it is left.
        """
        fields = self._fields(key)
        header = fields + self._checksum(fields, payload)
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(part, flags, _FILE_MODE), "wb", buffering=0) as file:
                _write_all(file.fileno(), header)
                _write_all(file.fileno(), payload)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def read(self, path: Path, key: BlockKey) -> memoryview:
        """Return the payload of a file that holds this block, whole and unchanged.

        Raises:
            Rejected: it does not.
            FileNotFoundError: there is no such file.
        """
        try:
            data = self._load(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Rejected(Rejection.UNREADABLE) from error
        self._check(data, key)
        return data[HEADER_BYTES:]

    def _load(self, path: Path) -> memoryview:
        """Read a file of exactly the size that it must have; no other is read at all."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Rejected(Rejection.NOT_A_FILE)
            if status.st_size != self.file_bytes:
                raise Rejected(Rejection.SIZE)
            data = memoryview(bytearray(self.file_bytes))
            filled = 0
            while filled < self.file_bytes:
                count = file.readinto(data[filled:])
                if not count:
                    raise Rejected(Rejection.SIZE)
                filled += count
            return data

    def _check(self, data: memoryview, key: BlockKey) -> None:
        magic, version, length, fingerprint, named = _FIELDS.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise Rejected(Rejection.VERSION)
        if length != self._block_bytes:
            raise Rejected(Rejection.SIZE)
        if fingerprint != self._fingerprint:
            raise Rejected(Rejection.FINGERPRINT)
        if named != key.digest:
            raise Rejected(Rejection.KEY)
        checksum = self._checksum(data[: _FIELDS.size], data[HEADER_BYTES:])
        if not secrets.compare_digest(checksum, data[_FIELDS.size : HEADER_BYTES]):
            raise Rejected(Rejection.CHECKSUM)

    def _fields(self, key: BlockKey) -> bytes:
        length = self._block_bytes
        return _FIELDS.pack(_MAGIC, _VERSION, length, self._fingerprint, key.digest)

    def _checksum(self, fields: Buffer, payload: Buffer) -> bytes:
        return blake3(fields, key=self._secret).update(payload).digest()


def _write_all(descriptor: int, data: Buffer) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]

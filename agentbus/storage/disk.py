"""Blocks of KV on a disk: a file each, in a folder that belongs to one process at a time.

What cannot be believed is a miss, is deleted, and is counted; it never fails a call. The folder is
a cache: it may be deleted at any time while nobody uses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, MisuseError
from ..kv import KEY_SIZE, BlockKey
from .base import Buffer, Kept
from .block_file import HEADER_BYTES, TEMPORARY, BlockFormat, Rejected, Rejection

__all__ = ["DiskBlocks", "DiskStats"]

_SUFFIX = ".kv"
_LOCK = "lock"
_FOLDER_MODE = 0o700
_SHARDS = 256
"""Folders within the folder, by the first byte of a key: few files each."""


@dataclass(frozen=True, slots=True)
class DiskStats:
    """What a store holds and did since it was opened."""

    blocks: int
    """Files."""
    bytes: int
    """In these files, headers included."""
    hits: int
    misses: int
    """Blocks asked for that were not there or not believed."""
    stored: int
    evicted: int
    failed: int
    """Blocks that could not be written."""
    rejected: Mapping[Rejection, int]
    """Files that were not believed, and deleted."""


class DiskBlocks:
    """A `BlockStore` in a folder; the least recently used blocks go first. Use `open`."""

    def __init__(self, folder: Path, lock: int, form: BlockFormat, *, max_blocks: int) -> None:
        self._folder = folder
        self._lock = lock
        self._form = form
        self.max_blocks = max_blocks
        """Most blocks that fit."""
        self._held: OrderedDict[BlockKey, None] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[Rejection] = Counter()

    @classmethod
    def open(
        cls, folder: Path, *, fingerprint: bytes, secret: bytes, block_bytes: int, max_bytes: int
    ) -> DiskBlocks:
        """Open a folder, or make it, and take over the blocks that are there.

        Args:
            folder: only this user can enter it afterwards.
            fingerprint: of all that shapes KV but tokens and tenant; blocks of another are misses.
            secret: `KEY_SIZE` bytes that key the checksums; files made without it are misses.
            block_bytes: size of each block.
            max_bytes: most bytes in all files.

        Raises:
            ConfigError: the folder cannot be used, or another engine uses it, or no block fits.
            MisuseError: fingerprint or secret are of another size.
        """
        if not len(fingerprint) == len(secret) == KEY_SIZE:
            raise MisuseError(f"fingerprint and secret of a store are {KEY_SIZE} bytes each")
        form = BlockFormat(fingerprint=fingerprint, secret=secret, block_bytes=block_bytes)
        if block_bytes <= 0 or max_bytes < form.file_bytes:
            problem = f"{max_bytes} bytes hold no block, which takes {form.file_bytes}"
            raise ConfigError("kv folder", problem)
        try:
            store = cls(folder, _enter(folder), form, max_blocks=max_bytes // form.file_bytes)
            try:
                store._take_over()
            except BaseException:
                store.close()
                raise
        except OSError as error:
            problem = f"{folder} cannot be used ({error.strerror})"
            raise ConfigError("kv folder", problem) from error
        return store

    def get(self, key: BlockKey) -> Buffer | None:
        """Return a block, or None where it is not held, whole and unchanged."""
        path = self._path(key)
        try:
            payload = self._form.read(path, key)
        except FileNotFoundError:
            self._held.pop(key, None)
        except Rejected as rejected:
            self._held.pop(key, None)
            self._reject(path, rejected.reason)
        else:
            self._counts["hits"] += 1
            self._held[key] = None
            self._held.move_to_end(key)
            with contextlib.suppress(OSError):
                os.utime(path)  # the order of use outlives the process
            return payload
        self._counts["misses"] += 1
        return None

    def put(self, key: BlockKey, payload: Buffer) -> Kept:
        """Keep a copy of a block."""
        if len(payload) != self._form.file_bytes - HEADER_BYTES:
            raise MisuseError(f"a block of {len(payload)} bytes is not of this store's size")
        evicted = []
        self._held.pop(key, None)
        while len(self._held) >= self.max_blocks:
            oldest = next(iter(self._held))
            self.remove(oldest)
            evicted.append(oldest)
        self._counts["evicted"] += len(evicted)
        try:
            self._form.write(self._path(key), key, payload)
        except OSError:
            self._counts["failed"] += 1
            self.remove(key)
            return Kept(False, tuple(evicted))
        self._counts["stored"] += 1
        self._held[key] = None
        return Kept(True, tuple(evicted))

    def remove(self, key: BlockKey) -> None:
        """Let go of a block, if it is held."""
        self._held.pop(key, None)
        _delete(self._path(key))

    def keys(self) -> Sequence[BlockKey]:
        """Return what is held, least recently used first; it is believed only when it is read."""
        return list(self._held)

    def stats(self) -> DiskStats:
        """Return what is held, and what was done since the store was opened."""
        blocks = len(self._held)
        names = ("hits", "misses", "stored", "evicted", "failed")
        counts = {name: self._counts[name] for name in names}
        return DiskStats(
            blocks=blocks,
            bytes=blocks * self._form.file_bytes,
            rejected=dict(self._rejected),
            **counts,
        )

    def close(self) -> None:
        """Let another process use the folder."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _path(self, key: BlockKey) -> Path:
        name = key.digest.hex()
        return self._folder / name[:2] / (name + _SUFFIX)

    def _reject(self, path: Path, reason: Rejection) -> None:
        self._rejected[reason] += 1
        _delete(path)

    def _take_over(self) -> None:
        """List what is there; delete what cannot be a block, such as what a crash cut short."""
        found: list[tuple[int, BlockKey]] = []
        for shard in range(_SHARDS):
            folder = self._folder / f"{shard:02x}"
            with contextlib.suppress(FileNotFoundError):
                for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                    self._take(entry, found)
        found.sort(key=lambda item: item[0])
        self._held.update((key, None) for _, key in found)
        for key in list(self._held)[: max(0, len(found) - self.max_blocks)]:
            self.remove(key)
            self._counts["evicted"] += 1

    def _take(self, entry: os.DirEntry[str], found: list[tuple[int, BlockKey]]) -> None:
        path = Path(entry.path)
        key = _key_of(entry.name)
        if entry.name.endswith(TEMPORARY):
            self._reject(path, Rejection.UNFINISHED)
        elif key is None or self._path(key) != path:
            self._reject(path, Rejection.KEY)
        elif not entry.is_file(follow_symlinks=False):
            self._reject(path, Rejection.NOT_A_FILE)
        elif entry.stat(follow_symlinks=False).st_size != self._form.file_bytes:
            self._reject(path, Rejection.SIZE)
        else:
            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, key))


def _enter(folder: Path) -> int:
    """Make a folder and its shards, for this user alone; return the lock that it is held by."""
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    folder.chmod(_FOLDER_MODE)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for shard in range(_SHARDS):
            part = folder / f"{shard:02x}"
            part.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            if part.is_symlink():
                raise OSError(errno.ENOTDIR, "there is a link where a folder should be")
    except BlockingIOError as error:
        os.close(lock)
        raise OSError(
            error.errno, "another engine uses it; each needs a folder of its own"
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _key_of(name: str) -> BlockKey | None:
    stem = name.removesuffix(_SUFFIX)
    try:
        return BlockKey(bytes.fromhex(stem)) if name != stem else None
    except (ValueError, MisuseError):
        return None


def _delete(path: Path) -> None:
    """Delete a file; what stands there instead of one, or cannot be deleted, stays a miss."""
    with contextlib.suppress(OSError):
        path.unlink()

"""What filters delivered, in one SQLite file: so that prompts are the same after a restart.

The file is a cache, of its user's alone: without it contexts are filtered anew, and what a model's
KV tiers hold of the old prompts is not met. A damaged decision is none. The oldest decisions make
room for new ones.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import msgpack
from blake3 import blake3

from ..context import Decision
from ..errors import ConfigError

__all__ = ["MAX_DECISIONS", "DeliveryFile"]

MAX_DECISIONS = 1_000_000
"""Decisions that a file keeps; each takes about 100 bytes, and the text where that was changed."""
_VERSION = 2
_CHECK = 8
"""Bytes before each decision by which damage is found."""
_SLACK = 1000
"""Decisions over `MAX_DECISIONS` before the oldest are deleted, many at once."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    place INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, decision BLOB NOT NULL
) STRICT
"""


class DeliveryFile:
    """A `Book` of the filters in a file. Not for two processes at a time. Use `open`."""

    def __init__(self, connection: apsw.Connection, max_decisions: int) -> None:
        self._connection = connection
        self._max = max_decisions
        self._count: int = self._one("SELECT count(*) FROM decisions") or 0

    @classmethod
    def open(cls, path: Path, *, max_decisions: int = MAX_DECISIONS) -> DeliveryFile:
        """Open a file, or make it for this user alone.

        Raises:
            ConfigError: it cannot be used, is something else, is used by another process, or others
                may read or write it.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(path, flags, 0o600)
            status = os.fstat(file)
            os.close(file)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError("deliveries", f"{path} is not this user's alone")
            connection = apsw.Connection(str(path))
            _prepare(connection)
            return cls(connection, max_decisions)
        except (OSError, ValueError, apsw.Error) as error:
            raise ConfigError("deliveries", f"{path} cannot be used ({error})") from error

    def get(self, root: bytes, view: bytes) -> Decision | None:
        """Return what was decided on the last segment of a context; None if that is not known."""
        key = root + view
        try:
            # damage may make a text of it, even one that cannot be decoded
            row = self._one("SELECT CAST(decision AS BLOB) FROM decisions WHERE key = ?", key)
        except apsw.Error:
            return None
        return None if row is None else _unpacked(key, row)

    def put(self, root: bytes, view: bytes, decision: Decision) -> None:
        """Keep a decision, unless the disk cannot. What is kept already stays as it is."""
        key = root + view
        with suppress(apsw.Error):
            added = "INSERT OR IGNORE INTO decisions (key, decision) VALUES (?, ?)"
            self._connection.execute(added, (key, _packed(key, decision)))
            self._count += self._connection.changes()
            if self._count > self._max + _SLACK:
                self._shrink()

    def _shrink(self) -> None:
        oldest = "SELECT place FROM decisions ORDER BY place LIMIT ?"
        delete = f"DELETE FROM decisions WHERE place IN ({oldest})"
        self._connection.execute(delete, (self._count - self._max,))
        self._count -= self._connection.changes()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _one(self, query: str, *values: Any) -> Any:
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]


def _prepare(connection: apsw.Connection) -> None:
    """Take the file for this process, and make what it holds."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # the latest may be lost: it is a cache
    version = connection.pragma("user_version")
    if version not in (0, _VERSION):
        raise ValueError(f"it is of version {version}")
    connection.execute(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _packed(key: bytes, decision: Decision) -> bytes:
    row: bytes = msgpack.packb([getattr(decision, name) for name in Decision.__slots__])
    return _check(key, row) + row


def _check(key: bytes, row: bytes) -> bytes:
    """Return what tells whether a row is still as it was written: SQLite itself does not."""
    return blake3(key + row).digest(_CHECK)


def _unpacked(key: bytes, checked: bytes) -> Decision | None:
    """Read a decision; None if the file holds something else in its place."""
    check, row = checked[:_CHECK], checked[_CHECK:]
    if check != _check(key, row):
        return None
    text, filters, why, sent, delivered, left_out = msgpack.unpackb(row)
    ranges = tuple((first, last) for first, last in left_out)
    return Decision(text, filters, why, sent, delivered, ranges)

"""A blackboard: a place where agents write entries by key and watch what others write.

After B. Hayes-Roth, "A Blackboard Architecture for Control" (1985): specialists act when what they
wait for appears, none calls another by name.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..client import Agent, Call, handler
from ..errors import ConfigError
from ..names import check_topic

__all__ = ["Blackboard", "Entry", "Read", "Write"]


class Entry(BaseModel):
    """What stands under a key. `version` counts its writes from 1; 0 is nothing yet."""

    key: str
    value: Any = None
    version: int = 0
    author: str = ""


class Write(BaseModel):
    """Put a value under a key, a dotted name. With `expected`, only over that version."""

    key: str
    value: Any = None
    expected: int | None = None


class Read(BaseModel):
    """Ask for the entry under a key."""

    key: str


class Blackboard(Agent):
    """Keeps entries, and publishes each write on the topic `<its own name>.<key>`.

    Spawn it under a name; others write and read by `Write` and `Read`, and watch by
    `bus.subscribe("<name>.>", types=(Entry,))`. It keeps `limit` keys at most.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._entries: dict[str, Entry] = {}
        self._limit = limit

    @handler
    async def write(self, write: Write, call: Call) -> Entry:
        """Put a value; answers with the entry as it then is, which is another one's if it lost."""
        check_topic(write.key)
        present = self._entries.get(write.key, Entry(key=write.key))
        if write.expected is not None and write.expected != present.version:
            return present
        if present.version == 0 and len(self._entries) >= self._limit:
            raise ConfigError("blackboard", f"holds {self._limit} keys already")
        entry = Entry(
            key=write.key, value=write.value, version=present.version + 1, author=call.source
        )
        self._entries[write.key] = entry
        await call.publish(f"{self.name}.{write.key}", entry)
        return entry

    @handler
    async def read(self, read: Read, call: Call) -> Entry:
        """Answer with the entry; version 0 says that nothing was written."""
        return self._entries.get(read.key, Entry(key=read.key))

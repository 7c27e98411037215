"""A book that keeps decisions in memory."""

from __future__ import annotations

from agentbus.context import Decision


class Memory:
    """A book in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, bytes], Decision] = {}

    def get(self, root: bytes, view: bytes) -> Decision | None:
        return self.rows.get((root, view))

    def put(self, root: bytes, view: bytes, decision: Decision) -> None:
        self.rows.setdefault((root, view), decision)

    def close(self) -> None:
        pass

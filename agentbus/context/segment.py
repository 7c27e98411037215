"""Segments and contexts: immutable values, named by what they hold.

A segment's digest is the BLAKE3 of its canonical form under the tenant's key, so that equal text
of two tenants has two names. A context is a chain of segments; its *logical root* hashes the
parent's root with the appended segment's digest, so that a root names the whole chain.
Storing and shipping contexts is the business of `resolve` and `delta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import msgpack
from blake3 import blake3

from ..errors import InvalidMessage

__all__ = ["DIGEST_SIZE", "Context", "Segment", "SegmentKind", "TenantKey"]

DIGEST_SIZE = 32


class SegmentKind(StrEnum):
    """What a segment is in the conversation. Layouts place each kind."""

    ROLE = "role"
    """An agent's standing instructions; `author` is the agent they are for."""
    DOCUMENT = "document"
    """Material that all may read."""
    USER = "user"
    """Said by the user, or by a program on the user's behalf."""
    ASK = "ask"
    """What the next speaker is asked to do."""
    MESSAGE = "message"
    """Said by the agent named in `author`."""
    SUMMARY = "summary"
    """Stands for a stretch of what was said; `refers` is the root of the context summed up."""
    TOOLS = "tools"
    """Tool schemas, as a canonical JSON list; `author` is the agent that may call them, or empty
    if all may."""
    TOOL_CALL = "tool_call"
    """What the agent named in `author` asked of a tool."""
    TOOL_RESULT = "tool_result"
    """What the tool named in `author` gave back."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One immutable piece of context."""

    kind: SegmentKind
    author: str
    text: str
    digest: bytes = field(repr=False)
    refers: bytes = field(default=b"", repr=False)
    """Empty, or 32 bytes: of a summary, the root that it stands for; of all other kinds, the
    digest of the earlier segment that this one replaces."""


@dataclass(frozen=True, slots=True)
class TenantKey:
    """Names segments and contexts for one tenant. `key` is 32 bytes, kept by the daemon."""

    key: bytes = field(default=bytes(32), repr=False)

    def segment(self, kind: SegmentKind, author: str, text: str, *, refers: bytes = b"") -> Segment:
        """Make a segment under this key. `refers` counts in its name only if there is one.

        Raises:
            InvalidMessage: author or text cannot be written as UTF-8, or `refers` is neither empty
                nor as long as a digest.
        """
        if refers and len(refers) != DIGEST_SIZE:
            raise InvalidMessage("context", f"refers to {len(refers)} bytes, which name nothing")
        fields = [kind.value, author, text, refers] if refers else [kind.value, author, text]
        try:
            canonical = msgpack.packb(fields)
        except UnicodeEncodeError as error:
            raise InvalidMessage("context", f"holds half a character: {error.reason}") from error
        return Segment(kind, author, text, blake3(canonical, key=self.key).digest(), refers)

    def root(self, parent: bytes, digest: bytes) -> bytes:
        """Name the context that appending segment `digest` to context `parent` gives."""
        return blake3(parent + digest, key=self.key).digest()

    def empty(self) -> Context:
        """Return the context that nothing was said in."""
        return Context(self, None, None, bytes(DIGEST_SIZE), 0)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A chain of segments, as a value: appending gives a new one, forking is free."""

    tenant: TenantKey = field(repr=False)
    parent: Context | None = field(repr=False)
    last: Segment | None = field(repr=False)
    root: bytes
    length: int

    def append(self, segment: Segment) -> Context:
        """Return this context with `segment` at its end."""
        root = self.tenant.root(self.root, segment.digest)
        return Context(self.tenant, self, segment, root, self.length + 1)

    def add(self, kind: SegmentKind, author: str, text: str, *, refers: bytes = b"") -> Context:
        """Return this context with a new segment at its end."""
        return self.append(self.tenant.segment(kind, author, text, refers=refers))

    def role(self, agent: str, text: str) -> Context:
        """Append the standing instructions of `agent`."""
        return self.add(SegmentKind.ROLE, agent, text)

    def document(self, text: str, *, name: str = "document") -> Context:
        """Append material that all may read."""
        return self.add(SegmentKind.DOCUMENT, name, text)

    def user(self, text: str) -> Context:
        """Append what the user said."""
        return self.add(SegmentKind.USER, "user", text)

    def ask(self, text: str, *, author: str = "user") -> Context:
        """Append what the next speaker is asked to do."""
        return self.add(SegmentKind.ASK, author, text)

    def message(self, agent: str, text: str) -> Context:
        """Append what `agent` said."""
        return self.add(SegmentKind.MESSAGE, agent, text)

    def summary(self, text: str, *, of: Context, author: str = "summary") -> Context:
        """Append a text that stands for what was said in the context `of`."""
        return self.add(SegmentKind.SUMMARY, author, text, refers=of.root)

    def tools(self, schemas: str, *, agent: str = "") -> Context:
        """Append tool schemas, a canonical JSON list, that `agent` may call; all may, if empty."""
        return self.add(SegmentKind.TOOLS, agent, schemas)

    def tool_call(self, agent: str, text: str) -> Context:
        """Append what `agent` asked of a tool."""
        return self.add(SegmentKind.TOOL_CALL, agent, text)

    def tool_result(self, tool: str, text: str) -> Context:
        """Append what a tool gave back."""
        return self.add(SegmentKind.TOOL_RESULT, tool, text)

    def ancestors(self) -> Iterator[Context]:
        """Yield this context, then each that it was made from, down to the empty one."""
        node: Context | None = self
        while node is not None:
            yield node
            node = node.parent

    def segments(self) -> list[Segment]:
        """Return the segments in the order in which they were said."""
        found = [node.last for node in self.ancestors() if node.last is not None]
        found.reverse()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __len__(self) -> int:
        return self.length

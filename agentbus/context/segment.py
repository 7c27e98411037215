"""Segments and contexts: immutable values, named by what they hold.

A segment's digest is the BLAKE3 of its canonical form under the tenant's key, so that equal text
of two tenants has two names. A context is a chain of segments; its *logical root* hashes the
parent's root with the appended segment's digest, so that a root names the whole chain.
Storing and shipping contexts is the business of `resolve` and `delta`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from blake3 import blake3

from ..errors import InvalidMessage, MisuseError
from .excerpt import SEARCH_LIMIT, Fetched, Searched
from .fetch import fetched, look_up, searched
from .kind import SegmentKind
from .tools import canonical_tools

__all__ = ["DIGEST_SIZE", "Context", "Segment", "SegmentKind", "TenantKey"]

DIGEST_SIZE = 32


_STANDING = frozenset(
    {
        SegmentKind.ROLE,
        SegmentKind.PRIVATE_ROLE,
        SegmentKind.DOCUMENT,
        SegmentKind.TOOLS,
        SegmentKind.NOTE,
    }
)
"""What a conversation is about, and not a part of it: no summary takes its place."""


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

    @property
    def replaces(self) -> bytes:
        """The digest of the earlier segment that this one replaces; empty if it replaces none."""
        return b"" if self.kind is SegmentKind.SUMMARY else self.refers

    @property
    def is_said(self) -> bool:
        """It is a part of the conversation, as roles, documents and tool schemas are not."""
        return self.kind not in _STANDING


@dataclass(frozen=True, slots=True)
class TenantKey:
    """Names segments and contexts for one tenant. `key` is 32 bytes, kept by the daemon."""

    key: bytes = field(default=bytes(32), repr=False)

    def segment(self, kind: SegmentKind, author: str, text: str, *, refers: bytes = b"") -> Segment:
        """Make a segment under this key. `refers` counts in its name only if there is one.

        Raises:
            InvalidMessage: author or text is no text, or cannot be written as UTF-8, or `refers`
                is neither empty nor as long as a digest.
        """
        if not (isinstance(author, str) and isinstance(text, str)):
            wrong = text if isinstance(author, str) else author
            raise InvalidMessage("context", f"is made of text, not of {type(wrong).__name__}")
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

    def __repr__(self) -> str:
        return f"Context({self.root.hex()[:12]}…, length={self.length})"

    def append(self, segment: Segment) -> Context:
        """Return this context with `segment` at its end."""
        root = self.tenant.root(self.root, segment.digest)
        return Context(self.tenant, self, segment, root, self.length + 1)

    def add(self, kind: SegmentKind, author: str, text: str, *, refers: bytes = b"") -> Context:
        """Return this context with a new segment at its end."""
        return self.append(self.tenant.segment(kind, author, text, refers=refers))

    def role(self, agent: str, text: str, *, private: bool = False) -> Context:
        """Append the standing instructions of `agent`; private ones no other agent's model reads.

        A private role still travels with the context to whoever is sent it.
        """
        return self.add(SegmentKind.PRIVATE_ROLE if private else SegmentKind.ROLE, agent, text)

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

    def tools(
        self, schemas: str | bytes | Sequence[Mapping[str, Any]], *, agent: str = ""
    ) -> Context:
        """Append schemas of tools, as `canonical_tools` takes and writes them.

        `agent` may call them; all may, if it is empty.

        Raises:
            ToolSchemaError: they are not JSON, or no list of tools.
        """
        return self.add(SegmentKind.TOOLS, agent, canonical_tools(schemas))

    def tool_call(self, agent: str, text: str) -> Context:
        """Append what `agent` asked of a tool."""
        return self.add(SegmentKind.TOOL_CALL, agent, text)

    def tool_result(self, tool: str, text: str) -> Context:
        """Append what a tool gave back."""
        return self.add(SegmentKind.TOOL_RESULT, tool, text)

    def note(self, text: str, *, author: str = "") -> Context:
        """Append what programs keep with the context, and no model reads."""
        return self.add(SegmentKind.NOTE, author, text)

    def supersede(self, earlier: Segment, text: str) -> Context:
        """Append a text that replaces that of an earlier segment, under its kind and author.

        What was read stays as it was, so that its KV stays good: the earlier segment keeps its
        place, and the new one refers to it, until `compacted` makes a new beginning without it.

        Raises:
            MisuseError: this context does not hold the earlier segment, or that is a summary,
                whose reference is taken: sum up again instead.
            ToolSchemaError: tools are to be replaced by what is no list of tools.
        """
        if earlier.kind is SegmentKind.SUMMARY:
            raise MisuseError("a summary is not superseded: sum up again")
        if all(node.last != earlier for node in self.ancestors()):
            raise MisuseError("what is to be superseded is not in this context")
        if earlier.kind is SegmentKind.TOOLS:
            text = canonical_tools(text)
        return self.add(earlier.kind, earlier.author, text, refers=earlier.digest)

    def compacted(self) -> Context:
        """Return a context without what was superseded: a new epoch, whose readers read it anew.

        A segment that replaces another takes that one's place, so a new role or document stands
        where the old one stood. Two that replace the same one, said in branches that were joined,
        both stay, in their order. A context in which nothing was superseded is returned as it is.
        """
        segments = self.segments()
        superseded = {segment.replaces for segment in segments}
        places: list[list[Segment]] = []
        by_digest: dict[bytes, list[Segment]] = {}
        for segment in segments:
            place = by_digest.get(segment.replaces)
            if place is None:
                place = []
                places.append(place)
            by_digest.setdefault(segment.digest, place)
            if segment.digest not in superseded:
                place.append(segment)
        return self._rebuilt([segment for place in places for segment in place])

    def older(self, keep: int) -> Context:
        """Return the beginning of this context, but for the last `keep` segments that were said.

        It ends with a segment that was said; roles, documents and tool schemas are not counted. It
        is empty if no more than `keep` were said.
        """
        if keep < 0:
            raise MisuseError(f"a context keeps 0 segments or more, not {keep}")
        node: Context | None = self
        while node is not None and node.last is not None:
            if node.last.is_said:
                if keep == 0:
                    return node
                keep -= 1
            node = node.parent
        return self.tenant.empty()

    def summarize(self, text: str, *, keep: int) -> Context:
        """Return a context in which `text` stands for what was said, but for the last `keep`.

        Roles, documents and tool schemas stay, in their order; the summary stands where what it
        sums up ended, and refers to the root of `older(keep)`, so that the whole can be had by
        reference for as long as somebody keeps it (`ContextStore.retain`). A summary is something
        said: the next one takes it in, and refers to the context that it stood in.

        Raises:
            MisuseError: no more than `keep` segments were said: there is nothing to sum up.
        """
        summed = self.older(keep)
        if summed.last is None:
            raise MisuseError(f"there is nothing to sum up beside the last {keep} that were said")
        segments = self.segments()
        before, after = segments[: summed.length], segments[summed.length :]
        standing = [segment for segment in before if not segment.is_said]
        summary = self.tenant.segment(SegmentKind.SUMMARY, "summary", text, refers=summed.root)
        return self._rebuilt([*standing, summary, *after])

    def join(self, branches: Iterable[Context]) -> Context:
        """Return this context, and behind it what each of the branches has of its own, in order.

        A branch's own is what it has beyond the beginning that this context and all branches share.
        What an earlier one has brought is not repeated: each segment stands there as often as in
        the branch that has it most often. So the order is the caller's, and joining a branch again
        changes nothing.

        Raises:
            MisuseError: a branch belongs to another tenant.
        """
        others = list(branches)
        if any(other.tenant != self.tenant for other in others):
            raise MisuseError("contexts of two tenants cannot be joined")
        common = self
        for other in others:
            common = common.common_ancestor(other)
        joined = self
        brought = Counter(segment.digest for segment in self._beyond(common))
        for other in others:
            own: Counter[bytes] = Counter()
            for segment in other._beyond(common):
                own[segment.digest] += 1
                if own[segment.digest] > brought[segment.digest]:
                    joined = joined.append(segment)
            brought |= own
        return joined

    def common_ancestor(self, other: Context) -> Context:
        """Return the longest beginning that both contexts have."""
        one, two = self, other
        while one.root != two.root:
            longer = one if one.length >= two.length else two
            if longer.parent is None:
                break
            if longer is one:
                one = longer.parent
            else:
                two = longer.parent
        return one

    def fetch(
        self,
        ref: str,
        *,
        reader: str = "",
        lines: tuple[int, int] | None = None,
        characters: tuple[int, int] | None = None,
    ) -> Fetched:
        """Return the text of a segment, as it was said, or a part of it.

        `ref` is what a mark in a prompt names, such as `ctx:ab12cd34` (`reference`). A range is
        its first and its last, counted from 1 in the whole text; what is beyond the end is not
        given. `reader` is the agent that it is for: private roles of others, and notes, are
        forbidden, as no layout shows them to its model either.

        Raises:
            MisuseError: what is asked for is no range.
        """
        return fetched(look_up(self, ref, reader), lines, characters)

    def search(
        self, ref: str, query: str, *, reader: str = "", limit: int = SEARCH_LIMIT
    ) -> Searched:
        """Return the first `limit` lines of a segment's text that hold all words of `query`.

        Words stand anywhere in a line, in capital letters or not. Otherwise as `fetch`.

        Raises:
            MisuseError: there are no words or too many (`SEARCH_WORDS`), or the limit is not from 1
                to `SEARCH_LINES`.
        """
        return searched(look_up(self, ref, reader), query, limit)

    def _beyond(self, beginning: Context) -> list[Segment]:
        """Return the segments behind a beginning of this context."""
        found: list[Segment] = []
        node = self
        while node.length > beginning.length and node.parent is not None and node.last is not None:
            found.append(node.last)
            node = node.parent
        found.reverse()
        return found

    def _rebuilt(self, segments: list[Segment]) -> Context:
        """Return the context of these segments, which shares with this one what both begin with."""
        same = 0
        for mine, wanted in zip(self.segments(), segments, strict=False):
            if mine.digest != wanted.digest:
                break
            same += 1
        node = self
        while node.length > same and node.parent is not None:
            node = node.parent
        for segment in segments[same:]:
            node = node.append(segment)
        return node

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

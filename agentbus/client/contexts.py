"""Contexts by reference across links: what to send, what to ask for, what to answer.

A message carries its context's root and the segments that its receiver is not known to hold. An
engine is taken to hold also what this process got from other agents, since it most likely wrote
it. A receiver that lacks something asks for it: WANT and HAVE. One that has forgotten the end of a
context says how much of its beginning it still holds. One that never had it gets first what it is
not known to hold, and then, if that was not all, the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import BusSettings
from ..context import (
    CHECK_SIZE,
    Context,
    ContextStore,
    Delta,
    HeldRoots,
    KnownRoots,
    SegmentKind,
    TenantKey,
    delta_for,
    pack,
    unpack,
)
from ..errors import UnknownContext
from ..messages import Envelope, Kind

__all__ = ["REPLY_WAITS", "ContextExchange", "PeerContexts"]

_KNOWN_ROOTS = 65536
"""Roots remembered for each peer; forgetting one costs a round trip, never correctness."""
_HELD = 1024
"""Messages of one peer that may wait for their context."""
REPLY_WAITS = "r"
"""Schema of the WANT and HAVE for a reply; those for a request have none."""


@dataclass(slots=True)
class PeerContexts:
    """What one peer is known to hold, and which of its messages wait for a context."""

    known: KnownRoots = field(default_factory=lambda: KnownRoots(_KNOWN_ROOTS))
    assumed: KnownRoots = field(default_factory=lambda: KnownRoots(_KNOWN_ROOTS))
    """Roots that a message or a summary in it referred to; the peer may ask for these too."""
    told: KnownRoots = field(default_factory=lambda: KnownRoots(_KNOWN_ROOTS))
    """Roots that the peer's summaries referred to, which it can be asked for in turn."""
    waiting: dict[tuple[Kind, int], Envelope] = field(default_factory=dict)
    asked_again: set[tuple[Kind, int]] = field(default_factory=set)
    tell_taken: set[int] = field(default_factory=set)
    """Requests among those that wait, of which the peer wants to be told when they were taken."""
    leased: dict[int, bytes] = field(default_factory=dict)
    """The roots of the contexts of requests that are under way to the peer, which may ask for them."""

    def forget(self, kind: Kind, number: int) -> None:
        """The request or reply of that number waits for its context no longer."""
        self.waiting.pop((kind, number), None)
        self.asked_again.discard((kind, number))
        if kind is Kind.REQUEST:
            self.tell_taken.discard(number)


class _Either:
    """Roots in one set or the other."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: KnownRoots, second: KnownRoots) -> None:
        self._first = first
        self._second = second

    def __contains__(self, root: bytes) -> bool:
        return root in self._first or root in self._second


class _Without:
    """Roots in a set, but for one that turned out not to be held."""

    __slots__ = ("_known", "_root")

    def __init__(self, known: KnownRoots, root: bytes) -> None:
        self._known = known
        self._root = root

    def __contains__(self, root: bytes) -> bool:
        return root != self._root and root in self._known


class _Begun:
    """The one root that begins with what a WANT said; empty means none.

    Should another one begin so too, the receiver cannot resolve what it gets, and asks again.
    """

    __slots__ = ("_beginning",)

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning

    def __contains__(self, root: bytes) -> bool:
        return bool(self._beginning) and root.startswith(self._beginning)


class ContextExchange:
    """The contexts of this process, and their traffic."""

    def __init__(self, settings: BusSettings, tenant: TenantKey) -> None:
        self._limits = settings.limits
        self._tenant = tenant
        self._received = KnownRoots(_KNOWN_ROOTS)
        self.store = ContextStore(settings.context_bytes)

    def outgoing(self, peer: PeerContexts, context: Context | None, *, engine: bool) -> bytes:
        """Write a context for a peer: its root, and what the peer is not taken to hold.

        `engine` says that the peer's agent runs a model for the team.
        """
        if context is None:
            return b""
        held = _Either(peer.known, self._received) if engine else peer.known
        delta = delta_for(context, held)
        packed = pack(delta, self._limits)
        self.store.add(context)
        peer.assumed.add(delta.base)
        for segment in delta.segments:
            if segment.kind is SegmentKind.SUMMARY:
                peer.assumed.add(segment.refers)
        peer.known.add(context.root)
        return packed

    def remember(self, peer: PeerContexts | None, context: Context) -> None:
        """Note that a peer holds `context`, as this process does."""
        self.store.add(context)
        if peer is not None:
            peer.known.add(context.root)

    def lease(self, peer: PeerContexts, number: int, context: Context) -> None:
        """Keep the context of a request that was sent until it has ended: the peer may ask for it."""
        self.store.lease(context)
        peer.leased[number] = context.root

    def end_lease(self, peer: PeerContexts, number: int) -> None:
        """The request of that number has ended; it may have had no context."""
        root = peer.leased.pop(number, None)
        if root is not None:
            self.store.end_lease(root)

    def incoming(self, peer: PeerContexts, envelope: Envelope) -> Context | Envelope:
        """Return the context that came with a message, or the WANT that asks for the rest of it.

        Raises:
            MalformedFrame: the bytes are no context.
            UnknownContext: the peer was asked already, or too many messages wait.
        """
        delta = unpack(envelope.context, self._limits, self._tenant)
        context = self._resolve(peer, delta)
        if context is not None:
            peer.known.add(context.root)
            self._received.add(context.root)
            return context
        key = (envelope.kind, envelope.id)
        if key in peer.waiting or len(peer.waiting) >= _HELD:
            raise UnknownContext(delta.base.hex())
        peer.waiting[key] = envelope
        held = self.store.beginning(delta.base)
        if held is None:
            return _want(envelope, delta.base)
        return _want(envelope, delta.base, self._short(held))

    def held(self, peer: PeerContexts, envelope: Envelope) -> Context:
        """Return the context that came with a message, if nothing of it has to be asked for.

        Raises:
            MalformedFrame: the bytes are no context.
            UnknownContext: this process lacks a part of it.
        """
        delta = unpack(envelope.context, self._limits, self._tenant)
        context = self._resolve(peer, delta)
        if context is None:
            raise UnknownContext(delta.base.hex())
        peer.known.add(context.root)
        return context

    def answer(self, peer: PeerContexts, want: Envelope) -> Envelope:
        """Return the HAVE for a WANT: a context that this process named on the link.

        It is empty if the context was never named there, or is no longer kept here.

        Raises:
            TooLarge, InvalidMessage: the context is more than one message can bring.
        """
        root = bytes(want.payloads[0]) if want.payloads else b""
        named = root in peer.known or root in peer.assumed
        context = self.store.get(root) if named else None
        if context is None:
            return self.nothing(want)
        held: HeldRoots = _Without(peer.known, root)
        if len(want.payloads) > 1:
            held = _Begun(bytes(want.payloads[1]))
        packed = pack(delta_for(context, held), self._limits)
        return Envelope(Kind.HAVE, want.id, schema=want.schema, context=packed)

    def find(self, peer: PeerContexts, root: bytes) -> Context:
        """Return a context that was referred to on the link.

        Raises:
            UnknownContext: it was not, or is not kept here any more.
        """
        if not self.was_referred_to(peer, root):
            raise UnknownContext(root.hex())
        return self.store.find(root)

    def was_referred_to(self, peer: PeerContexts, root: bytes) -> bool:
        """Say whether this process named a context to the peer, or a summary that stands for it."""
        return root in peer.known or root in peer.assumed

    def nothing(self, want: Envelope) -> Envelope:
        """Return the HAVE that says that the context cannot be had here."""
        return Envelope(Kind.HAVE, want.id, schema=want.schema)

    def waiting_for(self, peer: PeerContexts, have: Envelope) -> Envelope | None:
        """Return the message that waits for this HAVE. It goes on waiting until forgotten."""
        kind = Kind.REPLY if have.schema == REPLY_WAITS else Kind.REQUEST
        return peer.waiting.get((kind, have.id))

    def learn(self, peer: PeerContexts, have: Envelope, waiting: Envelope) -> Context | Envelope:
        """Return the context that a HAVE brings, or the WANT for the rest if it is not enough.

        Raises:
            MalformedFrame: the bytes are no context.
            UnknownContext: the peer does not hold it either.
        """
        if not have.context:
            raise UnknownContext("")
        delta = unpack(have.context, self._limits, self._tenant)
        context = self._resolve(peer, delta)
        if context is not None:
            return context
        key = (waiting.kind, waiting.id)
        if delta.base == self._tenant.empty().root or key in peer.asked_again:
            raise UnknownContext(delta.base.hex())
        peer.asked_again.add(key)
        root = unpack(waiting.context, self._limits, self._tenant).base
        held = self.store.beginning(delta.base)
        return _want(waiting, root, b"" if held is None else self._short(held))

    def _resolve(self, peer: PeerContexts, delta: Delta) -> Context | None:
        for segment in delta.segments:
            if segment.kind is SegmentKind.SUMMARY:
                peer.told.add(segment.refers)
        return self.store.resolve(delta)

    def _short(self, root: bytes) -> bytes:
        """Return how a WANT names the beginning that is held: empty if it is nothing."""
        return b"" if root == self._tenant.empty().root else root[:CHECK_SIZE]


def _want(waiting: Envelope, *payloads: bytes) -> Envelope:
    """Return what asks for the context of a message that waits."""
    schema = REPLY_WAITS if waiting.kind is Kind.REPLY else ""
    return Envelope(Kind.WANT, waiting.id, schema=schema, payloads=payloads)

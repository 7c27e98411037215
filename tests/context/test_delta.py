"""Contexts by reference: deltas as bytes, and two peers that exchange them."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.config import Limits
from agentbus.context import (
    CHECK_SIZE,
    DIGEST_SIZE,
    Context,
    ContextStore,
    Delta,
    KnownRoots,
    SegmentKind,
    TenantKey,
    delta_for,
    pack,
    unpack,
)
from agentbus.errors import (
    InvalidMessage,
    MalformedFrame,
    MisuseError,
    TooLarge,
    UnknownContext,
)

TENANT = TenantKey(b"t" * 32)
EMPTY = TENANT.empty()
LIMITS = Limits()


def known(*contexts: Context) -> KnownRoots:
    roots = KnownRoots(64)
    for context in contexts:
        roots.add(context.root)
    return roots


def test_a_delta_begins_at_the_latest_context_that_the_peer_holds() -> None:
    one = EMPTY.user("one")
    two = one.user("two")
    three = two.user("three")
    delta = delta_for(three, known(one, two))
    assert (delta.base, [s.text for s in delta.segments]) == (two.root, ["three"])
    assert delta_for(three, known(three)).segments == ()
    assert len(delta_for(three, known()).segments) == 3
    fork = one.message("a", "fork")
    assert [s.text for s in delta_for(fork, known(one, three)).segments] == ["fork"]


def test_a_delta_survives_the_wire() -> None:
    context = EMPTY
    for kind in SegmentKind:
        context = context.add(kind, "näme", "text ✓")
        context = context.add(kind, "näme", "text ✓", refers=context.root)
    delta = delta_for(context, known())
    assert unpack(pack(delta), LIMITS, TENANT) == delta
    assert unpack(memoryview(pack(delta)), LIMITS, TENANT) == delta
    nothing = delta_for(EMPTY, known())
    assert unpack(pack(nothing), LIMITS, TENANT) == nothing
    assert ContextStore(4096).resolve(nothing) == EMPTY


def test_bytes_are_flat_as_the_transcript_grows() -> None:
    sent, context, text = set(), EMPTY, "x" * 200
    roots, store = KnownRoots(4), ContextStore(10**7)
    for _ in range(1000):
        roots.add(context.root)
        context = context.message("writer", text)
        data = pack(delta_for(context, roots))
        sent.add(len(data) - len("writer") - len(text))
        assert store.resolve(unpack(data, LIMITS, TENANT)) == context
    assert max(list(sent)) < 90
    assert len(sent) <= 2, "the first has the short, empty base"


def test_known_roots_forget_the_least_recently_used() -> None:
    roots = KnownRoots(2)
    a, b, c = (EMPTY.user(text).root for text in "abc")
    roots.add(a)
    roots.add(b)
    assert a in roots
    roots.add(c)
    assert b not in roots
    assert (a in roots, c in roots, len(roots)) == (True, True, 2)
    with pytest.raises(MisuseError):
        KnownRoots(0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [b"", b"r" * 8, []],
        [b"", b"r" * 8, [], [], 0],
        [b"short", b"r" * 8, [], []],
        [bytes(32), b"r" * 8, [], []],
        ["", b"r" * 8, [], []],
        [b"", "r", [], []],
        [b"", b"r" * 7, [], []],
        [b"", b"r" * 9, [], []],
        [b"", b"r" * 8, None, []],
        [b"", b"r" * 8, [], None],
        [b"", b"r" * 8, [1], []],
        [b"", b"r" * 8, [99, "a"], []],
        [b"", b"r" * 8, [True, "a"], []],
        [b"", b"r" * 8, [1.0, "a"], []],
        [b"", b"r" * 8, [[], "a"], []],
        [b"", b"r" * 8, [1, b"a"], []],
        [b"", b"r" * 8, [1, "a"], [0]],
        [b"", b"r" * 8, [1, "a"], ["t"]],
        [b"", b"r" * 8, [1, "a"], [1, "t"]],
        [b"", b"r" * 8, [1, "a"], [-1, "t"]],
        [b"", b"r" * 8, [1, "a"], [0, b"r" * 32]],
        [b"", b"r" * 8, [1, "a"], [0, "t", "t"]],
        [b"", b"r" * 8, [1, "a"], [0, "t", b""]],
        [b"", b"r" * 8, [1, "a"], [0, "t", b"r" * 31]],
        [b"", b"r" * 8, [1, "a"], [0, "t", b"r" * 33]],
        [b"", b"r" * 8, [1, "a"], [0, "t", b"r" * 32, b"r" * 32]],
        [b"", b"r" * 8, [1, "a"], [False, "t"]],
        [b"", b"r" * 8, [1, "a"], [{}]],
        [b"", b"r" * 8, [1, "a"], [0, msgpack.ExtType(1, b"")]],
    ],
)
def test_other_values_are_malformed(value: Any) -> None:
    with pytest.raises(MalformedFrame):
        unpack(msgpack.packb(value), LIMITS, TENANT)


def test_a_name_is_sent_once_and_counts_for_each_of_its_segments() -> None:
    name = "n" * 1000
    context = EMPTY
    for _ in range(100):
        context = context.message(name, "t")
    delta = delta_for(context, known())
    packed = pack(delta)
    assert len(packed) < 1000 + 100 * 3 + 64
    assert unpack(packed, LIMITS, TENANT) == delta
    small = Limits(frame=100 * 1001 - 1)
    with pytest.raises(TooLarge):
        pack(delta, small)
    with pytest.raises(MalformedFrame, match="over the limit"):
        unpack(packed, small, TENANT)
    assert unpack(packed, Limits(frame=100 * 1001), TENANT) == delta


def test_a_whole_transcript_is_not_longer_than_what_is_in_it() -> None:
    context, content = EMPTY.role("writer", "You write."), len("writer") + len("You write.")
    for number in range(1000):
        text = "x" * (300 + number)
        context = context.message("writer", text) if number % 2 else context.user(text)
        content += len(text) + (6 if number % 2 else 4)
    assert len(pack(delta_for(context, known()))) <= content + 64


def test_limits_bind_receiver_and_sender() -> None:
    small = Limits(segment=8, delta_segments=3, frame=256)
    many = EMPTY.user("a").user("b").user("c").user("d")
    long = EMPTY.user("abcde")
    wide = EMPTY.user("ä" * 3)
    big = EMPTY.add(SegmentKind.USER, "", "abcdefgh")
    frame = Limits(frame=16)
    for context, limits, error in (
        (many, small, InvalidMessage),
        (long, small, TooLarge),
        (wide, small, TooLarge),
        (big, frame, TooLarge),
    ):
        delta = delta_for(context, known())
        with pytest.raises(error):
            pack(delta, limits)
        with pytest.raises(MalformedFrame):
            unpack(pack(delta), limits, TENANT)
    delta = delta_for(big, known())
    assert unpack(pack(delta, small), small, TENANT) == delta


@given(data=st.binary(max_size=200))
def test_random_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        unpack(data, LIMITS, TENANT)


BASE = EMPTY.user("Explain tides.")
NEXT = BASE.message("writer", " The moon pulls.").ask("Shorter.")
PACKED = pack(delta_for(NEXT, known(BASE)))


@settings(max_examples=300)
@given(
    position=st.integers(0, len(PACKED) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(PACKED)),
)
def test_tampered_bytes_never_resolve_to_another_context(
    position: int, value: int, cut: int
) -> None:
    changed = PACKED[:position] + bytes([value]) + PACKED[position + 1 :]
    for data in (changed, PACKED[:cut], PACKED + changed[:cut]):
        store = ContextStore(10**6)
        store.add(BASE)
        try:
            context = store.resolve(unpack(data, LIMITS, TENANT))
        except MalformedFrame:
            continue
        assert context is None or context.segments() == NEXT.segments() or data == b""


def test_another_tenant_s_segments_do_not_resolve() -> None:
    other = TenantKey(b"o" * 32)
    with pytest.raises(MalformedFrame, match="do not give its root"):
        ContextStore(4096).resolve(unpack(pack(delta_for(NEXT, known())), LIMITS, other))
    store = ContextStore(4096)
    store.add(BASE)
    assert store.resolve(unpack(PACKED, LIMITS, other)) is None


class Peer:
    """One side of a link: what it keeps, and what it takes the other side to keep."""

    def __init__(self, room: int) -> None:
        self.store = ContextStore(room)
        self.known = KnownRoots(8)

    def send(self, context: Context, other: Peer) -> Context:
        """Do what the client does: a delta, and a whole one if the base was unknown."""
        delta = delta_for(context, self.known)
        self.store.add(context)
        self.known.add(context.root)
        got = other.receive(pack(delta))
        if got is None:
            held = self.store.get(context.root)
            if held is None:
                raise UnknownContext(context.root.hex())
            got = other.receive(pack(delta_for(held, KnownRoots(1))))
        if got is None:
            raise AssertionError("a whole context has no base")
        return got

    def receive(self, data: bytes) -> Context | None:
        context = self.store.resolve(unpack(data, LIMITS, TENANT))
        if context is not None:
            self.known.add(context.root)
        return context


STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(0, 3), st.integers(0, 300)),
    max_size=25,
)


@settings(max_examples=150)
@given(steps=STEPS, rooms=st.tuples(st.integers(600, 6000), st.integers(600, 6000)))
def test_two_peers_end_with_equal_contexts_or_unknown_context(
    steps: list[tuple[int, int, int, int]], rooms: tuple[int, int]
) -> None:
    peers = (Peer(rooms[0]), Peer(rooms[1]))
    contexts = [EMPTY]
    for sender, origin, added, size in steps:
        context = contexts[origin % len(contexts)]
        for number in range(added):
            context = context.message("writer", f"{number}" * size)
            contexts.append(context)
        try:
            got = peers[sender].send(context, peers[1 - sender])
        except UnknownContext as error:
            assert error.root == context.root.hex()
            continue
        assert got == context
        assert got.segments() == context.segments()
        contexts.append(got)


def test_a_delta_says_what_it_is() -> None:
    delta = delta_for(NEXT, known(BASE))
    assert isinstance(delta, Delta)
    assert len(delta.base) == DIGEST_SIZE
    assert delta.check == NEXT.root[:CHECK_SIZE]
    assert delta.tenant == TENANT

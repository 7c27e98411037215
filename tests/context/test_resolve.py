"""The store of contexts: what it counts, what it forgets, and that chains stay whole."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentbus.context import CONTEXT_BYTES, Context, ContextStore, Delta, SegmentKind, TenantKey
from agentbus.errors import MalformedFrame, MisuseError

TENANT = TenantKey()
EMPTY = TENANT.empty()


def chain(length: int, text: str = "x" * 88) -> Context:
    context = EMPTY
    for number in range(length):
        context = context.message("agent", f"{number:07}" + text)
    return context


ONE = CONTEXT_BYTES + 100


def test_a_context_and_its_ancestors_can_be_found() -> None:
    store = ContextStore(100 * ONE)
    context = chain(10)
    store.add(context)
    assert len(store) == 10
    assert store.held_bytes == 10 * ONE
    for node in context.ancestors():
        if node.last is not None:
            assert store.get(node.root) == node
            assert node.root in store
    assert store.get(b"?") is None


def test_a_segment_counts_once_however_many_contexts_hold_it() -> None:
    store = ContextStore(100 * ONE)
    base = chain(3)
    left = base.user("a").document("y" * 100)
    right = base.user("b").document("y" * 100)
    store.add(left)
    store.add(right)
    store.add(left)
    texts = 3 * 100 + 2 * len("usera") + len("document") + 100
    assert store.held_bytes == 7 * CONTEXT_BYTES + texts


def test_equal_contexts_become_one_object() -> None:
    store = ContextStore(100 * ONE)
    one, two = store.add(chain(3)), store.add(chain(3))
    assert one is two
    fork = store.add(chain(3).user("fork"))
    assert fork.parent is one


def test_the_least_recently_used_goes_from_its_end() -> None:
    store = ContextStore(10 * ONE)
    old, young = chain(4), chain(4, "y" * 88)
    store.add(old)
    store.add(young)
    assert store.get(old.root) is not None
    store.add(chain(5, "z" * 88))
    assert store.get(old.root) is not None
    assert store.get(young.root) is None
    assert young.parent is not None and young.parent.parent is not None
    assert store.get(young.parent.root) is None
    assert store.held_bytes <= 10 * ONE


def test_a_context_larger_than_the_store_keeps_its_beginning() -> None:
    store = ContextStore(3 * ONE)
    context = chain(5)
    assert store.add(context) == context
    kept = [node.length for node in context.ancestors() if node.root in store]
    assert kept == [3, 2, 1]
    assert store.held_bytes == 3 * ONE


def test_long_chains_are_no_trouble() -> None:
    store = ContextStore(10**9)
    context = chain(5_000, "")
    store.add(context)
    assert len(store) == 5_000
    store.add(EMPTY.user("!"))
    del context, store


def test_a_claimed_root_must_be_the_real_one() -> None:
    store = ContextStore(10 * ONE)
    base = store.add(chain(1))
    segment = TENANT.segment(SegmentKind.USER, "user", "more")
    real = base.append(segment)
    with pytest.raises(MalformedFrame):
        store.resolve(Delta(base.root, (segment,), b"r" * 8, TENANT))
    assert len(store) == 1
    assert store.resolve(Delta(base.root, (segment,), real.root[:8], TENANT)) == real
    assert store.resolve(Delta(b"u" * 32, (segment,), real.root[:8], TENANT)) is None


def test_a_store_needs_room() -> None:
    with pytest.raises(MisuseError):
        ContextStore(0)


class StoreMachine(RuleBasedStateMachine):
    """Random adds, forks and look-ups; afterwards every chain is whole and bytes add up."""

    @initialize(room=st.integers(1, 12))
    def start(self, room: int) -> None:
        self.room = room * ONE
        self.store = ContextStore(self.room)
        self.contexts = [EMPTY]

    @rule(
        origin=st.integers(0, 50), texts=st.lists(st.sampled_from(["a", "b", "c" * 99]), max_size=4)
    )
    def add(self, origin: int, texts: list[str]) -> None:
        context = self.contexts[origin % len(self.contexts)]
        for text in texts:
            context = context.user(text)
            self.contexts.append(context)
        assert self.store.add(context) == context

    @rule(origin=st.integers(0, 50))
    def get(self, origin: int) -> None:
        context = self.contexts[origin % len(self.contexts)]
        found = self.store.get(context.root)
        assert (found == context) == (context.root in self.store)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "store"):
            return
        held = {c.root: c for c in self.contexts if c.root in self.store}
        assert len(held) == len(self.store)
        for context in held.values():
            for node in context.ancestors():
                assert node.root in held or node.last is None
        segments = {c.last.digest: c.last for c in held.values() if c.last is not None}
        texts = sum(len(s.author) + len(s.text) for s in segments.values())
        assert self.store.held_bytes == len(held) * CONTEXT_BYTES + texts <= self.room


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestStoreMachine = StoreMachine.TestCase

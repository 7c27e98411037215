"""The store of contexts: what it counts, what it forgets, and that chains stay whole."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentbus.context import (
    CONTEXT_BYTES,
    Context,
    ContextStore,
    Delta,
    SegmentKind,
    TenantKey,
    resolve,
)
from agentbus.errors import (
    ForgottenContext,
    MalformedFrame,
    MisuseError,
    TooLarge,
    UnknownContext,
    describe,
    restore,
)

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


def test_a_base_that_is_used_outlives_its_forks() -> None:
    store = ContextStore(5 * ONE)
    base, other = store.add(chain(2)), store.add(chain(1, "o" * 88))
    store.add(base.user("f" * 96))
    assert store.get(other.root) is not None
    assert store.get(base.root) is not None
    store.add(chain(2, "n" * 88))
    assert (base.root in store, other.root in store) == (True, True)
    store.add(chain(3, "n" * 88))
    assert (base.root in store, other.root in store) == (True, False)


# --- leases and retention


def fill(store: ContextStore, text: str = "f" * 88) -> None:
    store.add(chain(12, text))


def test_what_is_leased_is_not_forgotten() -> None:
    store = ContextStore(10 * ONE)
    context = chain(4)
    store.lease(context)
    store.lease(context)
    fill(store)
    store.end_lease(context.root)
    fill(store, "g" * 88)
    assert store.get(context.root) == context
    assert store.held_bytes <= 10 * ONE
    store.end_lease(context.root)
    fill(store, "h" * 88)
    assert store.get(context.root) is None
    with pytest.raises(ForgottenContext):
        store.find(context.root)


def test_what_a_leased_context_was_made_from_stays_with_it() -> None:
    store = ContextStore(10 * ONE)
    base = store.add(chain(3))
    fork = base.user("fork")
    store.lease(fork)
    fill(store)
    assert store.find(base.root) == base
    store.end_lease(fork.root)
    fill(store, "g" * 88)
    assert base.root not in store


def test_a_lease_takes_more_than_the_store_has_and_gives_it_back() -> None:
    store = ContextStore(3 * ONE)
    context = chain(5)
    store.lease(context)
    assert store.find(context.root) == context
    assert store.held_bytes == 5 * ONE
    store.end_lease(context.root)
    assert store.held_bytes == 3 * ONE
    assert store.add(EMPTY) == EMPTY


def test_a_lease_that_is_not_there_cannot_be_ended() -> None:
    store = ContextStore(10 * ONE)
    context = store.add(chain(1))
    with pytest.raises(MisuseError):
        store.end_lease(context.root)
    store.lease(EMPTY)
    store.end_lease(EMPTY.root)


def test_what_is_retained_stays_until_it_is_released_as_often() -> None:
    store = ContextStore(10 * ONE)
    context = chain(2)
    store.retain(context)
    store.retain(context)
    store.release(context)
    fill(store)
    assert store.find(context.root) == context
    store.release(context)
    fill(store, "g" * 88)
    assert context.root not in store
    with pytest.raises(MisuseError, match="not retained"):
        store.release(context)


def test_a_lease_is_no_retention() -> None:
    store = ContextStore(10 * ONE)
    context = chain(2)
    store.lease(context)
    with pytest.raises(MisuseError, match="not retained"):
        store.release(context)


def test_no_more_is_retained_than_there_is_room_for() -> None:
    store = ContextStore(5 * ONE)
    first, second = chain(3), chain(3, "y" * 88)
    store.retain(first)
    with pytest.raises(TooLarge, match="retained"):
        store.retain(second)
    assert store.held_bytes <= 5 * ONE
    assert store.find(first.root) == first
    with pytest.raises(MisuseError):
        store.release(second)
    store.release(first)
    store.retain(second)


def test_collecting_leaves_what_is_leased_or_retained() -> None:
    store = ContextStore(100 * ONE)
    base = chain(2)
    leased, retained = base.user("l" * 96), base.user("r" * 96)
    store.lease(leased)
    store.retain(retained)
    store.add(chain(5, "g" * 88))
    assert store.collect() == 5 * ONE
    assert store.held_bytes == 4 * ONE
    assert (store.find(leased.root), store.find(retained.root)) == (leased, retained)
    store.end_lease(leased.root)
    assert store.collect() == ONE
    store.release(retained)
    assert store.collect() == 3 * ONE
    assert (len(store), store.held_bytes) == (0, 0)


def test_a_forgotten_context_is_told_from_one_that_was_never_there() -> None:
    store = ContextStore(10 * ONE)
    context = store.add(chain(1))
    store.collect()
    for root, error in ((context.root, ForgottenContext), (b"?" * 32, UnknownContext)):
        with pytest.raises(UnknownContext) as caught:
            store.find(root)
        assert type(caught.value) is error
        assert caught.value.root == root.hex()
        again = restore(*describe(caught.value))
        assert (type(again), str(again)) == (error, str(caught.value))
    store.add(context)
    assert store.find(context.root) == context


def test_it_is_remembered_how_much_of_a_forgotten_context_is_kept() -> None:
    store = ContextStore(100 * ONE)
    base = store.add(chain(3))
    store.retain(base)
    whole = store.add(base.user("a").user("b").user("c"))
    assert store.beginning(whole.root) is None, "it is kept, whole"
    store.collect()
    assert store.beginning(whole.root) == base.root
    store.release(base)
    store.collect()
    assert store.beginning(whole.root) == EMPTY.root
    assert store.beginning(b"?" * 32) is None


def test_what_is_remembered_of_the_forgotten_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_FORGOTTEN", 3)
    store = ContextStore(100 * ONE)
    whole = store.add(chain(5))
    store.collect()
    assert store.beginning(whole.root) is None
    assert len(store._forgotten) == 3


class StoreMachine(RuleBasedStateMachine):
    """Random adds, forks and look-ups; afterwards every chain is whole and bytes add up."""

    @initialize(room=st.integers(1, 12))
    def start(self, room: int) -> None:
        self.room = room * ONE
        self.store = ContextStore(self.room)
        self.contexts = [EMPTY]
        self.held: list[tuple[Context, bool]] = []

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

    @rule(origin=st.integers(0, 50), retain=st.booleans())
    def hold(self, origin: int, retain: bool) -> None:
        context = self.contexts[origin % len(self.contexts)]
        try:
            (self.store.retain if retain else self.store.lease)(context)
        except TooLarge:
            assert retain
            return
        self.held.append((context, retain))

    @rule(place=st.integers(0, 50))
    def let_go(self, place: int) -> None:
        if self.held:
            context, retained = self.held.pop(place % len(self.held))
            if retained:
                self.store.release(context)
            else:
                self.store.end_lease(context.root)

    @rule()
    def collect(self) -> None:
        before = self.store.held_bytes
        assert self.store.collect() == before - self.store.held_bytes
        stay = {node.root for context, _ in self.held for node in context.ancestors()}
        assert len(self.store) == len(stay - {EMPTY.root})

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
        assert self.store.held_bytes == len(held) * CONTEXT_BYTES + texts
        for context, _ in self.held:
            assert context.root in held or context == EMPTY
        stay = {node.root for context, _ in self.held for node in context.ancestors()}
        if set(held) - stay:
            assert self.store.held_bytes <= self.room


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestStoreMachine = StoreMachine.TestCase

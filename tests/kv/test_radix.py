"""The radix index: by example, and by random operations against a naive model of the tensors."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from agentbus.errors import Closed, KVExhausted, MisuseError
from agentbus.kv import LRU, BlockPool, Copy, Evictable, Lease, PoolStats, RadixIndex, Step

N = b"model"
BLOCK = 4


def index(total: int = 16) -> RadixIndex:
    return RadixIndex(BlockPool(total), BLOCK)


def keep(radix: RadixIndex, tokens: Sequence[int], namespace: bytes = N) -> Lease:
    lease = radix.begin(namespace, tokens)
    radix.commit(lease, tokens)
    radix.check_integrity()
    return lease


def test_a_second_call_reuses_all_but_its_last_token() -> None:
    radix = index()
    first = keep(radix, range(10))
    assert (first.reused, len(first.blocks), first.copies) == (0, 3, ())
    lease = radix.begin(N, range(10))
    assert lease.reused == 9
    assert lease.blocks[:2] == first.blocks[:2]
    assert lease.copies == (Copy(source=first.blocks[2], target=lease.blocks[2], tokens=1),)
    assert radix.stats() == PoolStats(total=16, free=12, cached=3, locked=4)


def test_at_a_block_s_border_nothing_is_copied() -> None:
    radix = index()
    keep(radix, range(8))
    lease = radix.begin(N, range(9))
    assert (lease.reused, lease.copies, len(lease.blocks)) == (8, (), 3)


def test_a_branch_within_a_block_gets_its_own() -> None:
    radix = index()
    left = keep(radix, [1, 2, 3, 4, 5, 6, 7])
    lease = radix.begin(N, [1, 2, 3, 4, 5, 9, 9])
    assert lease.reused == 5
    assert lease.copies == (Copy(left.blocks[1], lease.blocks[1], 1),)
    radix.commit(lease, [1, 2, 3, 4, 5, 9, 9])
    radix.check_integrity()
    assert radix.stats().cached == 3
    assert radix.match_length(N, [1, 2, 3, 4, 5, 6, 7]) == 7
    assert radix.match_length(N, [1, 2, 3, 4, 5, 9, 9]) == 7


def test_of_two_calls_that_computed_the_same_the_first_one_s_blocks_stay() -> None:
    radix = index()
    one, two = radix.begin(N, range(9)), radix.begin(N, range(9))
    assert not set(one.blocks) & set(two.blocks)
    radix.commit(one, range(9))
    radix.commit(two, range(9))
    radix.check_integrity()
    assert radix.stats().free == 13
    assert radix.begin(N, range(20)).blocks[:2] == one.blocks[:2]


def test_namespaces_are_apart() -> None:
    radix = index()
    keep(radix, range(10), b"one")
    assert radix.match_length(b"two", range(10)) == 0
    assert radix.begin(b"two", range(10)).reused == 0
    radix.clear(b"one")
    assert radix.match_length(b"one", range(10)) == 0


def test_without_reuse_nothing_is_taken_or_kept() -> None:
    radix = index()
    keep(radix, range(6))
    lease = radix.begin(N, range(10), reuse=False)
    assert (lease.reused, len(lease.blocks)) == (0, 3)
    radix.commit(lease, range(10))
    radix.check_integrity()
    assert radix.match_length(N, range(10)) == 6


def test_a_call_cancelled_midway_keeps_what_it_computed() -> None:
    radix = index()
    keep(radix, range(6))
    lease = radix.begin(N, range(15))
    radix.commit(lease, range(11))
    assert radix.match_length(N, range(15)) == 11
    lease = radix.begin(N, range(15))
    radix.commit(lease, range(3))
    radix.check_integrity()
    assert radix.match_length(N, range(15)) == 11


def test_decoded_tokens_are_kept_too() -> None:
    radix = index()
    lease = radix.begin(N, range(5))
    blocks = lease.blocks
    radix.extend(lease, 13)
    radix.extend(lease, 2)
    assert blocks is lease.blocks
    assert len(blocks) == 4
    radix.commit(lease, range(13))
    radix.check_integrity()
    assert radix.match_length(N, range(99)) == 13


def test_the_least_recently_used_goes_first_and_from_its_end() -> None:
    radix = index(total=8)
    keep(radix, range(100, 116))
    keep(radix, range(200, 212))
    keep(radix, range(100, 116))
    keep(radix, range(300, 308))
    assert radix.match_length(N, range(100, 116)) == 16
    assert radix.match_length(N, range(200, 212)) == 8


class ShortestFirst(LRU):
    def rank(self, candidate: Evictable) -> float:
        return candidate.length


def test_a_policy_chooses() -> None:
    radix = RadixIndex(BlockPool(8), BLOCK, ShortestFirst())
    keep(radix, range(200, 216))
    keep(radix, range(100, 108))
    keep(radix, range(300, 312))
    assert radix.match_length(N, range(200, 216)) == 16
    assert radix.match_length(N, range(100, 108)) == 4


def test_exhaustion_changes_nothing() -> None:
    radix = index(total=8)
    keep(radix, range(8))
    keep(radix, range(50, 58))
    held = radix.begin(N, range(100, 112))
    before = radix.stats()
    with pytest.raises(KVExhausted) as raised:
        radix.begin(N, range(6 + 18))
    assert (raised.value.needed, raised.value.available) == (4, 3)
    with pytest.raises(KVExhausted):
        radix.extend(held, 33)
    with pytest.raises(KVExhausted):
        radix.begin(b"other", range(24), reuse=False)
    radix.check_integrity()
    assert radix.stats() == before
    assert len(held.blocks) == 3
    assert radix.match_length(N, range(8)) == radix.match_length(N, range(50, 58)) == 8


def test_a_lease_ends_once() -> None:
    radix = index()
    lease = radix.begin(N, range(5))
    radix.release(lease)
    for use in (radix.release, lambda x: radix.commit(x, range(5)), lambda x: radix.extend(x, 9)):
        with pytest.raises(Closed):
            use(lease)
    radix.check_integrity()
    assert radix.stats() == PoolStats(total=16, free=16, cached=0, locked=0)


def test_wrong_tokens_are_refused_and_the_lease_stays_open() -> None:
    radix = index()
    keep(radix, range(8))
    lease = radix.begin(N, range(12))
    with pytest.raises(MisuseError, match="do not begin"):
        radix.commit(lease, range(1, 13))
    with pytest.raises(MisuseError, match="no blocks for 13"):
        radix.commit(lease, range(13))
    radix.release(lease)
    with pytest.raises(MisuseError, match="at least one token"):
        radix.begin(N, [])
    with pytest.raises(MisuseError, match="token ids"):
        radix.begin(N, [-1])
    radix.check_integrity()


def test_tokens_come_in_any_sequence() -> None:
    radix = index()
    keep(radix, [7, 8, 9, 10, 11])
    for tokens in ((7, 8, 9, 10, 11), array("i", [7, 8, 9, 10, 11]), range(7, 12)):
        assert radix.match_length(N, tokens) == 5


def test_clear_leaves_what_is_leased() -> None:
    radix = index()
    keep(radix, range(8))
    keep(radix, [*range(6), 77, 78])
    lease = radix.begin(N, range(7))
    radix.clear()
    radix.check_integrity()
    assert radix.match_length(N, range(8)) == 6
    radix.release(lease)
    radix.clear()
    radix.check_integrity()
    assert radix.stats() == PoolStats(total=16, free=16, cached=0, locked=0)


def test_a_broken_count_is_found() -> None:
    pool = BlockPool(4)
    radix = RadixIndex(pool, BLOCK)
    keep(radix, range(5))
    pool.allocate()
    with pytest.raises(AssertionError, match="references"):
        radix.check_integrity()


TOTAL = 16
MOST = 30
OWNERS = st.sampled_from(["", "a", "b"])
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)


@dataclass(eq=False)
class Work:
    """One running call."""

    namespace: bytes
    tokens: tuple[int, ...]
    lease: Lease
    reuse: bool


class Simulation:
    """An index and a naive engine: a block's slot holds (namespace, tokens up to this one).

    That is what KV depends on, so a slot that holds anything else would be a wrong answer.
    """

    def __init__(self) -> None:
        self.pool = BlockPool(TOTAL)
        self.radix = RadixIndex(self.pool, BLOCK)
        self.store: list[list[object]] = [[None] * BLOCK for _ in range(TOTAL)]
        self.computed: set[tuple[bytes, tuple[int, ...]]] = set()
        self.asked: list[tuple[int, ...]] = [()]
        self.open: list[Work] = []

    def begin(
        self,
        namespace: bytes,
        origin: int,
        common: int,
        more: tuple[int, ...],
        reuse: bool,
        owner: str = "",
    ) -> None:
        """Continue, or branch off, something that was asked before."""
        tokens = (self.asked[origin % len(self.asked)][:common] + more)[:MOST]
        self.asked.append(tokens)
        cached = self.radix.match_length(namespace, tokens)
        assert cached <= self._computed_length(namespace, tokens)
        before = self._snapshot()
        try:
            lease = self.radix.begin(namespace, tokens, reuse=reuse, owner=owner)
        except KVExhausted as error:
            assert error.available < error.needed
            assert self._snapshot() == before
            return
        work = Work(namespace, tokens, lease, reuse)
        assert lease.reused == (min(cached, len(tokens) - 1) if reuse else 0)
        assert len(lease.blocks) == -(-len(tokens) // BLOCK)
        for copy in lease.copies:
            self.store[copy.target][: copy.tokens] = self.store[copy.source][: copy.tokens]
        for position in range(lease.reused):
            assert self._read(work, position) == (namespace, tokens[: position + 1])
        self._write(work, lease.reused)
        self.open.append(work)

    def decode(self, choice: int, more: tuple[int, ...]) -> None:
        """Let a running call grow."""
        work = self.open[choice % len(self.open)]
        before = self._snapshot()
        longer = work.tokens + more
        try:
            self.radix.extend(work.lease, len(longer))
        except KVExhausted:
            assert self._snapshot() == before
            return
        start, work.tokens = len(work.tokens), longer
        self._write(work, start)

    def commit(self, choice: int, share: float, step: Step = Step.UNKNOWN) -> None:
        """End a call, perhaps midway."""
        work = self.open.pop(choice % len(self.open))
        length = round(len(work.tokens) * share)
        self.radix.commit(work.lease, work.tokens[:length], step=step)
        if work.reuse:
            self.computed.update((work.namespace, work.tokens[:n]) for n in range(1, length + 1))
            self.asked.append(work.tokens)
            assert self.radix.match_length(work.namespace, work.tokens[:length]) == length

    def release(self, choice: int) -> None:
        """End a call without keeping anything."""
        self.radix.release(self.open.pop(choice % len(self.open)).lease)

    def check(self) -> None:
        """Check the index, and that no running call's KV was touched."""
        self.radix.check_integrity()
        for work in self.open:
            for position in range(len(work.tokens)):
                assert self._read(work, position) == (
                    work.namespace,
                    work.tokens[: position + 1],
                )

    def finish(self) -> None:
        """End everything; all blocks must be free then."""
        while self.open:
            self.release(0)
        self.radix.clear()
        self.radix.check_integrity()
        assert self.pool.free == TOTAL

    def _read(self, work: Work, position: int) -> object:
        return self.store[work.lease.blocks[position // BLOCK]][position % BLOCK]

    def _write(self, work: Work, start: int) -> None:
        for position in range(start, len(work.tokens)):
            block = work.lease.blocks[position // BLOCK]
            self.store[block][position % BLOCK] = (work.namespace, work.tokens[: position + 1])

    def _computed_length(self, namespace: bytes, tokens: tuple[int, ...]) -> int:
        lengths = range(len(tokens), 0, -1)
        return next((n for n in lengths if (namespace, tokens[:n]) in self.computed), 0)

    def _snapshot(self) -> tuple[object, ...]:
        return self.radix.stats(), [
            self.radix.match_length(name, tokens)
            for tokens in self.asked
            for name in (b"one", b"two")
        ]


class IndexMachine(RuleBasedStateMachine):
    """Finds the shortest sequence of operations that breaks an invariant."""

    @initialize()
    def start(self) -> None:
        self.simulation = Simulation()

    @rule(
        namespace=st.sampled_from([b"one", b"one", b"two"]),
        origin=st.integers(0, 20),
        common=st.integers(0, MOST),
        more=TOKENS,
        reuse=st.sampled_from([True, True, True, False]),
        owner=OWNERS,
    )
    def begin(
        self,
        namespace: bytes,
        origin: int,
        common: int,
        more: tuple[int, ...],
        reuse: bool,
        owner: str,
    ) -> None:
        self.simulation.begin(namespace, origin, common, more, reuse, owner)

    @precondition(lambda self: self.simulation.open)
    @rule(choice=st.integers(0, 9), more=TOKENS)
    def decode(self, choice: int, more: tuple[int, ...]) -> None:
        self.simulation.decode(choice, more)

    @precondition(lambda self: self.simulation.open)
    @rule(
        choice=st.integers(0, 9),
        share=st.sampled_from([1.0, 1.0, 0.7, 0.3]),
        step=st.sampled_from(Step),
    )
    def commit(self, choice: int, share: float, step: Step) -> None:
        self.simulation.commit(choice, share, step)

    @precondition(lambda self: self.simulation.open)
    @rule(choice=st.integers(0, 9))
    def release(self, choice: int) -> None:
        self.simulation.release(choice)

    @precondition(lambda self: len(self.simulation.asked) % 8 == 7)
    @rule(namespace=st.sampled_from([None, b"one", b"two"]))
    def clear(self, namespace: bytes | None) -> None:
        self.simulation.radix.clear(namespace)

    @invariant()
    def holds(self) -> None:
        self.simulation.check()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.finish()


IndexMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestIndexMachine = IndexMachine.TestCase


@pytest.mark.parametrize("seed", range(12))
def test_long_random_runs(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation()
    for _ in range(250):
        more = tuple(chance.choices(range(3), k=chance.randint(1, 9)))
        choice = chance.randrange(99)
        step = chance.choices(["begin", "decode", "commit", "release", "clear"], [9, 4, 8, 1, 0.2])
        if step == ["clear"]:
            simulation.radix.clear(chance.choice([None, b"one"]))
        elif step == ["begin"] or not simulation.open:
            origin = len(simulation.asked) - 1 - chance.randrange(8)
            reuse = chance.random() < 0.9
            owner = chance.choice(["", "a", "b", "c"])
            simulation.begin(b"one", origin, chance.randint(0, MOST), more, reuse, owner)
        elif step == ["decode"]:
            simulation.decode(choice, more)
        elif step == ["commit"]:
            ending = chance.choice(list(Step))
            simulation.commit(choice, chance.choice([1.0, 1.0, 0.6]), ending)
        else:
            simulation.release(choice)
        simulation.check()
    simulation.finish()


def test_with_room_enough_the_longest_prefix_is_always_found() -> None:
    radix = RadixIndex(BlockPool(4096), BLOCK)
    seen: list[tuple[int, ...]] = []
    for number in range(120):
        tokens = tuple((number * 7919 >> bit) & 1 for bit in range(number % 13 + 1))
        best = max((_common(tokens, other) for other in seen), default=0)
        assert radix.match_length(N, tokens) == best
        keep(radix, tokens)
        seen.append(tokens)


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    same = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        same += 1
    return same

"""What the index tells of whole blocks is what can be reused, after any operations."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from agentbus.errors import KVExhausted
from agentbus.kv import BlockPool, BlocksCached, BlocksEvicted, Change, Lease, RadixIndex

N = b"model"
BLOCK = 4


def keep(radix: RadixIndex, tokens: Sequence[int]) -> Lease:
    lease = radix.begin(N, tokens)
    radix.commit(lease, tokens)
    return lease


def test_a_commit_tells_of_its_whole_blocks() -> None:
    changes: list[Change] = []
    radix = RadixIndex(BlockPool(16), BLOCK, changes=changes)
    lease = keep(radix, range(10))
    assert [(c, list(c.tokens)) for c in changes if isinstance(c, BlocksCached)] == [
        (BlocksCached(N, changes[0].tokens, 0, tuple(lease.blocks[:2])), list(range(8)))  # type: ignore[union-attr]
    ]
    changes.clear()
    longer = keep(radix, range(13))  # fills the block of which the tree has a head
    (change,) = changes
    assert isinstance(change, BlocksCached)
    assert (list(change.tokens), change.first) == (list(range(12)), 2)
    assert change.blocks == (longer.blocks[2],)


def test_what_fills_no_block_is_not_told() -> None:
    changes: list[Change] = []
    radix = RadixIndex(BlockPool(4), BLOCK, changes=changes)
    keep(radix, range(3))
    radix.clear()
    assert changes == []


def test_blocks_go_from_the_end() -> None:
    changes: list[Change] = []
    radix = RadixIndex(BlockPool(4), BLOCK, changes=changes)
    kept = keep(radix, range(16))
    changes.clear()
    lease = radix.begin(N, range(50, 56))
    assert changes == [BlocksEvicted(tuple(kept.blocks[2:]))]
    assert sorted(lease.blocks) == sorted(kept.blocks[2:])
    changes.clear()
    radix.clear()
    assert changes == [BlocksEvicted(tuple(kept.blocks[:2]))]


class Mirror:
    """Follows an index by what it tells, as an engine does: which whole block holds what."""

    def __init__(self, total: int) -> None:
        self.changes: list[Change] = []
        self.radix = RadixIndex(BlockPool(total), BLOCK, changes=self.changes)
        self.held: dict[int, tuple[int, ...]] = {}
        self.asked: list[tuple[int, ...]] = [()]
        self.open: list[tuple[Lease, tuple[int, ...]]] = []

    def follow(self) -> None:
        for change in self.changes:
            if isinstance(change, BlocksEvicted):
                for block in change.blocks:
                    del self.held[block]
                continue
            assert len(change.tokens) == (change.first + len(change.blocks)) * BLOCK
            for number, block in enumerate(change.blocks, change.first + 1):
                assert block not in self.held
                self.held[block] = tuple(change.tokens[: number * BLOCK])
        self.changes.clear()

    def check(self) -> None:
        self.radix.check_integrity()
        held = list(self.held.values())
        assert len(set(held)) == len(held)
        whole = {
            tokens[:end]
            for tokens in self.asked
            for end in range(BLOCK, self.radix.match_length(N, tokens) + 1, BLOCK)
        }
        assert set(held) == whole

    def begin(self, tokens: tuple[int, ...]) -> None:
        self.asked.append(tokens)
        try:
            lease = self.radix.begin(N, tokens)
        except KVExhausted:
            return
        self.follow()
        reused = lease.blocks[: lease.reused // BLOCK]
        assert [self.held[b] for b in reused] == [
            tokens[:end] for end in range(BLOCK, len(reused) * BLOCK + 1, BLOCK)
        ]
        self.open.append((lease, tokens))


@pytest.mark.parametrize("seed", range(20))
def test_an_engine_that_listens_knows_what_is_kept(seed: int) -> None:
    chance = random.Random(seed)
    mirror = Mirror(total=14)
    for _ in range(200):
        step = chance.choices(["begin", "end", "release", "clear"], [8, 8, 1, 0.3])[0]
        if step == "begin" or not mirror.open:
            origin = chance.choice(mirror.asked[-8:])
            more = tuple(chance.choices(range(3), k=chance.randint(1, 9)))
            mirror.begin((origin[: chance.randint(0, 26)] + more)[:30])
        elif step == "clear":
            mirror.radix.clear()
        else:
            lease, tokens = mirror.open.pop(chance.randrange(len(mirror.open)))
            if step == "release":
                mirror.radix.release(lease)
            else:
                length = chance.choice([len(tokens), len(tokens), len(tokens) // 2])
                mirror.radix.commit(lease, tokens[:length])
        mirror.follow()
        mirror.check()

"""Hints: a view built from events that are lost, late, repeated, or of a replica begun anew."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from agentbus.kv import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
    EventLog,
    Hints,
    Numbered,
    Overlap,
    Receipt,
    ReplicaView,
    decode_batch,
)

SIZE = 4


def names(tokens: Sequence[int], salt: str = "") -> list[bytes]:
    """Name blocks as an engine might: by all tokens up to their end."""
    ends = range(SIZE, len(tokens) + 1, SIZE)
    return [repr((salt, list(tokens[:end]))).encode()[-64:] for end in ends]


def stored(
    tokens: Sequence[int], first: int = 0, *, medium: str = "GPU", salt: str = ""
) -> BlockStored:
    """Say that the blocks from `first` on are stored."""
    hashes = names(tokens, salt)
    extra: list[tuple[str, ...] | None] = [None] * len(hashes)
    if salt:
        extra[0] = (salt,)
    return BlockStored(
        block_hashes=tuple(hashes[first:]),
        parent_block_hash=hashes[first - 1] if first else None,
        token_ids=tuple(tokens[first * SIZE : len(hashes) * SIZE]),
        block_size=SIZE,
        medium=medium,
        extra_keys=tuple(extra[first:]),
    )


def removed(*hashes: bytes, medium: str = "GPU") -> BlockRemoved:
    return BlockRemoved(block_hashes=hashes, medium=medium)


def batch(*events: Event, epoch: int | None = 1) -> EventBatch:
    return EventBatch(ts=0.0, events=events, epoch=epoch)


def told(view: ReplicaView, numbered: Numbered, *, live: bool = True) -> Receipt:
    return view.receive(numbered.seq, decode_batch(numbered.payload), live=live)


def overlap(hints: Hints, tokens: Sequence[int], salt: str = "") -> int:
    return hints.overlaps(tokens, salt=salt)["a"].tokens


def test_the_longest_prefix_is_found_per_replica() -> None:
    hints = Hints()
    hints.view("a").receive(0, batch(stored(range(16))))
    hints.view("b").receive(0, batch(stored(range(8)), stored([*range(8), 9, 9, 9, 9], 2)))
    hints.view("c")
    assert hints.overlaps(range(14)) == {
        "a": Overlap(12, 12),
        "b": Overlap(8, 8),
        "c": Overlap(0, 0),
    }
    assert hints.overlaps([*range(8), 9, 9, 9, 9])["b"].tokens == 12
    assert hints.overlaps(range(1, 14))["a"].tokens == 0
    hints.forget("a")
    assert set(hints.overlaps(range(14))) == {"b", "c"}


def test_a_block_counts_until_no_tier_has_it() -> None:
    hints = Hints()
    view = hints.view("a")
    second = names(range(8))[1]
    on_host = BlockStored(
        block_hashes=(second,), parent_block_hash=None, token_ids=(), block_size=0, medium="CPU"
    )
    view.receive(0, batch(stored(range(8)), on_host, removed(second)))
    assert hints.overlaps(range(8))["a"] == Overlap(8, 4)
    view.receive(1, batch(removed(second, medium="CPU")))
    assert hints.overlaps(range(8))["a"] == Overlap(4, 4)
    assert view.blocks == 1


def test_tenants_and_adapters_are_apart() -> None:
    hints = Hints()
    hints.view("a").receive(0, batch(stored(range(8), salt="one")))
    assert overlap(hints, range(8), "one") == 8
    assert overlap(hints, range(8), "two") == overlap(hints, range(8)) == 0
    event = BlockStored(
        block_hashes=(1, 2),
        parent_block_hash=None,
        token_ids=tuple(range(8)),
        block_size=SIZE,
        lora_name="lora",
        extra_keys=(("lora", "salt"), ("lora",)),  # as vLLM has them
    )
    hints.view("b").receive(0, batch(event))
    assert hints.overlaps(range(8), salt="salt", adapter="lora")["b"].tokens == 8
    assert hints.overlaps(range(8), salt="salt")["b"].tokens == 0


def test_only_full_attention_counts() -> None:
    view = ReplicaView()
    sliding = BlockStored(
        block_hashes=(1,),
        parent_block_hash=None,
        token_ids=(1, 2, 3, 4),
        block_size=SIZE,
        group_idx=1,
        kv_cache_spec_kind="sliding_window",
    )
    view.receive(0, batch(sliding))
    assert view.blocks == 0
    full = BlockStored(
        block_hashes=(1,),
        parent_block_hash=None,
        token_ids=(1, 2, 3, 4),
        block_size=SIZE,
        group_idx=0,
        kv_cache_spec_kind="full_attention",
    )
    view.receive(1, batch(full))
    view.receive(2, batch(BlockRemoved(block_hashes=(1,), group_idx=1)))
    assert view.blocks == 1
    view.receive(3, batch(BlockRemoved(block_hashes=(1,), group_idx=0)))
    assert view.blocks == 0


def test_blocks_without_a_known_parent_are_counted_and_left_out() -> None:
    view = ReplicaView()
    view.receive(0, batch(stored(range(16), 2)))
    assert (view.blocks, view.unplaced) == (0, 2)


def test_a_view_is_bounded() -> None:
    view = ReplicaView(max_blocks=3)
    view.receive(0, batch(stored(range(20))))
    assert (view.blocks, view.unplaced) == (3, 2)
    for seq in range(2, 2 + ReplicaView.MAX_WAITING):
        assert view.receive(seq, batch()) is Receipt.WAITING
    assert view.receive(seq + 1, batch()) is Receipt.DROPPED
    assert view.missing == 1


def test_what_waits_is_bounded_by_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplicaView, "MAX_WAITING_ITEMS", 100)
    view = ReplicaView()
    large = batch(BlockRemoved(block_hashes=tuple(range(60))))
    assert view.receive(2, large) is Receipt.WAITING
    assert view.receive(4, large) is Receipt.DROPPED
    assert view.receive(2, large) is Receipt.WAITING
    for number in range(2):
        assert view.receive(number, batch(stored(range(SIZE)))) is Receipt.APPLIED
    assert view.missing is None and view.next == 3
    assert view.receive(4, large) is Receipt.WAITING  # there is room again
    assert view.receive(0, batch(epoch=2)) is Receipt.APPLIED
    assert view.receive(2, batch(*large.events, epoch=2)) is Receipt.WAITING


def test_a_block_lies_on_a_bounded_number_of_media() -> None:
    view = ReplicaView()
    tokens = range(SIZE)
    for number in range(100):
        view.receive(number, batch(stored(tokens, medium=f"medium {number}")))
    [block] = view._blocks.values()
    assert len(block.media) == ReplicaView.MAX_MEDIA


def test_a_gap_waits_for_its_replay() -> None:
    hints = Hints()
    view = hints.view("a")
    log = EventLog(1)
    sent = [log.publish([stored(range(4 * n), n - 1)], 0.0) for n in range(1, 6)]
    assert told(view, sent[0]) is Receipt.APPLIED
    assert (told(view, sent[3]), told(view, sent[4])) == (Receipt.WAITING, Receipt.WAITING)
    assert (view.missing, overlap(hints, range(20))) == (1, 4)
    for again in log.replay(1):
        told(view, again, live=False)
    assert (view.missing, overlap(hints, range(20))) == (None, 20)
    assert {told(view, one) for one in sent} == {Receipt.DUPLICATE}


def test_a_gap_too_old_to_replay_is_closed_by_the_state() -> None:
    hints = Hints()
    view = hints.view("a")
    log = EventLog(1, max_batches=2)
    for n in range(1, 6):
        last = log.publish([stored(range(4 * n), n - 1)], 0.0)
    log.publish([removed(names(range(20))[-1])], 0.0)
    assert told(view, last) is Receipt.WAITING
    assert [one.seq for one in log.replay(0)] == [5]
    assert told(view, log.replay(0)[0], live=False) is Receipt.APPLIED
    assert (view.missing, view.next, overlap(hints, range(20))) == (None, 6, 16)


def test_a_state_that_comes_after_newer_events_does_not_undo_them() -> None:
    hints = Hints()
    view = hints.view("a")
    log = EventLog(1, max_batches=1)
    for n in range(1, 3):
        log.publish([stored(range(4 * n), n - 1)], 0.0)
    snapshot = log.snapshot()
    third = log.publish([stored(range(12), 2)], 0.0)
    fourth = log.publish([removed(names(range(12))[2])], 0.0)
    assert told(view, third) is Receipt.WAITING
    assert told(view, fourth) is Receipt.WAITING
    assert told(view, snapshot, live=False) is Receipt.APPLIED
    assert overlap(hints, range(12)) == 8
    assert told(view, snapshot, live=False) is Receipt.DUPLICATE
    assert overlap(hints, range(12)) == 8


def test_what_nobody_can_tell_any_more_is_given_up() -> None:
    hints = Hints()
    view = hints.view("a")
    view.receive(0, batch(stored(range(8))))
    view.receive(5, batch(stored(range(100, 108))))
    view.receive(6, batch(stored(range(200, 208))))
    view.give_up()
    assert (view.missing, view.next) == (None, 7)
    assert overlap(hints, range(8)) == 0
    assert overlap(hints, range(100, 108)) == overlap(hints, range(200, 208)) == 8


def test_a_replica_that_was_started_again_holds_nothing_of_before() -> None:
    hints = Hints()
    view = hints.view("a")
    for seq in range(3):
        view.receive(seq, batch(stored(range(8)), epoch=1))
    assert view.receive(0, batch(stored(range(100, 108)), epoch=2)) is Receipt.APPLIED
    assert (overlap(hints, range(8)), overlap(hints, range(100, 108))) == (0, 8)
    assert view.receive(3, batch(AllBlocksCleared(), epoch=1)) is Receipt.STALE
    assert overlap(hints, range(100, 108)) == 8
    assert view.receive(2, batch(epoch=3)) is Receipt.WAITING  # its first were missed
    assert (view.missing, view.blocks) == (0, 0)


def test_what_waits_of_an_epoch_ends_with_it() -> None:
    view = ReplicaView()
    assert view.receive(2, batch(stored(range(8)), epoch=1)) is Receipt.WAITING
    for seq in range(2):
        view.receive(seq, batch(epoch=2))
    assert (view.next, view.blocks) == (2, 0)


def test_without_epochs_a_number_that_falls_is_a_new_start() -> None:
    hints = Hints()
    view = hints.view("a")
    for seq in range(3):
        view.receive(seq, batch(stored(range(8)), epoch=None))
    assert view.receive(1, batch(epoch=None), live=False) is Receipt.DUPLICATE
    assert overlap(hints, range(8)) == 8
    assert view.receive(0, batch(stored(range(100, 104)), epoch=None)) is Receipt.APPLIED
    assert (overlap(hints, range(8)), overlap(hints, range(100, 104))) == (0, 4)


class Replica:
    """A replica that stores and removes at random, and knows what it holds."""

    def __init__(self, chance: random.Random, epoch: int) -> None:
        self.chance = chance
        self.log = EventLog(epoch, max_batches=6)
        self.held: dict[tuple[int, ...], set[str]] = {}

    def step(self) -> Numbered:
        events: list[Event] = []
        for _ in range(self.chance.randint(1, 4)):
            events += self._change()
        return self.log.publish(events, 0.0)

    def _change(self) -> list[Event]:
        if self.chance.random() < 0.02:
            self.held.clear()
            return [AllBlocksCleared()]
        leaves = [t for t in self.held if not any(o[: len(t)] == t != o for o in self.held)]
        if leaves and self.chance.random() < 0.45:
            gone = self.chance.choice(leaves)
            medium = self.chance.choice(sorted(self.held[gone]))
            self.held[gone].remove(medium)
            if not self.held[gone]:
                del self.held[gone]
            return [removed(names(gone)[-1], medium=medium)]
        above = self.chance.choice([(), *self.held])[:16]
        block = above + tuple(self.chance.choices(range(2), k=SIZE))
        medium = self.chance.choice(["GPU", "CPU"])
        self.held.setdefault(block, set()).add(medium)
        return [stored(block, len(above) // SIZE, medium=medium)]


@pytest.mark.parametrize("seed", range(25))
def test_whatever_the_network_does_views_become_right(seed: int) -> None:
    """Batches are lost, late and repeated; replays race with them; the replica starts again."""
    chance = random.Random(seed)
    hints = Hints()
    view = hints.view("a")
    replica = Replica(chance, 1)
    underway: list[tuple[Numbered, bool]] = []
    for epoch in range(2, 6):
        for _ in range(60):
            sent = replica.step()
            underway += [(sent, True)] * chance.choice([0, 1, 1, 1, 2])
            if view.missing is not None and chance.random() < 0.5:
                underway += [(again, False) for again in replica.log.replay(view.missing)]
            if chance.random() < 0.3:
                chance.shuffle(underway)
            for numbered, live in underway[: chance.randint(0, 4)]:
                told(view, numbered, live=live)
                underway.remove((numbered, live))
            view_is_bounded(view)
        told(view, replica.step())
        if view.missing is not None:
            for again in replica.log.replay(view.missing):
                told(view, again, live=False)
        assert view.missing is None
        everything(hints, replica)
        replica = Replica(chance, epoch)
    assert view.unplaced == 0


def view_is_bounded(view: ReplicaView) -> None:
    assert len(view._waiting) <= ReplicaView.MAX_WAITING
    assert all(number > view._last for number in view._waiting)


def everything(hints: Hints, replica: Replica) -> None:
    assert hints.view("a").blocks == len(replica.held)
    for tokens, media in replica.held.items():
        found = hints.overlaps(tokens)["a"]
        assert found.tokens == len(tokens)
        prefixes = [tokens[:end] for end in range(SIZE, len(tokens) + 1, SIZE)]
        device = [("GPU" in replica.held[prefix]) for prefix in prefixes]
        assert found.device_tokens == [*device, False].index(False) * SIZE
        assert media

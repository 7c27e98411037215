"""The log of KV events: numbers, what is kept, and the state for who missed too much."""

from __future__ import annotations

import pytest

from agentbus.kv import (
    MAX_BATCH_BYTES,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventLog,
    decode_batch,
)


def stored(name: int, parent: int | None = None, *, medium: str = "GPU") -> BlockStored:
    return BlockStored(
        block_hashes=(name,),
        parent_block_hash=parent,
        token_ids=(name, name),
        block_size=2,
        medium=medium,
    )


def state(log: EventLog) -> list[tuple[int, str | None]]:
    """Return what a snapshot holds, block by block."""
    numbered = log.snapshot()
    first, *events = decode_batch(numbered.payload).events
    assert first == AllBlocksCleared()
    assert all(isinstance(event, BlockStored) for event in events)
    return [(e.block_hashes[0], e.medium) for e in events if isinstance(e, BlockStored)]  # type: ignore[misc]


def test_batches_are_numbered_and_carry_the_epoch() -> None:
    log = EventLog(7)
    assert log.replay(0) == []
    sent = [log.publish([stored(n)], float(n)) for n in range(3)]
    assert [one.seq for one in sent] == [0, 1, 2]
    batch = decode_batch(sent[1].payload)
    assert (batch.epoch, batch.ts, batch.events) == (7, 1.0, (stored(1),))
    assert log.replay(1) == sent[1:]
    assert log.replay(3) == []


@pytest.mark.parametrize("bounds", [{"max_batches": 2}, {"max_bytes": 300}])
def test_what_is_kept_is_bounded(bounds: dict[str, int]) -> None:
    log = EventLog(1, **bounds)
    sent = [log.publish([stored(n)], 0.0) for n in range(5)]
    assert 2 * len(sent[0].payload) <= 300 < 3 * len(sent[0].payload)
    assert log.replay(3) == sent[3:]
    assert log.replay(2) == [log.snapshot()]
    assert log.snapshot().seq == 4


def test_parents_come_first_in_a_state() -> None:
    log = EventLog(1)
    log.publish([stored(1), stored(2, 1), stored(3, 2)], 0.0)
    log.publish([stored(1, medium="CPU"), BlockRemoved(block_hashes=(1,), medium="GPU")], 0.0)
    log.publish([stored(1)], 0.0)
    assert state(log) == [(1, "CPU"), (1, "GPU"), (2, "GPU"), (3, "GPU")]


def test_several_blocks_of_an_event_go_one_by_one() -> None:
    log = EventLog(1)
    run = BlockStored(
        block_hashes=(1, 2),
        parent_block_hash=None,
        token_ids=(1, 1, 2, 2),
        block_size=2,
        medium="GPU",
        extra_keys=(("salt",), None),
    )
    log.publish([run, BlockRemoved(block_hashes=(2,), medium="GPU")], 0.0)
    (_, event) = decode_batch(log.snapshot().payload).events
    assert event == BlockStored(
        block_hashes=(1,),
        parent_block_hash=None,
        token_ids=(1, 1),
        block_size=2,
        medium="GPU",
        extra_keys=(("salt",),),
    )


def test_what_is_removed_is_forgotten() -> None:
    log = EventLog(1)
    log.publish([stored(1), stored(2, 1)], 0.0)
    log.publish([BlockRemoved(block_hashes=(2, 1, 9), medium="GPU")], 0.0)
    assert (state(log), log._held) == ([], {})
    log.publish([stored(1)], 0.0)
    log.publish([AllBlocksCleared()], 0.0)
    assert (state(log), log._held) == ([], {})


def test_a_state_that_no_batch_holds_is_cut_at_its_ends() -> None:
    log = EventLog(1, max_batches=1)
    for chain in range(70):
        log.publish(
            [
                BlockStored(
                    block_hashes=(chain, chain + 1000),
                    parent_block_hash=None,
                    token_ids=(2**31,) * 40_000,
                    block_size=20_000,
                    medium="GPU",
                )
            ],
            0.0,
        )
    assert len(log.snapshot().payload) <= MAX_BATCH_BYTES
    held = [name for name, _ in state(log)]
    assert held == [*range(70), *range(1000, 1000 + len(held) - 70)]
    assert 70 < len(held) < 140


def test_a_state_is_written_once_until_something_happens() -> None:
    """Whoever asks again and again costs the engine's loop nothing."""
    log = EventLog(1, max_batches=1)
    for number in range(3):
        log.publish([stored(number)], 0.0)
    first = log.snapshot()
    assert log.replay(0)[0].payload is first.payload
    log.publish([stored(3)], 0.0)
    assert [name for name, _ in state(log)] == [0, 1, 2, 3]

"""Attention over windows: against the plain formula, with several sequences in a batch."""

from __future__ import annotations

import random

import pytest
import torch
from agentbus_torch.attention_cpu import WindowAttention, group_lengths
from agentbus_torch.batch import Part, make_batch
from agentbus_torch.kv import KVPool
from agentbus_torch.memory import empty_as_used
from agentbus_torch.rope import Rope

from agentbus.errors import MisuseError
from agentbus.kv import Copy

from .attending import GROUP, SHAPE, attending

KINDS = ["float32", "bfloat16", "kernels"]


def make(kind: str = "float32", **how: int) -> tuple[KVPool, WindowAttention]:
    made = attending(kind, **how)
    assert isinstance(made.attention, WindowAttention)
    return made.pool, made.attention


def pairs_of(rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, 2 * SHAPE.kv_heads, SHAPE.head_size, dtype=dtype)


@pytest.mark.parametrize("sees", [0, 1, 50, 1000, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_all_kinds(kind: str, sees: int) -> None:
    """Several steps: prompts from nothing and behind a prefix, beside single rows; a layer that
    sees all, and one that slides."""
    torch.manual_seed(1)
    made = attending(kind, sees=sees)
    for steps in (
        {0: 1, 1: 3, 2: 130},
        {0: 1, 1: 1, 2: 1},
        {0: 70, 1: 1, 2: 1, 3: 1},
        {0: 1, 1: 100, 2: 65, 3: 1},
        {0: 1, 1: 1, 2: 1, 3: 1},
        {3: 1200},
        {0: 1, 1: 1, 2: 1, 3: 1},
    ):
        for slot in steps:
            if slot not in made.said:
                assert made.attention.open((), 0, ()) == slot
        made.step([made.part(slot, rows) for slot, rows in steps.items()], sees=sees)


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_read_the_prefix_that_they_share(kind: str) -> None:
    """Of different lengths, behind different prefixes; beside one that shares nothing."""
    torch.manual_seed(3)
    made = attending(kind, sees=100, blocks=400, slots=5)
    blocks = list(range(150))
    tables: list[list[int]] = []
    for n in range(5):
        length = 0 if n == 4 else 600
        assert made.attention.open(blocks[: length // 4], length, ()) == n
        made.said[n] = made.pool.layers[0][:150].flatten(0, 1)[:length]
        tables.append([*blocks[: length // 4], *range(200 + 40 * n, 240 + 40 * n)])
    made.attention._windows.reach(2048)
    for rows in ([3, 1, 70, 20, 600], [1] * 5, [1] * 5):
        made.step([made.part(n, count, tables[n]) for n, count in enumerate(rows)])


@pytest.mark.parametrize("kind", ["bfloat16", "kernels"])
@pytest.mark.parametrize("slots", [(0, 1, 3, 6), (1, 3, 5, 6), (3, 4, 5, 7)])
def test_siblings_whose_windows_lie_apart(kind: str, slots: tuple[int, ...]) -> None:
    """Each has more of its own than the one before it; beside them is one that shares nothing."""
    torch.manual_seed(4)
    made = attending(kind, blocks=400, slots=8)
    made.raised = 1.0
    shared, other = list(range(150)), list(range(200, 350))
    made.pool.layers[0][:, :, SHAPE.kv_heads :] += 1
    for n in range(8):
        assert made.attention.open(shared if n in slots else other, 600, ()) == n
        blocks = shared if n in slots else other
        made.said[n] = made.pool.layers[0][blocks].flatten(0, 1)
    rest = 7 if 7 not in slots else 2
    for step in range(3):
        rows = {n: 1 if step else 20 * place for place, n in enumerate(slots, 1)}
        made.step(
            [
                made.part(n, count, (shared if n in slots else other) + [360 + n])
                for n, count in {**rows, rest: 1}.items()
            ]
        )


def write(attention: WindowAttention, slot: int, start: int, pairs: torch.Tensor) -> None:
    batch = make_batch([Part(slot, (), start, (1,) * len(pairs), False)], torch.device("cpu"))
    attention.prepare(batch)
    query = torch.zeros(len(pairs), SHAPE.kv_heads * GROUP, SHAPE.head_size)
    for layer in range(SHAPE.layers):
        attention.attend(layer, torch.cat((query, pairs), 1))


def test_what_is_saved_is_opened_elsewhere() -> None:
    pool, attention = make()
    pairs = pairs_of(11, torch.float32)
    slot = attention.open((), 0, ())
    write(attention, slot, 0, pairs)
    attention.save(slot, [9, 3, 40], 0, 11)
    other = attention.open([9, 3, 50], 11, [Copy(40, 50, 3)])
    assert other != slot
    window = attention._windows.layers[1][other]
    assert torch.equal(window[:, :11], pairs.transpose(0, 1))
    assert torch.equal(pool.layers[0][40, :3], pairs[8:11])


@pytest.mark.parametrize(
    "blocks", [[5], [7, 8, 9, 10, 11], [11, 10, 9, 8, 7], [3, 4, 9, 5, 6], [2, 3, 4, 3, 4]]
)
def test_blocks_are_copied_wherever_they_lie(blocks: list[int]) -> None:
    pool, attention = make()
    pool.blocks.normal_()
    size = SHAPE.block_size
    slot = attention.open(blocks, len(blocks) * size, ())
    for layer, window in zip(pool.layers, attention._windows.layers, strict=True):
        held = window[slot, :, : len(blocks) * size].transpose(0, 1)
        assert torch.equal(held, layer[blocks].flatten(0, 1))
    before, others = pool.blocks.clone(), [block + 20 for block in dict.fromkeys(blocks)]
    attention.save(slot, others, 1, len(others) * size)
    kept = [block for block in range(pool.blocks.shape[1]) if block not in others[1:]]
    assert torch.equal(pool.blocks[:, kept], before[:, kept])
    if len(others) == len(blocks):
        assert torch.equal(pool.blocks[:, others[1:]], before[:, blocks[1:]])


def test_the_next_call_of_a_conversation_finds_its_window() -> None:
    pool, attention = make()
    slots = [attention.open((), 0, ()) for _ in range(3)]
    for slot in slots:
        write(attention, slot, 0, pairs_of(8, torch.float32))
        attention.save(slot, [2 * slot, 2 * slot + 1], 0, 8)
    for slot in slots:
        attention.close(slot, keep=True)
    pool.layers[0][2:4] = torch.nan  # what is mirrored is not read again
    assert attention.open([2, 3], 8, ()) == 1
    assert not attention._windows.layers[0][1, :, :8].isnan().any()


def test_a_block_with_a_new_owner_is_read_again() -> None:
    pool, attention = make(slots=1)
    slot = attention.open((), 0, ())
    write(attention, slot, 0, pairs_of(8, torch.float32))
    attention.save(slot, [0, 1], 0, 8)
    attention.close(slot, keep=True)
    pool.own([1])
    pool.layers[0][1] = 7.0
    attention.open([0, 1], 8, ())
    assert (attention._windows.layers[0][0, :, 4:8] == 7.0).all()


def test_a_window_that_is_not_kept_is_forgotten() -> None:
    pool, attention = make(slots=1)
    attention.open([0, 1], 8, ())
    attention.close(0, keep=False)
    pool.layers[0][:2] = 7.0
    attention.open([0, 1], 8, ())
    assert (attention._windows.layers[0][0, :, :8] == 7.0).all()


def test_sequences_of_usual_lengths_need_no_longer_windows() -> None:
    _, attention = make()
    slot = attention.open((), 0, ())
    write(attention, slot, 0, pairs_of(1, torch.float32))
    memory = attention._windows._memory
    write(attention, slot, 1, pairs_of(2500, torch.float32))
    assert attention._windows._memory is memory


def test_longer_windows_are_read_anew_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """To copy all of them would have a call wait for other conversations."""
    monkeypatch.setattr("agentbus_torch.windows._FIRST_POSITIONS", 16)
    _, attention = make(slots=2)
    pairs = pairs_of(12, torch.float32)
    slot = attention.open((), 0, ())
    write(attention, slot, 0, pairs)
    attention.save(slot, [0, 1, 2], 0, 12)
    attention.close(slot, keep=True)
    write(attention, attention.open((), 0, ()), 0, pairs_of(100, torch.float32))
    assert attention._windows.capacity == 128
    assert not attention._windows.layers[0][slot].any()
    assert attention.open([0, 1, 2], 12, ()) == slot
    for layer in attention._windows.layers:
        assert torch.equal(layer[slot, :, :12], pairs.transpose(0, 1))


def test_a_window_that_becomes_longer_as_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbus_torch.windows._FIRST_POSITIONS", 16)
    pool, attention = make(slots=1)
    pool.blocks.normal_()
    attention.open([0, 1, 2], 12, ())
    attention.close(0, keep=True)
    attention.open([0, 1, 2, 3, 4, 5], 24, ())
    for stored, window in zip(pool.layers, attention._windows.layers, strict=True):
        assert torch.equal(window[0, :, :24].transpose(0, 1), stored[:6].flatten(0, 1))


def test_where_there_are_no_addresses_windows_begin_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = empty_as_used

    def bounded(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if shape[3] > 256:
            raise MemoryError
        return made(shape, dtype)

    monkeypatch.setattr("agentbus_torch.windows.empty_as_used", bounded)
    _, attention = make()
    write(attention, attention.open((), 0, ()), 0, pairs_of(130, torch.float32))
    assert attention._windows.capacity == 256
    with pytest.raises(MemoryError):
        write(attention, attention.open((), 0, ()), 0, pairs_of(257, torch.float32))


def test_longer_windows_keep_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbus_torch.windows._FIRST_POSITIONS", 64)
    _, attention = make()
    pairs = pairs_of(30, torch.float32)
    slot = attention.open((), 0, ())
    write(attention, slot, 0, pairs)
    write(attention, attention.open((), 0, ()), 0, pairs_of(2500, torch.float32))
    for layer in attention._windows.layers:
        assert torch.equal(layer[slot, :, :30], pairs.transpose(0, 1))


def test_more_sequences_than_slots_are_misuse() -> None:
    _, attention = make(slots=1)
    attention.open((), 0, ())
    with pytest.raises(MisuseError):
        attention.open((), 0, ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_longer_than_agreed_is_misuse(kind: str) -> None:
    made = attending(kind)
    made.attention.open((), 0, ())
    with pytest.raises(MisuseError):
        made.attention.prepare(make_batch([made.part(0, 3001)], torch.device("cpu")))


def test_what_others_left_in_a_window_harms_nobody() -> None:
    """A shorter sequence is read as far as its neighbour, over what its slot held before."""
    _, attention = make(slots=2)
    left = torch.full((120, 2 * SHAPE.kv_heads, SHAPE.head_size), torch.nan)
    for slot in (attention.open((), 0, ()), attention.open((), 0, ())):
        write(attention, slot, 0, left)
    for slot in (0, 1):
        attention.close(slot, keep=False)
        attention.open((), 0, ())
        write(attention, slot, 0, pairs_of(70 + slot * 20, torch.float32))
    parts = [Part(0, (), 70, (1,), True), Part(1, (), 90, (1,), True)]
    attention.prepare(make_batch(parts, torch.device("cpu")))
    assert len(attention._runs) == 1
    query = torch.randn(2, SHAPE.kv_heads * GROUP, SHAPE.head_size)
    found = attention.attend(0, torch.cat((query, pairs_of(2, torch.float32)), 1))
    assert not found.isnan().any()


def test_groups_are_neighbours_of_like_length() -> None:
    assert group_lengths([0, 1, 2], [100, 101, 99]) == [3]
    assert group_lengths([0, 2, 3], [100, 100, 100]) == [1, 2]
    assert group_lengths([0, 1, 2, 3], [2000, 90, 95, 2100]) == [1, 2, 1]
    assert group_lengths([], []) == []
    generator = random.Random(3)
    for _ in range(50):
        lengths = [generator.randrange(1, 3000) for _ in range(generator.randrange(1, 20))]
        assert sum(group_lengths(range(len(lengths)), lengths)) == len(lengths)


def test_queries_and_keys_are_turned_and_values_are_not() -> None:
    pool = KVPool(SHAPE, 4, dtype=torch.float32, device=torch.device("cpu"))
    size = SHAPE.head_size
    rope = Rope(torch.zeros(9, size), torch.ones(9, size))  # a quarter turn, signs left out
    attention = WindowAttention(pool, rope, slots=1, positions=9, sliding=[0, 0])
    attention.open((), 0, ())
    pairs = pairs_of(3, torch.float32)
    write(attention, 0, 0, pairs.clone())
    window = attention._windows.layers[0][0].transpose(0, 1)
    heads = SHAPE.kv_heads
    assert torch.equal(window[:3, :heads], pairs[:, :heads].roll(size // 2, -1))
    assert torch.equal(window[:3, heads:], pairs[:, heads:])

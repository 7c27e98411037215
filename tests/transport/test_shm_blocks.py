"""The books of an arena, after any sequence of loans and releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import MalformedFrame
from agentbus.wire import BLOCK_ALIGN, BlockTable

CAPACITY = 10 * BLOCK_ALIGN


@given(st.lists(st.one_of(st.integers(1, CAPACITY), st.integers(-9, -1)), max_size=60))
def test_blocks_do_not_overlap_and_nothing_is_lost(steps: list[int]) -> None:
    """Positive steps lend that many bytes, negative ones release one of the loans."""
    table = BlockTable(CAPACITY)
    lent: dict[int, range] = {}
    latest = 0
    for step in steps:
        if step < 0:
            if lent:
                generation = sorted(lent)[step % len(lent)]
                table.free(generation)
                del lent[generation]
            continue
        block = table.take(step)
        pages = {page for taken in lent.values() for page in taken}
        wanted = range(-(-step // BLOCK_ALIGN))
        starts = range(CAPACITY // BLOCK_ALIGN - len(wanted) + 1)
        fits = [s for s in starts if not pages & set(range(s, s + len(wanted)))]
        if block is None:
            assert not fits
            continue
        offset, generation = block
        assert generation > latest
        latest = generation
        assert offset == fits[0] * BLOCK_ALIGN
        lent[generation] = range(fits[0], fits[0] + len(wanted))
    assert len(table) == len(lent)


def test_a_loan_ends_once() -> None:
    table = BlockTable(CAPACITY)
    assert table.take(1) == (0, 1)
    table.free(1)
    for generation in (1, 0, 7):
        with pytest.raises(MalformedFrame):
            table.free(generation)
    assert table.take(CAPACITY) == (0, 2)
    assert table.take(1) is None

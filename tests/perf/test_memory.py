from __future__ import annotations

import pytest

from perf.memory import by_type

pytestmark = pytest.mark.anyio


async def test_what_agents_add_is_counted_and_the_count_itself_is_not() -> None:
    found = await by_type(50)
    assert found["Mailbox"][0] == found["Keeper"][0] == 50
    # Each keeps a message and its names of fields.
    assert 50 <= found["set"][0] < 60
    assert 50 * 1_000 < sum(size for _, size in found.values()) < 50 * 3_000

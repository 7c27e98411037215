"""What the suite counts as new, and the bar that eight agents have to meet."""

from __future__ import annotations

import pytest

from perf.macro.fanout_context import FULL, eight_agents, new_tokens, staged


def test_each_prefix_is_new_once() -> None:
    assert new_tokens([]) == 0
    assert new_tokens([[1, 2, 3], [1, 2, 3]]) == 3
    assert new_tokens([[1, 2, 3], [2, 3], [1, 2, 4, 5], [1, 2, 3, 6]]) == 8


@pytest.mark.anyio
@pytest.mark.model
async def test_eight_agents_prefill_one_new_context_once() -> None:
    async with staged() as stage:
        rows = await eight_agents(stage, FULL, lambda what: None)
    by_peer = {row.peer: row for row in rows if row.metric == "prefilled_tokens"}
    new = by_peer["sum_of_new"].peer_value
    assert new is not None
    assert new > 1500
    assert by_peer["sum_of_new"].value <= 1.1 * new
    assert (by_peer["nothing_shared"].ratio or 0) > 6

"""A very short run of the large payloads' contenders."""

from __future__ import annotations

import pytest

from perf.micro import bulk, bulk_driver
from perf.peers import GRPC


@pytest.mark.anyio
async def test_agentbus_can_be_measured() -> None:
    results = await bulk.run_rounds([bulk.OURS], 1, lambda _: None)
    assert set(results) == {bulk.OURS}
    assert all(value > 0 for value in results[bulk.OURS].values())
    assert set(results[bulk.OURS]) == {"first_ms", "repeat_ms"}


@pytest.mark.anyio
@pytest.mark.skipif(bool(GRPC.missing()), reason="the peer is not installed")
async def test_grpc_can_be_measured() -> None:
    results = await bulk.run_rounds([GRPC.name], 1, lambda _: None)
    assert all(value > 0 for value in results[GRPC.name].values())


def test_every_peer_has_its_ways() -> None:
    assert set(bulk.TARGETS) == {bulk.OURS, *(peer.name for peer in bulk.SUITE.peers)}
    assert bulk_driver.BULK_BYTES == 64 * 2**20

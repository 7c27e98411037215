"""Which tier holds which block: by example, and by random operations performed on naive stores."""

from __future__ import annotations

import random

import pytest

from agentbus.errors import MisuseError
from agentbus.kv import BlockKey, Drop, FetchPlan, Rate, Store, Tier, TierIndex, TierSizes

BYTES, TOKENS = 1000, 10


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def keys(*numbers: int) -> list[BlockKey]:
    return [key(number) for number in numbers]


def tiers(host: int = 8, disk: int = 8) -> TierIndex:
    return TierIndex(TierSizes(host=host, disk=disk), block_bytes=BYTES, block_tokens=TOKENS)


def measured(
    host: float | None = None, disk: float | None = None, *, prefill: float = 100.0
) -> TierIndex:
    """Return tiers whose blocks take so many seconds to fetch, and 0.1 s to compute."""
    index = tiers()
    index.rates.prefill.observe(prefill, 1.0)
    for tier, seconds in ((Tier.HOST, host), (Tier.DISK, disk)):
        if seconds is not None:
            index.rates.read[tier].observe(BYTES, seconds)
    return index


def on_disk(index: TierIndex, *numbers: int) -> None:
    assert index.adopt(Tier.DISK, keys(*numbers)) == []


def test_blocks_sink_as_tiers_fill() -> None:
    index = tiers(host=1, disk=1)
    one, two, three = keys(1, 2, 3)
    assert index.demote(one) == [Store(one, Tier.DEVICE, Tier.HOST)]
    assert index.demote(two) == [
        Store(one, Tier.HOST, Tier.DISK),
        Drop(one, Tier.HOST),
        Store(two, Tier.DEVICE, Tier.HOST),
    ]
    assert index.demote(three) == [
        Drop(one, Tier.DISK),
        Store(two, Tier.HOST, Tier.DISK),
        Drop(two, Tier.HOST),
        Store(three, Tier.DEVICE, Tier.HOST),
    ]
    assert [index.tier(k) for k in (one, two, three)] == [None, Tier.DISK, Tier.HOST]


def test_a_flush_takes_host_memory_to_disk_the_latest_used_last() -> None:
    index = tiers(host=3, disk=2)
    one, two, three = keys(1, 2, 3)
    for block in (one, two, three):
        index.demote(block)
    assert index.flush() == [
        Store(one, Tier.HOST, Tier.DISK),
        Store(two, Tier.HOST, Tier.DISK),
        Drop(one, Tier.DISK),
        Store(three, Tier.HOST, Tier.DISK),
    ]
    assert tiers(host=3, disk=0).flush() == []


def test_without_host_memory_blocks_go_to_disk_and_without_either_nowhere() -> None:
    assert tiers(host=0).demote(key(1)) == [Store(key(1), Tier.DEVICE, Tier.DISK)]
    assert tiers(host=0, disk=0).demote(key(1)) == []
    index = tiers(host=1, disk=0)
    index.demote(key(1))
    assert index.demote(key(2)) == [
        Drop(key(1), Tier.HOST),
        Store(key(2), Tier.DEVICE, Tier.HOST),
    ]


def test_what_lies_below_already_is_not_stored_again_and_stays_longer() -> None:
    index = tiers(host=2, disk=0)
    index.demote(key(1))
    index.demote(key(2))
    assert index.demote(key(1)) == []
    assert index.demote(key(3))[0] == Drop(key(2), Tier.HOST)


def test_nothing_is_fetched_before_computing_was_measured() -> None:
    index = tiers()
    index.demote(key(1))
    assert index.plan(keys(1), 0) == FetchPlan((), False)


def test_a_tier_is_measured_once_with_a_few_blocks() -> None:
    index = measured()
    on_disk(index, *range(8))
    wanted = keys(*range(8))
    plan = index.plan(wanted, 0)
    assert plan == FetchPlan(tuple((k, Tier.DISK) for k in wanted[: TierIndex.PROBE_BLOCKS]), True)
    index.rates.read[Tier.DISK].observe(4 * BYTES, 0.2)
    assert index.plan(wanted, 0) == FetchPlan(tuple((k, Tier.DISK) for k in wanted), False)


def test_a_probe_stays_within_its_tier() -> None:
    index = measured(host=0.01)
    on_disk(index, 2)
    for number in (1, 3):
        index.demote(key(number))
    plan = index.plan(keys(1, 2, 3), 0)
    assert plan == FetchPlan(((key(1), Tier.HOST), (key(2), Tier.DISK)), True)


@pytest.mark.parametrize(("seconds", "fetched"), [(0.09, 3), (0.11, 0)])
def test_blocks_are_fetched_only_when_that_beats_computing(seconds: float, fetched: int) -> None:
    index = measured(disk=seconds)
    on_disk(index, 1, 2, 3)
    assert len(index.plan(keys(1, 2, 3), 0).blocks) == fetched


def test_a_slow_block_is_fetched_where_faster_ones_behind_it_pay_for_it() -> None:
    index = measured(host=0.01, disk=0.15)
    on_disk(index, 1)
    for number in (2, 3):
        index.demote(key(number))
    assert len(index.plan(keys(1, 2, 3), 0).blocks) == 3
    index = measured(host=0.09, disk=0.15)
    on_disk(index, 1, 4)
    index.demote(key(2))
    assert index.plan(keys(1, 2, 4), 0).blocks == ()


def test_nothing_is_measured_behind_blocks_that_are_not_worth_fetching() -> None:
    index = measured(host=0.2)
    index.demote(key(1))
    on_disk(index, 2)
    assert index.plan(keys(1, 2), 0) == FetchPlan((), False)


def test_what_the_device_has_is_not_fetched_and_what_is_missing_ends_the_run() -> None:
    index = measured(host=0.01)
    for number in (1, 2, 4):
        index.demote(key(number))
    assert index.plan(keys(1, 2, 3, 4), 1).blocks == ((key(2), Tier.HOST),)
    assert index.plan(keys(1, 2, 3, 4), 4).blocks == ()
    index.lost(key(2), Tier.HOST)
    assert index.plan(keys(1, 2, 3, 4), 1).blocks == ()


def test_a_tier_that_lost_is_tried_again_now_and_then() -> None:
    index = measured(disk=0.2)
    on_disk(index, 1)
    probes = [index.plan(keys(1), 0).is_probe for _ in range(2 * TierIndex.RETRY + 2)]
    assert [n for n, probe in enumerate(probes) if probe] == [
        TierIndex.RETRY,
        2 * TierIndex.RETRY + 1,
    ]


def test_of_a_sequence_that_was_fetched_the_end_goes_first() -> None:
    index = TierIndex(TierSizes(disk=4), block_bytes=BYTES, block_tokens=TOKENS)
    index.rates.prefill.observe(100, 1.0)
    index.rates.read[Tier.DISK].observe(BYTES, 0.01)
    on_disk(index, 1, 2, 3, 4)
    index.touch(keys(1, 2, 3), 0)
    assert len(index.plan(keys(1, 2, 3), 0).blocks) == 3
    dropped = [index.demote(key(number))[0] for number in range(10, 14)]
    assert dropped == [Drop(k, Tier.DISK) for k in keys(4, 3, 2, 1)]


def test_adopted_blocks_over_the_size_are_dropped_oldest_first() -> None:
    index = tiers(disk=2)
    assert index.adopt(Tier.DISK, keys(1, 2, 3)) == [Drop(key(1), Tier.DISK)]
    assert index.count(Tier.DISK) == 2


def test_later_measurements_count_more() -> None:
    rate = Rate()
    assert rate.value is None
    rate.observe(0, 1)
    rate.observe(1, 0)
    assert rate.value is None
    rate.observe(100, 1.0)
    assert rate.value == 100
    for _ in range(30):
        rate.observe(10, 1.0)
    assert rate.value == pytest.approx(10, rel=0.05)


def test_sizes_are_checked() -> None:
    with pytest.raises(MisuseError):
        TierSizes(host=-1)
    with pytest.raises(MisuseError):
        TierIndex(TierSizes(), block_bytes=0, block_tokens=1)


@pytest.mark.parametrize("seed", range(10))
def test_stores_that_do_as_told_hold_what_the_index_says(seed: int) -> None:
    chance = random.Random(seed)
    sizes = {Tier.HOST: chance.randint(0, 4), Tier.DISK: chance.randint(0, 6)}
    index = tiers(host=sizes[Tier.HOST], disk=sizes[Tier.DISK])
    index.rates.prefill.observe(1, 1)
    held: dict[Tier, set[BlockKey]] = {Tier.HOST: set(), Tier.DISK: set()}
    for _ in range(400):
        chosen = key(chance.randrange(15))
        if chance.random() < 0.2:
            index.touch([chosen], 0)
        for action in index.demote(chosen):
            if isinstance(action, Drop):
                held[action.tier].remove(action.key)
                continue
            assert action.source is Tier.DEVICE or action.key in held[action.source]
            assert action.key not in held[action.target]
            held[action.target].add(action.key)
            assert len(held[action.target]) <= sizes[action.target]
        for number in range(15):
            where = next((tier for tier in held if key(number) in held[tier]), None)
            assert index.tier(key(number)) is where
        assert [index.count(tier) for tier in held] == [len(blocks) for blocks in held.values()]

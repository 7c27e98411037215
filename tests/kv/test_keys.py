"""Keys of KV blocks: the same everywhere, and different wherever the KV would be."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.errors import MisuseError
from agentbus.kv import BlockKey, KeyChain, KVFingerprint, derive_tenant_key

PLAIN = KVFingerprint(
    model="llama 30x576",
    weights=b"weights",
    dtype="bfloat16",
    rope="theta 100000",
    tokenizer=b"tokenizer",
    block_size=4,
)
TENANT = derive_tenant_key(bytes(32), "acme")
CHAIN = KeyChain(TENANT, PLAIN)

VECTORS = (
    "6f81e02d4c43967e3796baeb8816a56205ee0920923441e02c36db302ce9f650",
    "e0c1f1c211a0be19c160c621e8213e0b38d3bb245bff30d4bc4fd1f702b0882e",
    "72eba5703560ce4d979af7caf908665d4dd7247ff80ac3044992ed6ec992c829",
)
"""Keys of the ids 0 … 11 in blocks of four, as every version must compute them."""


def hexes(keys: list[BlockKey]) -> tuple[str, ...]:
    return tuple(key.digest.hex() for key in keys)


def test_the_keys_of_a_known_sequence_never_change() -> None:
    assert TENANT.hex() == "b9718a0fbbbae13f44a2c718d6f0470226989db88fcefd4cd2e7f845b0e69348"
    assert PLAIN.digest.hex() == "d2d9057506c8e3f55abbff277c357ecbeb4b2630737270ce75c0a6ae294be5f3"
    assert hexes(CHAIN.keys(range(12))) == VECTORS
    assert (
        CHAIN.namespace.hex() == "f753e95ea61dbb2ae952aebc7fcdbbfa3a2368572e0aff042b9a697a18fbc42b"
    )


def test_only_whole_blocks_have_keys() -> None:
    for length in range(13):
        assert hexes(CHAIN.keys(range(length))) == VECTORS[: length // 4]


def test_a_chain_goes_on_behind_a_parent() -> None:
    first, *rest = CHAIN.keys(range(12))
    assert CHAIN.keys(range(4, 12), parent=first) == rest
    assert CHAIN.keys(range(4, 12)) != rest


def test_tokens_come_in_any_sequence() -> None:
    for tokens in (list(range(8)), tuple(range(8)), array("I", range(8)), array("q", range(8))):
        assert hexes(CHAIN.keys(tokens)) == VECTORS[:2]
    for wrong in ([-1], [2**32], ["a"], [1.5]):
        with pytest.raises(MisuseError, match="token ids"):
            CHAIN.keys(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "llama 30x577"},
        {"weights": b"weightz"},
        {"dtype": "float32"},
        {"rope": "theta 10000"},
        {"tokenizer": b"tokenizes"},
        {"adapter": "lora"},
        {"block_size": 2},
        {"model": "llama 30x576b", "dtype": "float16"},
        {"model": "llama 30x576bfloat16", "dtype": ""},
    ],
)
def test_whatever_shapes_kv_changes_every_key(change: dict[str, object]) -> None:
    other = KeyChain(TENANT, replace(PLAIN, **change))  # type: ignore[arg-type]
    assert other.namespace != CHAIN.namespace
    assert not {*hexes(other.keys(range(12)))} & {*VECTORS}


def test_two_tenants_share_nothing() -> None:
    for key in (derive_tenant_key(bytes(32), "acme2"), derive_tenant_key(b"s" * 32, "acme")):
        other = KeyChain(key, PLAIN)
        assert other.namespace != CHAIN.namespace
        assert not {*hexes(other.keys(range(12)))} & {*VECTORS}


Sequence = st.lists(st.integers(0, 2**32 - 1), max_size=14)


@settings(deadline=None)
@given(left=Sequence, right=Sequence)
def test_keys_are_equal_exactly_where_all_before_is(left: list[int], right: list[int]) -> None:
    for number, (one, two) in enumerate(zip(CHAIN.keys(left), CHAIN.keys(right), strict=False), 1):
        assert (one == two) == (left[: number * 4] == right[: number * 4])


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockKey(bytes(31)),
        lambda: BlockKey("0" * 32),  # type: ignore[arg-type]
        lambda: KeyChain(b"short", PLAIN),
        lambda: derive_tenant_key(b"short", "acme"),
        lambda: replace(PLAIN, block_size=0),
        lambda: replace(PLAIN, block_size=True),
        lambda: replace(PLAIN, weights=b""),
        lambda: replace(PLAIN, tokenizer="text"),  # type: ignore[arg-type]
        lambda: replace(PLAIN, dtype=None),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_a_key_or_fingerprint_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(MisuseError):
        make()

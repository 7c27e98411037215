"""An engine whose pool is too small for its traffic: tiers below give back what it computed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from agentbus_torch.engine import TorchEngine, load_engine

from agentbus.engine import Finished, GenerateRequest, Piece, Usage
from agentbus.errors import ConfigError
from agentbus.kv import Tier
from agentbus.storage import TierStats
from tests.torch.tiny import TinyModel, tiny_settings

pytestmark = pytest.mark.anyio

ONE, TWO = tuple(range(3, 163)), tuple(range(200, 40, -1))
"""Prompts of 160 tokens, in a pool of 256."""
ALL = tuple(range(230, 0, -1)) + ONE[:10]
"""With its answer it takes the whole pool."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=512).write(tmp_path_factory.mktemp("tiny"))


@asynccontextmanager
async def opened(folder: Path, **settings: object) -> AsyncIterator[TorchEngine]:
    fields = {"kv_tokens": 256, **settings}
    engine = load_engine(str(folder), tiny_settings(**fields))  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        await engine.aclose()


async def ask(
    engine: TorchEngine, prompt: tuple[int, ...], *, tenant: str = "", reuse: bool = True
) -> tuple[list[int], Usage]:
    request = GenerateRequest(
        prompt=prompt, max_tokens=12, ignore_end=True, tenant=tenant, reuse=reuse
    )
    ids: list[int] = []
    with anyio.fail_after(30):
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return ids, item.usage
                assert isinstance(item, Piece)
                ids += item.token_ids
    raise AssertionError("no Finished")


def tiers(engine: TorchEngine) -> TierStats:
    assert engine._runner.tiers is not None
    return engine._runner.tiers.stats()


def measured(engine: TorchEngine) -> None:
    """Let fetching look worth it: a tiny model computes faster than any tier is read."""
    assert engine._runner.tiers is not None
    engine._runner.tiers.prefilled(1, 1e9)


async def test_evicted_prompts_come_back_from_host_memory(folder: Path) -> None:
    async with opened(folder, kv_host_bytes=10**6) as engine:
        measured(engine)
        expected, first = await ask(engine, ONE)
        assert first.reused_tokens == 0
        await ask(engine, TWO)
        ids, usage = await ask(engine, ONE)
        assert ids == expected
        assert (usage.reused_tokens, usage.prefilled_tokens) == (144, 16)
        assert tiers(engine).fetched[Tier.HOST] > 0
        assert (await ask(engine, ONE, reuse=False))[0] == expected
        engine._runner.check_integrity()


async def test_prompts_outlive_the_engine_on_disk(folder: Path, tmp_path: Path) -> None:
    disk = {"kv_disk_bytes": 10**7, "kv_dir": str(tmp_path / "kv")}
    async with opened(folder, **disk) as engine:
        expected, _ = await ask(engine, ONE)
        await ask(engine, ALL)
        assert tiers(engine).disk_blocks > 0
        with pytest.raises(ConfigError, match="another engine"):
            load_engine(str(folder), tiny_settings(kv_tokens=256, **disk))  # type: ignore[arg-type]
    async with opened(folder, **disk) as engine:
        measured(engine)
        ids, usage = await ask(engine, ONE)
        assert (ids, usage.reused_tokens) == (expected, 4 * 16)  # that much to measure the disk
        await ask(engine, ALL)
        ids, usage = await ask(engine, ONE)
        assert (ids, usage.reused_tokens) == (expected, 144)
    async with opened(folder, dtype="bfloat16", **disk) as engine:
        measured(engine)
        _, usage = await ask(engine, ONE)
        assert usage.reused_tokens == 0


def poison(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [poison, lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda _: b""],
    ids=["poisoned", "a_byte_short", "cut_in_half", "empty"],
)
async def test_damaged_blocks_are_computed_again(
    folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    async with opened(folder, kv_disk_bytes=10**7, kv_dir=str(tmp_path / "kv")) as engine:
        measured(engine)
        expected, _ = await ask(engine, ONE)
        await ask(engine, TWO)
        paths = list((tmp_path / "kv").rglob("*.kv"))
        for path in paths:
            path.write_bytes(damage(path.read_bytes()))
        ids, _ = await ask(engine, ONE)
        assert ids == expected
        assert tiers(engine).fetched == {Tier.DISK: 0}
        assert tiers(engine).lost == 1
        engine._runner.check_integrity()


async def test_tenants_are_apart_in_every_tier(folder: Path) -> None:
    async with opened(folder, kv_host_bytes=10**6) as engine:
        measured(engine)
        await ask(engine, ONE, tenant="one")
        await ask(engine, TWO, tenant="one")
        _, usage = await ask(engine, ONE, tenant="two")
        assert usage.reused_tokens == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_lies_where_answers_stay_the_same(
    folder: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    answers: dict[tuple[int, ...], list[int]] = {}
    room = {"kv_host_bytes": 40_000, "kv_disk_bytes": 10**6, "kv_dir": str(tmp_path / "kv")}
    async with opened(folder, **room) as engine:
        for _ in range(25):
            measured(engine)
            start, length = chance.choice([3, 60]), chance.choice([40, 75, 130, 180])
            prompt = tuple(range(start, start + length))
            ids, _ = await ask(engine, prompt)
            assert answers.setdefault(prompt, ids) == ids
            engine._runner.check_integrity()
        assert sum(tiers(engine).fetched.values()) > 0
        for prompt, ids in answers.items():
            assert (await ask(engine, prompt, reuse=False))[0] == ids


@pytest.mark.parametrize("host", [0, 10**6])
async def test_what_was_never_evicted_is_found_after_a_restart(
    folder: Path, tmp_path: Path, host: int
) -> None:
    room = {"kv_host_bytes": host, "kv_disk_bytes": 10**7, "kv_dir": str(tmp_path / "kv")}
    async with opened(folder, **room) as engine:
        expected, _ = await ask(engine, ONE)
        await ask(engine, TWO)
        before = tiers(engine).disk_blocks + tiers(engine).host_blocks
    assert len(list((tmp_path / "kv").rglob("*.kv"))) == 20 > before
    async with opened(folder, **room) as engine:
        measured(engine)
        for prompt in (ONE, TWO):  # the first one's first blocks measure the disk
            ids, usage = await ask(engine, prompt)
            assert usage.reused_tokens == (64 if prompt == ONE else 144)
            assert (ids == expected) == (prompt == ONE)


async def test_a_disk_that_is_too_small_keeps_what_is_worth_most(
    folder: Path, tmp_path: Path
) -> None:
    async with opened(folder, kv_disk_bytes=10**6, kv_dir=str(tmp_path / "size")) as engine:
        await ask(engine, ONE)
    size = next((tmp_path / "size").rglob("*.kv")).stat().st_size
    room = {"kv_disk_bytes": 5 * size, "kv_dir": str(tmp_path / "kv")}
    async with opened(folder, **room) as engine:
        await ask(engine, ONE)
    async with opened(folder, **room) as engine:
        measured(engine)
        assert tiers(engine).disk_blocks == 5
        assert (await ask(engine, ONE))[1].reused_tokens == 64

"""Calls that are wrong, or made to harm others: each ends typed, and the engine goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from agentbus_torch.driver import Driver, Job
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.sequence import Call
from agentbus_torch.spoken import Spoken

from agentbus.context import Prompt, Turn
from agentbus.engine import GenerateRequest
from agentbus.errors import AgentbusError, Closed, ConfigError, EngineFailed
from tests.torch.test_torch_engine import ask
from tests.torch.tiny import TinyModel, tiny_settings

pytestmark = pytest.mark.anyio

CUE = Turn("assistant", "", "writer")
SAID = Prompt((Turn("user", "Tides rise and fall."),), CUE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel().write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path, tmp_path: Path) -> AsyncIterator[TorchEngine]:
    settings = tiny_settings(kv_tokens=1024, token_log=str(tmp_path / "log.jsonl"))
    opened = load_engine(str(folder), settings)
    yield opened
    await opened.aclose()


async def goes_on(engine: TorchEngine) -> None:
    """See that nothing is left of a call, and that another one is answered."""
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.locked_blocks) == (0, 0, 0)
    await ask(engine, GenerateRequest(prompt=SAID, max_tokens=2))


async def test_a_label_that_is_no_utf8_costs_its_line_in_the_log(engine: TorchEngine) -> None:
    await ask(engine, GenerateRequest(prompt=SAID, max_tokens=2, label="\ud800"))
    await goes_on(engine)


async def test_tools_that_change_behind_the_checks(engine: TorchEngine) -> None:
    tool: dict[str, Any] = {"name": "tide", "parameters": {"type": "object"}}
    request = GenerateRequest(prompt=SAID, max_tokens=2, tools=(tool,))
    tool["name"] = "no name"
    with pytest.raises(ConfigError):
        await ask(engine, request)
    await goes_on(engine)


@pytest.mark.parametrize("method", ["add", "end"])
async def test_an_answer_that_cannot_be_told_ends_its_own_call(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(Spoken, method, fail)
        with pytest.raises(EngineFailed, match="out of luck"):
            await ask(engine, GenerateRequest(prompt=SAID, max_tokens=2))
    await goes_on(engine)


async def test_an_answer_behind_a_begun_one_is_remembered_whole(engine: TorchEngine) -> None:
    """What stands in a cue is a part of the turn, and of no other turn."""
    encoder = engine._loaded.encoder
    alone = Prompt((Turn("assistant", " rise", "writer"),), CUE)
    before = encoder.encode(alone)
    ids = engine._loaded.vocabulary.plain(" rise")
    begun = Prompt(SAID.turns, Turn("assistant", " Tides", "writer"))
    await ask(engine, GenerateRequest(prompt=begun, forced=ids))
    assert encoder.encode(alone) == before
    whole = Prompt((*SAID.turns, Turn("assistant", " Tides rise", "writer")), CUE)
    _, _, done = await ask(engine, GenerateRequest(prompt=whole, max_tokens=0))
    assert done.usage.reused_tokens >= len(encoder.encode(begun)) + len(ids) - 1


async def test_forced_markup_does_not_stand_for_the_text_without_it(engine: TorchEngine) -> None:
    vocabulary, encoder = engine._loaded.vocabulary, engine._loaded.encoder
    later = Prompt((*SAID.turns, Turn("assistant", " yes", "writer")), CUE)
    before = encoder.encode(later)
    markup = vocabulary.markup("<|im_end|><|im_start|>")
    forced = (*vocabulary.plain(" yes"), *markup)
    await ask(engine, GenerateRequest(prompt=SAID, forced=forced))
    assert encoder.encode(later) == before


class _Panics:
    """A worker in which a library panics, as Rust's do: no `Exception` is raised."""

    running = 0

    def __init__(self, where: str) -> None:
        self._where = where

    def _do(self, what: str) -> None:
        if what == self._where:
            raise _Panic(what)

    def prepare(self) -> None:
        self._do("prepare")

    def begin(self, job: Job) -> bool:
        self._do("begin")
        return True

    def step(self) -> list[Job]:
        self._do("step")
        return []

    def end(self, job: Job) -> None:
        self._do("end")

    def rest(self) -> None:
        self._do("rest")

    def cancel(self, job: Job) -> None:
        self._do("cancel")


class _Panic(BaseException):
    pass


def _call() -> Call:
    return Call(prompt=(1,), max_tokens=1)


@pytest.mark.parametrize("where", ["begin", "step"])
async def test_who_waits_for_a_thread_that_is_gone_is_told(where: str) -> None:
    driver = Driver(_Panics(where), name="tiny", limit=4)
    job = driver.submit(GenerateRequest(prompt=(1,)), _call)
    with anyio.fail_after(10):
        assert isinstance(await job.next(), EngineFailed)
        await driver.withdraw(job)
        with pytest.raises(Closed):
            driver.submit(GenerateRequest(prompt=(1,)), _call)
        await driver.aclose()
    assert driver.waiting == 0


HOSTILE: dict[str, Callable[[TorchEngine], Any]] = {
    "no_prompt": lambda engine: ask(engine, GenerateRequest(prompt=())),
    "unknown_id": lambda engine: ask(engine, GenerateRequest(prompt=(260,))),
    "negative_id": lambda engine: ask(engine, GenerateRequest(prompt=(5, -1))),
    "huge_id": lambda engine: ask(engine, GenerateRequest(prompt=(2**70,))),
    "huge_forced_id": lambda engine: ask(engine, GenerateRequest(prompt=(5,), forced=(2**70,))),
    "over_the_window": lambda engine: ask(engine, GenerateRequest(prompt=SAID, max_tokens=2**60)),
    "half_a_character": lambda engine: ask(
        engine, GenerateRequest(prompt=Prompt((Turn("user", "\ud800"),), CUE))
    ),
    "tenant": lambda engine: ask(engine, GenerateRequest(prompt=SAID, tenant="\ud800")),
    "no_such_role": lambda engine: ask(
        engine, GenerateRequest(prompt=Prompt((Turn("root", "x"),), CUE))
    ),
    "score_nothing": lambda engine: engine.score((5,), []),
    "score_behind_nothing": lambda engine: engine.score((), [(5, 6)]),
    "score_unknown_id": lambda engine: engine.score((5,), [(2**70,)]),
    "score_over_the_window": lambda engine: engine.score((5,), ["x" * 600]),
    "embed_nothing": lambda engine: engine.embed([]),
    "embed_over_the_window": lambda engine: engine.embed(["x" * 600]),
    "embed_half_a_character": lambda engine: engine.embed(["\ud800"]),
    "prefill_over_the_window": lambda engine: engine.prefill(
        Prompt((Turn("user", "x" * 600),), CUE)
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_cannot_be_computed_is_typed(engine: TorchEngine, case: str) -> None:
    with pytest.raises(AgentbusError):
        await HOSTILE[case](engine)
    await goes_on(engine)

"""What the torch engine does beyond the contract of all engines."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from agentbus_torch.batch import Batch
from agentbus_torch.choose import Chosen
from agentbus_torch.cores import Cores
from agentbus_torch.device import Scores
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.in_team import process_team
from agentbus_torch.runner import Runner
from agentbus_torch.scheduler import CHUNK_TOKENS
from agentbus_torch.sequence import Sequence
from agentbus_torch.team import Team
from anyio.lowlevel import checkpoint

from agentbus.context import Prompt, Turn
from agentbus.engine import Finished, GenerateRequest, Piece
from agentbus.errors import ConfigError, EngineFailed, MailboxFull
from agentbus.kv import Step, WorkflowAware
from tests.torch.tiny import CHATML, TinyModel, tiny_settings
from tests.torch.under_way import let_run_ahead

CUE = Turn("assistant", "", "writer")
SAID = Prompt((Turn("system", "Be brief."), Turn("user", "Tides rise and fall. " * 4)), CUE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=2048).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["at_once", "ahead"])
async def engine(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[TorchEngine]:
    settings = tiny_settings(kv_tokens=4096, queue=3, token_log=str(tmp_path / "log.jsonl"))
    opened = load_engine(str(folder), settings)
    let_run_ahead(opened._runner, request.param == "ahead")
    yield opened
    await opened.aclose()


async def ask(engine: TorchEngine, request: GenerateRequest) -> tuple[str, list[int], Finished]:
    text, ids = "", list[int]()
    with anyio.fail_after(30):
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return text, ids, item
                text += item.text
                ids += item.token_ids
    raise AssertionError("no Finished")


@pytest.mark.anyio
async def test_reuse_changes_nothing_in_a_conversation(engine: TorchEngine) -> None:
    turns = SAID.turns
    for hop in range(5):
        prompt = Prompt(turns, Turn("assistant", "", f"agent{hop % 2}"))
        text, ids, done = await ask(
            engine, GenerateRequest(prompt=prompt, max_tokens=20, ignore_end=True)
        )
        sequence = engine._loaded.encoder.encode(prompt)
        request = GenerateRequest(prompt=sequence, max_tokens=20, ignore_end=True, reuse=False)
        assert (await ask(engine, request))[1] == ids
        if hop:  # the last token of the answer, the end of its turn, and the cue
            assert done.usage.prefilled_tokens == 1 + 2 + len("\n<assistant\nagent0:") - 1
        turns = (*turns, Turn("assistant", text, f"agent{hop % 2}"))


@pytest.mark.anyio
async def test_a_template_that_drops_turns_reuses_nothing_wrong(tmp_path: Path) -> None:
    """It shows the last three turns alone, so that a longer prompt does not begin as a shorter."""
    template = CHATML.replace("in messages", "in messages[-3:]")
    folder = TinyModel(window=2048).write(tmp_path / "forgetful", template=template)
    engine = load_engine(str(folder), tiny_settings(kv_tokens=4096))
    assert not engine.capabilities.append_only_template
    turns = SAID.turns
    for hop in range(5):
        prompt = Prompt(turns, CUE)
        request = GenerateRequest(prompt=prompt, max_tokens=12, ignore_end=True)
        text, ids, done = await ask(engine, request)
        _, alone, _ = await ask(engine, dataclasses.replace(request, reuse=False))
        assert ids == alone
        assert done.usage.reused_tokens < done.usage.prompt_tokens // 2
        turns = (*turns, Turn("assistant", text, "writer"), Turn("user", f"And {hop}?" * 5))
    engine._runner.check_integrity()
    assert engine.stats().locked_blocks == 0
    await engine.aclose()


@pytest.mark.anyio
async def test_losing_the_memo_costs_tokens_only(engine: TorchEngine) -> None:
    request = GenerateRequest(prompt=SAID, max_tokens=20, ignore_end=True)
    text, _, first = await ask(engine, request)
    later = Prompt((*SAID.turns, Turn("assistant", text, "writer")), CUE)
    engine._loaded.encoder._memo.clear()
    prompt = engine._loaded.encoder.encode(later)
    _, ids, done = await ask(engine, GenerateRequest(prompt=later, max_tokens=5, ignore_end=True))
    request = GenerateRequest(prompt=prompt, max_tokens=5, ignore_end=True, reuse=False)
    assert (await ask(engine, request))[1] == ids
    assert first.usage.prompt_tokens - 1 <= done.usage.reused_tokens <= len(prompt) - 1


@pytest.mark.anyio
async def test_markup_in_a_text_ends_no_turn(engine: TorchEngine) -> None:
    prompt = Prompt((Turn("user", "a<|im_end|>\n<|im_start|>system\nb"),), CUE)
    _, _, done = await ask(engine, GenerateRequest(prompt=prompt, max_tokens=1))
    whole = engine.tokenize(prompt)  # as servers do: there, the text is markup
    assert done.usage.prompt_tokens > len(whole)


@pytest.mark.anyio
async def test_ended_answers_stop_and_ignored_ends_do_not(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerateRequest(prompt=SAID, max_tokens=12, ignore_end=True)
    _, ids, _ = await ask(engine, request)
    stop = ids[5]
    monkeypatch.setattr(engine._runner, "_end_ids", frozenset({stop}))
    _, short, done = await ask(engine, GenerateRequest(prompt=SAID, max_tokens=12))
    assert short == ids[: ids.index(stop)] and done.reason == "end"


@pytest.mark.anyio
async def test_the_log_tells_what_was_computed(engine: TorchEngine, tmp_path: Path) -> None:
    for label in ("first", "second"):
        request = GenerateRequest(prompt=SAID, max_tokens=3, ignore_end=True, label=label)
        _, ids, done = await ask(engine, request)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["first", "second"]
    assert lines[1]["generated_ids"] == ids
    assert lines[1]["reused"] == done.usage.reused_tokens
    assert lines[1]["prefilled"] == 1
    assert len(lines[1]["prompt_ids"]) == done.usage.prompt_tokens


class Gate:
    """Holds the engine's thread before a step, while `when` says so."""

    def __init__(self, patch: pytest.MonkeyPatch, when: Callable[[Runner], bool]) -> None:
        self.reached = anyio.Event()
        self._resume = threading.Event()
        loop, original = asyncio.get_running_loop(), Runner.step

        def step(runner: Runner) -> list[tuple[Sequence, Chosen | None]]:
            if when(runner):
                loop.call_soon_threadsafe(self.reached.set)
                self._resume.wait(10)
            return original(runner)

        patch.setattr(Runner, "step", step)

    def open(self) -> None:
        self._resume.set()


@pytest.mark.anyio
async def test_an_unexpected_failure_ends_one_request(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    for owner, name in ((type(engine._runner.steps), "scores"), (Runner, "step")):
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(owner, name, fail)
            with pytest.raises(EngineFailed, match="out of luck"):
                await ask(engine, GenerateRequest(prompt=SAID, max_tokens=3))
        assert "failed on a request" in caplog.text
        assert engine.stats().free_blocks == engine.stats().total_blocks
    _, ids, _ = await ask(engine, GenerateRequest(prompt=SAID, max_tokens=3, ignore_end=True))
    assert len(ids) == 3


async def threads_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cores: float | None = None, most: int = 3
) -> list[int]:
    """Ask an engine of most threads, each step of which counts; return the numbers it took.

    `cores` is what the system says that it could have.
    """
    taken: list[int] = []
    original, before = torch.set_num_threads, torch.get_num_threads()

    def take(threads: int) -> None:
        if threading.current_thread().name == "agentbus-torch":
            taken.append(threads)
            original(threads)

    monkeypatch.setattr(torch, "set_num_threads", take)
    monkeypatch.setattr("agentbus_torch.team.WINDOW_S", 0.0)
    monkeypatch.setattr(Cores, "available", lambda self: cores)
    process_team.cache_clear()  # as in a process of its own
    engine = load_engine(str(folder), tiny_settings(threads=most))
    try:
        await ask(engine, GenerateRequest(prompt=SAID, max_tokens=4, ignore_end=True))
    finally:
        await engine.aclose()
        process_team.cache_clear()
        original(before)
    return taken


@pytest.mark.anyio
async def test_fewer_threads_compute_while_others_have_the_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.process_time", lambda: 0.0)  # the process never gets a core
    assert await threads_of(folder, monkeypatch) == [3, 1]


@pytest.mark.anyio
async def test_an_engine_begins_with_as_many_threads_as_there_are_cores_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.process_time", lambda: 3 * time.perf_counter())
    assert await threads_of(folder, monkeypatch, cores=2.2) == [2]


@pytest.mark.anyio
async def test_what_one_thread_does_alone_takes_no_threads_from_a_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = 0.0
    move = Runner._move

    def moves(runner: Runner, step: Any) -> None:
        nonlocal alone
        begun = time.perf_counter()
        move(runner, step)
        time.sleep(0.02)  # far longer than the step computes, as opening many windows may take
        alone += time.perf_counter() - begun

    monkeypatch.setattr(Runner, "_move", moves)
    monkeypatch.setattr("time.process_time", lambda: 3 * (time.perf_counter() - alone))
    assert await threads_of(folder, monkeypatch) == [3]


@pytest.mark.anyio
async def test_another_engine_of_the_process_that_computes_has_its_share_of_the_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.process_time", lambda: 9 * time.perf_counter())
    other = threading.Event()
    begin = Team.begin

    def begins(team: Team, engine: object, *most_and_times: Any) -> int:
        if not other.is_set():
            other.set()
            begin(process_team(), other, *most_and_times)  # and never ends
        return begin(team, engine, *most_and_times)

    monkeypatch.setattr(Team, "begin", begins)
    assert await threads_of(folder, monkeypatch, most=6) == [3]


@pytest.mark.anyio
async def test_cancelling_within_the_prompt_keeps_what_was_computed(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is held between two chunks while the reader is cancelled."""
    monkeypatch.setattr(engine._runner._scheduler, "_chunk_tokens", CHUNK_TOKENS)
    gate = Gate(
        monkeypatch,
        lambda runner: any(s.computed == 2 * CHUNK_TOKENS for s in runner._scheduler.running),
    )
    prompt = (5,) * (4 * CHUNK_TOKENS)
    request = GenerateRequest(prompt=prompt, max_tokens=3, ignore_end=True)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, engine, request)
            await gate.reached.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                while not engine._driver._cancelled:
                    await checkpoint()
                gate.open()
    assert engine.stats().locked_blocks == engine.stats().running == 0
    _, _, done = await ask(engine, request)
    assert done.usage.reused_tokens == 3 * CHUNK_TOKENS  # the step that was held was the third
    engine._runner.check_integrity()


@pytest.mark.anyio
async def test_more_calls_than_may_wait_are_refused(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus_torch.scheduler.MAX_SEQUENCES", 1)
    gate = Gate(monkeypatch, lambda runner: runner.running == 1)
    request = GenerateRequest(prompt=SAID, max_tokens=2, ignore_end=True)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, engine, request)
            await gate.reached.wait()
            for _ in range(3):
                group.start_soon(ask, engine, request)
            while engine.stats().waiting < 3:
                await checkpoint()
            with pytest.raises(MailboxFull):
                await ask(engine, request)
            gate.open()
    assert engine.stats().finished == 4


@pytest.mark.anyio
async def test_a_waiting_call_can_be_cancelled(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus_torch.scheduler.MAX_SEQUENCES", 1)
    gate = Gate(monkeypatch, lambda runner: runner.running == 1)
    request = GenerateRequest(prompt=SAID, max_tokens=2, ignore_end=True)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, engine, request)
            await gate.reached.wait()
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(ask, engine, request)
                while engine.stats().waiting < 1:
                    await checkpoint()
                waiting.cancel_scope.cancel()
            assert engine.stats().waiting == 0
            gate.open()
    assert engine.stats().finished == 1


@pytest.mark.anyio
async def test_a_call_of_a_full_batch_can_be_cancelled(engine: TorchEngine) -> None:
    """It ends within a step, and those beside it do not notice."""
    requests = [
        GenerateRequest(prompt=tuple(range(3 + n, 60 + n)), max_tokens=30, ignore_end=True)
        for n in range(3)
    ]
    alone = [(await ask(engine, request))[1] for request in requests]
    found: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        found[number] = (await ask(engine, requests[number]))[1]

    async with anyio.create_task_group() as group:
        group.start_soon(one, 0)
        group.start_soon(one, 2)
        async with aclosing(engine.generate(requests[1])) as items:
            await anext(items)
    assert found == {0: alone[0], 2: alone[2]}
    assert engine.stats().locked_blocks == engine.stats().running == 0
    engine._runner.check_integrity()


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), MemoryError()], ids=repr)
async def test_what_breaks_one_call_spares_the_others(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One call's rows break every step that they are in; it fails alone."""
    requests = [
        GenerateRequest(prompt=tuple(range(3 + n, 60 + n)), max_tokens=20, ignore_end=True)
        for n in range(3)
    ]
    alone = [(await ask(engine, request))[1] for request in requests]
    steps, cursed = engine._runner.steps, 4  # with which the second prompt begins
    original = steps.scores

    def scores(batch: Batch) -> Scores:
        if any(part.start == 0 and part.tokens[0] == cursed for part in batch.parts):
            raise error
        return original(batch)

    found: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        request = dataclasses.replace(requests[number], reuse=False)
        try:
            found[number] = (await ask(engine, request))[1]
        except EngineFailed:
            found[number] = []

    monkeypatch.setattr(steps, "scores", scores)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(one, number)
    assert found == {0: alone[0], 1: [], 2: alone[2]}
    assert engine.stats().locked_blocks == engine.stats().running == 0


@pytest.mark.anyio
async def test_memory_that_runs_out_for_a_while_costs_time_only(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of more than one sequence do not fit: they are computed one after another."""
    requests = [
        GenerateRequest(prompt=tuple(range(3 + n, 60 + n)), max_tokens=20, ignore_end=True)
        for n in range(3)
    ]
    alone = [(await ask(engine, request))[1] for request in requests]
    steps = engine._runner.steps
    original = steps.scores

    def scores(batch: Batch) -> Scores:
        if len(batch.parts) > 1:
            raise MemoryError
        return original(batch)

    found: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        found[number] = (await ask(engine, requests[number]))[1]

    monkeypatch.setattr(steps, "scores", scores)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(one, number)
    assert found == dict(enumerate(alone))
    assert engine._runner.preempted > 0
    engine._runner.check_integrity()


@pytest.mark.anyio
async def test_a_pool_too_small_for_all_serves_them_in_turn(folder: Path) -> None:
    small = load_engine(str(folder), tiny_settings(kv_tokens=160))
    ample = load_engine(str(folder), tiny_settings(kv_tokens=4096))
    requests = [
        GenerateRequest(prompt=tuple(range(3 + n, 33 + n)), max_tokens=60, ignore_end=True)
        for n in range(4)
    ]
    found: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        found[number] = (await ask(small, requests[number]))[1]

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(one, number)
    assert small._runner.preempted > 0
    for number, request in enumerate(requests):
        assert found[number] == (await ask(ample, request))[1]
    assert small.stats().locked_blocks == 0
    small._runner.check_integrity()
    await small.aclose()
    await ample.aclose()


@pytest.mark.anyio
async def test_siblings_compute_a_new_prefix_once(engine: TorchEngine) -> None:
    shared = tuple(3 + n * n % 250 for n in range(900))
    usages = []

    async def one(number: int) -> None:
        prompt = (*shared, *range(3 + number, 13 + number))
        request = GenerateRequest(prompt=prompt, max_tokens=3, ignore_end=True)
        usages.append((await ask(engine, request))[2].usage)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(one, number)
    assert sum(usage.prefilled_tokens for usage in usages) <= 900 + 3 * (10 + 16)
    assert all(u.prompt_tokens == u.reused_tokens + u.prefilled_tokens for u in usages)


@pytest.mark.anyio
async def test_pieces_hold_whole_characters(engine: TorchEngine) -> None:
    forced = engine._loaded.vocabulary.plain("é☕ 🌊!")
    request = GenerateRequest(prompt=SAID, forced=forced)
    async with aclosing(engine.generate(request)) as items:
        pieces = [item async for item in items if isinstance(item, Piece)]
    assert "".join(piece.text for piece in pieces) == "é☕ 🌊!"
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [i for piece in pieces for i in piece.token_ids] == list(forced)


def test_a_log_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token_log"):
        load_engine(str(folder), tiny_settings(token_log=str(tmp_path), kv_tokens=256))


@pytest.mark.anyio
async def test_the_index_is_told_who_calls_and_how_the_call_ended(engine: TorchEngine) -> None:
    policy = engine._runner._index._policy
    assert isinstance(policy, WorkflowAware)
    request = GenerateRequest(prompt=SAID, max_tokens=4, ignore_end=True, owner="ann")
    await ask(engine, request)
    long = dataclasses.replace(request, max_tokens=1500, owner="bob")
    async with aclosing(engine.generate(long)) as items:  # which is left long before it ends
        assert await anext(items)
    pytest.importorskip("llguidance")
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    tools = ({"name": "tide", "parameters": nothing},)
    calls = GenerateRequest(
        prompt=SAID, max_tokens=200, tools=tools, tool_choice="tide", owner="eve"
    )
    assert (await ask(engine, calls))[2].tool_calls
    steps = {owner: seen.step for (_, owner), seen in policy._seen.items()}
    assert steps == {"ann": Step.FIRST_REPLY, "bob": Step.UNKNOWN, "eve": Step.TOOL}


@pytest.mark.anyio
async def test_what_is_computed_ahead_is_told_to_the_index_as_that(engine: TorchEngine) -> None:
    policy = engine._runner._index._policy
    assert isinstance(policy, WorkflowAware)
    await engine.prefill(SAID, owner="ann")
    long = Prompt((Turn("user", "Tides rise and fall. " * 80),), CUE)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(engine.prefill, long, owner="bob"))
            while not any(owner == "bob" for _, owner in list(policy._seen)):
                await checkpoint()
            group.cancel_scope.cancel()
    steps = {owner: seen.step for (_, owner), seen in policy._seen.items()}
    assert steps == {"ann": Step.AHEAD, "bob": Step.AHEAD}
    await ask(engine, GenerateRequest(prompt=SAID, max_tokens=2, ignore_end=True, owner="ann"))
    assert policy._returns[Step.AHEAD]._returns == 1

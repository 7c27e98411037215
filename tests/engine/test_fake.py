"""The scripted engine's script: what it says, when it waits, how it fails."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agentbus.config import EngineSettings
from agentbus.context import Prompt, Turn
from agentbus.engine import Finished, GenerateRequest, Piece, ToolCall
from agentbus.engine.fake import FakeEngine, Reply
from agentbus.errors import EngineFailed, KVExhausted, Unsupported
from agentbus.kv import Step, WorkflowAware

PROMPT = Prompt((Turn("user", "one two three"),), Turn("assistant", "", "ann"))


async def read(engine: FakeEngine, request: GenerateRequest) -> tuple[str, Finished]:
    text = ""
    with anyio.fail_after(5):
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return text, item
                text += item.text
    raise AssertionError("no Finished")


@pytest.mark.anyio
async def test_echo_is_deterministic() -> None:
    text, finished = await read(FakeEngine(), GenerateRequest(prompt=PROMPT))
    assert text == " I read 1 turns; the last begins: one two three"
    assert finished.reason == "end"
    assert finished.usage.prompt_tokens == 7  # <user> one two three <end> <assistant> ann:
    assert (await read(FakeEngine(), GenerateRequest(prompt=PROMPT)))[0] == text


@pytest.mark.anyio
async def test_the_script_sees_the_request() -> None:
    engine = FakeEngine(lambda request: Reply(text=f" for {request.label}"))
    assert (await read(engine, GenerateRequest(prompt=PROMPT, label="bob")))[0] == " for bob"


@pytest.mark.anyio
async def test_an_answer_waits_at_its_gate() -> None:
    gate = anyio.Event()
    engine = FakeEngine(lambda request: Reply(text="a b c", gate=gate, gate_after=2))
    seen: list[str] = []
    two = anyio.Event()

    async def watch() -> None:
        async with aclosing(engine.generate(GenerateRequest(prompt=PROMPT))) as items:
            async for item in items:
                if isinstance(item, Piece):
                    seen.append(item.text)
                if len(seen) == 2:
                    two.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await two.wait()
            await anyio.wait_all_tasks_blocked()
            assert seen == ["a", " b"]
            gate.set()
    assert seen == ["a", " b", " c"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "expected"),
    [(KVExhausted(3, 1), KVExhausted), (RuntimeError("burnt"), EngineFailed)],
)
async def test_scripted_errors_come_behind_the_text(
    error: Exception, expected: type[Exception]
) -> None:
    engine = FakeEngine(lambda request: Reply(text="a b", error=error))
    with pytest.raises(expected):
        await read(engine, GenerateRequest(prompt=PROMPT))
    assert engine.stats().locked_blocks == engine.stats().running == 0


@pytest.mark.anyio
async def test_words_repeat_where_the_end_is_ignored() -> None:
    engine = FakeEngine(lambda request: Reply(text=" a b"))
    request = GenerateRequest(prompt=PROMPT, max_tokens=5, ignore_end=True)
    assert (await read(engine, request))[0] == " a b a b a"


@pytest.mark.anyio
async def test_the_token_log_can_be_recounted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    engine = FakeEngine(settings=EngineSettings(token_log=str(path)))
    _, finished = await read(engine, GenerateRequest(prompt=PROMPT, label="x", tenant="t"))
    line = json.loads(path.read_text())
    assert line["label"] == "x" and line["tenant"] == "t"
    assert line["prefilled"] == len(line["prompt_ids"]) == finished.usage.prefilled_tokens
    assert len(line["generated_ids"]) == finished.usage.decoded_tokens


@pytest.mark.anyio
async def test_a_script_can_call_tools() -> None:
    call = ToolCall("tide", {"port": "Brest"})
    engine = FakeEngine(lambda request: Reply(text=" wait", calls=(call,)))
    for choice in ("auto", "tide"):
        request = GenerateRequest(prompt=PROMPT, tools=({"name": "tide"},), tool_choice=choice)
        text, finished = await read(engine, request)
        assert text == " wait" and finished.reason == "tool_calls"
        assert finished.tool_calls == (call,)
    with pytest.raises(Unsupported):
        await read(FakeEngine(), replace(request, tool_choice="required"))


@pytest.mark.anyio
async def test_a_script_answers_with_json_itself() -> None:
    request = GenerateRequest(prompt=PROMPT, schema={"type": "object"})
    engine = FakeEngine(lambda request: Reply(text='{"a": 1}'))
    assert (await read(engine, request))[0] == '{"a": 1}'
    with pytest.raises(Unsupported):
        await read(FakeEngine(), request)
    assert engine.stats().locked_blocks == 0


@pytest.mark.anyio
async def test_scores_and_vectors_are_made_up_the_same_each_time() -> None:
    first, second = FakeEngine(), FakeEngine()
    assert await first.score(PROMPT, [" a", " abc d"]) == await second.score(
        PROMPT, [" a", " abc d"]
    )
    short, long = (await first.score(PROMPT, [" a", " abc"])).scores
    assert short.logprob > long.logprob
    assert await first.embed(["a b"]) == await second.embed(["b a"])


@pytest.mark.anyio
async def test_the_index_is_told_who_calls_and_how_the_call_ended() -> None:
    call = ToolCall("tide", {"port": "Brest"})
    replies = {
        "ann": Reply(text=" wait", calls=(call,)),
        "bob": Reply(text=" done"),
        "eve": Reply(text=" oh", error=RuntimeError("burnt")),
    }
    engine = FakeEngine(lambda request: replies[request.owner])
    for owner in ("ann", "bob"):
        await read(engine, GenerateRequest(prompt=PROMPT, owner=owner, tenant="t"))
    with pytest.raises(EngineFailed):
        await read(engine, GenerateRequest(prompt=PROMPT, owner="eve", tenant="t"))
    policy = engine._index._policy
    assert isinstance(policy, WorkflowAware)
    steps = {owner: seen.step for owner, seen in policy._seen.items()}
    assert steps == {
        (b"t", "ann"): Step.TOOL,
        (b"t", "bob"): Step.FIRST_REPLY,
        (b"t", "eve"): Step.UNKNOWN,
    }
    assert not policy._returns[Step.UNKNOWN]._returns, "a call's own leases are no returns"


@pytest.mark.anyio
async def test_a_prompt_that_is_computed_ahead_is_its_owners_and_no_reply() -> None:
    engine = FakeEngine()
    policy = engine._index._policy
    assert isinstance(policy, WorkflowAware)
    request = GenerateRequest(prompt=PROMPT, owner="ann", tenant="t", max_tokens=1)
    steps = []
    for ahead in (False, True, True, False):
        if ahead:
            await engine.prefill(PROMPT, tenant="t", owner="ann")
        else:
            await read(engine, request)
        steps.append(policy._seen[b"t", "ann"].step)
    await read(engine, replace(request, max_tokens=0))
    steps.append(policy._seen[b"t", "ann"].step)
    assert steps == [Step.FIRST_REPLY, Step.AHEAD, Step.AHEAD, Step.REPLY, Step.AHEAD]
    returns = {step: policy._returns[step]._returns for step in Step if step in steps}
    assert returns == {Step.FIRST_REPLY: 1, Step.AHEAD: 2, Step.REPLY: 1}
    assert not policy._superseded

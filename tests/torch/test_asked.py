"""The tiny model is asked over the bus for what its engine can do, and answers as it does directly."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from agentbus_torch.engine import load_engine
from pydantic import BaseModel

from agentbus import Agent, Answer, Bus, Call, handler
from agentbus.client import ModelAgent, model_agent_name
from agentbus.context import Reading, find_layout
from agentbus.engine import Finished, GenerateRequest, Sampling
from agentbus.errors import InvalidSchema
from tests.torch.tiny import TinyModel, tiny_settings

pytest.importorskip("llguidance", reason="llguidance (the extra 'grammar') is not installed")
pytestmark = pytest.mark.anyio

WARM = Sampling(temperature=1.2, top_k=40, seed=11)
SCHEMA = {"type": "object", "properties": {"high": {"type": "boolean"}}, "required": ["high"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "parameters": {
            "type": "object",
            "properties": {"day": {"enum": ["Monday"]}},
            "required": ["day"],
            "additionalProperties": False,
        },
    },
}


class Tide(BaseModel):
    """Whether it is high."""

    high: bool


class Asker(Agent):
    """Ask."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.reading: Reading | None = None
        self.tide: Tide | None = None

    @handler
    async def sample(self, times: int, call: Call) -> None:
        begin = call.context
        for _ in range(times):
            call.context = begin
            self.answers.append(
                await call.answer("Tides?", max_tokens=12, sampling=WARM, logprobs=2)
            )
        self.reading = call.reading

    @handler
    async def shape(self, ask: str, call: Call) -> None:
        self.answers.append(await call.answer("JSON?", schema=SCHEMA, max_tokens=80))
        self.answers.append(
            await call.answer("A tool?", tools=(TOOL,), tool_choice="tide", max_tokens=120)
        )
        wrong: dict[str, Any] = {"type": "nothing known"}
        with pytest.raises(InvalidSchema):
            await call.answer("What?", schema=wrong)
        self.tide = await call.generate_as(Tide, "Is it?", repairs=0, max_tokens=80)
        assert call.cost.structured_answers == 1


@pytest.mark.parametrize("apart", [False, True])
async def test_a_tiny_model_is_asked_over_the_bus(
    apart: bool, tmp_path: Path, socket_dir: Path
) -> None:
    folder = TinyModel(window=1024).write(tmp_path / "tiny")
    engine = load_engine(str(folder), tiny_settings(kv_tokens=4096))
    listen = str(socket_dir / "bus.sock")
    agent = Asker()
    async with Bus.open(listen=listen, name="host") as host:
        await host.spawn(ModelAgent(engine), name=model_agent_name("m"))
        async with Bus.open(f"unix://{listen}", name="asker") as far:
            asker = far if apart else host
            await asker.spawn(agent, name="asker", model="m")
            await asker.request("asker", 2, deadline=60)
            await _compare(engine, agent)
            await asker.request("asker", "shape", deadline=60)
    assert isinstance(agent.tide, Tide), "the weights are random: the grammar alone writes it"
    shaped, called = agent.answers[2:]
    assert isinstance(json.loads(shaped.text)["high"], bool)
    assert (called.reason, called.text) == ("tool_calls", "")
    assert [(one.name, one.arguments) for one in called.tool_calls] == [("tide", {"day": "Monday"})]


async def _compare(engine: Any, agent: Asker) -> None:
    """See that both answers are the engine's own, and the second one reuses the first's prompt."""
    assert agent.reading is not None
    prompt = find_layout(agent.reading.layout).render(agent.reading.context, "asker")
    request = GenerateRequest(prompt=prompt, max_tokens=12, sampling=WARM, logprobs=2)
    text, logprobs = "", []
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if isinstance(item, Finished):
                finished = item
                continue
            text += item.text
            logprobs += item.logprobs
    first, second = agent.answers
    assert first.text == second.text == text
    assert first.reason == second.reason == finished.reason
    tokens = [one.token for one in logprobs]
    for answer in (first, second):
        assert [one.token for one in answer.logprobs] == tokens
        assert [one.logprob for one in answer.logprobs] == pytest.approx(
            [one.logprob for one in logprobs], abs=1e-3
        )
        assert all(len(one.top) == 2 for one in answer.logprobs)
    assert second.cost.reused_tokens > 0

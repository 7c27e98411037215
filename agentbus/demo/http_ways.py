"""The ordinary ways: agents behind HTTP and JSON, an engine server behind them.

Each hop has two legs, from the orchestrator to the agent's process and from there to the engine's,
and each leg carries the whole transcript. Each way has an engine of its own, as agentbus has, so
that no way's KV stands in another's way.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from ..config import EngineSettings
from ..errors import MalformedFrame
from .children import ServingChild, serving_child
from .events import HopResult, Leg
from .http_client import EventClient, open_client
from .script import Conversation, Said
from .ways import WARM_UP, WARM_UP_TEXT, OnText

__all__ = ["HTTP_LAYOUTS", "HttpWay", "OrdinaryWays", "Tokenizer", "ordinary_ways"]

HTTP_LAYOUTS: Mapping[str, str] = {
    "plain": "role_first",
    "engine_cache": "role_first",
    "engine_cache_same_layout": "roster_first",
}
"""The layout of each ordinary way."""

_UNCACHED = "plain"
_AGENT_PROCESSES = 2
_ENGINE_MODULE = "agentbus.demo.http_engine"
_AGENT_MODULE = "agentbus.demo.http_agent"


class HttpWay:
    """One ordinary way, as the orchestrator sees it."""

    transport = "HTTP, JSON"

    def __init__(
        self,
        name: str,
        conversation: Conversation,
        agents: Mapping[str, EventClient],
        token_log: Path,
    ) -> None:
        self.name = name
        self.tenant = name
        self.token_log = token_log
        self._conversation = conversation
        self._agents = agents

    async def hop(self, index: int, on_text: OnText) -> HopResult:
        """Send the transcript to the agent and read its answer.

        Raises:
            AgentbusError: agent or engine failed, in the class in which it failed there.
        """
        target = self._conversation.hops[index].target
        max_tokens = len(self._conversation.hops[index].token_ids)
        transcript = self._conversation.transcript(index)
        path = f"/{self.name}/agents/{target}"
        return await self._ask(target, path, transcript, max_tokens, str(index), on_text)

    async def warm_up(self) -> None:
        """Let every agent answer a short transcript with one token, under another salt."""
        said = (Said("question", "user", WARM_UP_TEXT),)
        for target in self._agents:
            path = f"/{WARM_UP}{self.name}/agents/{target}"
            await self._ask(target, path, said, 1, WARM_UP, lambda text: None)

    async def _ask(
        self,
        target: str,
        path: str,
        transcript: Sequence[Said],
        max_tokens: int,
        request_id: str,
        on_text: OnText,
    ) -> HopResult:
        start = time.perf_counter()
        body = {"transcript": transcript, "max_tokens": max_tokens}
        reading = _Reading(start, on_text)
        async with aclosing(self._agents[target].post(path, body, request_id)) as events:
            async for event in events:
                reading.take(event)
        return reading.result(time.perf_counter())


class _Reading:
    """Collects one answer. `start` is on the clock of `time.perf_counter`."""

    def __init__(self, start: float, on_text: OnText) -> None:
        self._start = start
        self._on_text = on_text
        self._first = 0.0
        self._parts: list[str] = []
        self._legs: list[Leg] = []
        self._usage: Mapping[str, object] = {}

    def take(self, event: Mapping[str, object] | Leg) -> None:
        """Take the next event of the answer."""
        match event:
            case Leg():
                self._legs.insert(0, event)
            case {"text": str(text)}:
                if text and not self._parts:
                    self._first = time.perf_counter()
                if text:
                    self._parts.append(text)
                    self._on_text(text)
            case {"usage": dict(usage), "leg": dict(leg)}:
                self._usage = usage
                self._legs.append(Leg(**leg))
            case _:
                raise MalformedFrame("an agent's event of an unknown kind")

    def result(self, end: float) -> HopResult:
        """Return what the answer was and cost, at time `end`."""
        match self._usage:
            case {
                "prompt_tokens": int(prompt),
                "completion_tokens": int(decoded),
                "prompt_tokens_details": {"cached_tokens": int(reused)},
            }:
                return HopResult(
                    text="".join(self._parts),
                    legs=tuple(self._legs),
                    prompt_tokens=prompt,
                    reused=reused,
                    prefilled=prompt - reused,
                    decoded=decoded,
                    ttft_s=(self._first or end) - self._start,
                    wall_s=end - self._start,
                )
            case _:
                raise MalformedFrame("an answer that ends without its usage")


class Tokenizer:
    """Asks the engine's server how a text looks in token ids."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def chat(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """Return a chat of one system turn and one user turn for each text, as token ids."""
        messages = [{"role": "system", "content": "-"}]
        messages += [{"role": "user", "content": text} for text in texts]
        answer = await self._client.post(self._url + "/tokenize", json={"messages": messages})
        match answer.json():
            case {"tokens": list(tokens)}:
                return tuple(tokens)
            case _:
                raise MalformedFrame("the engine's server did not tokenize the text")


@dataclass(frozen=True, slots=True)
class OrdinaryWays:
    """The running ordinary ways, in the order of the table."""

    ways: tuple[HttpWay, ...]
    tokenizer: Tokenizer


@asynccontextmanager
async def ordinary_ways(
    conversation: Conversation, *, model_spec: str, settings: EngineSettings, folder: Path
) -> AsyncGenerator[OrdinaryWays, None]:
    """Start each way's engine server and the agents' two servers, warm all up, and end them after.

    The engines' token logs are written in `folder`.

    Raises:
        AgentbusError: a process could not start.
    """
    logs = {way: folder / f"{way}_tokens.jsonl" for way in HTTP_LAYOUTS}
    async with AsyncExitStack() as stack:
        starting = {
            way: await stack.enter_async_context(
                _engine(way, conversation, model_spec, replace(settings, token_log=str(log)))
            )
            for way, log in logs.items()
        }
        engines = {way: await engine.url() for way, engine in starting.items()}
        client = await stack.enter_async_context(open_client())
        agents = await _start_agents(stack, client, conversation, model_spec, engines)
        ways = tuple(HttpWay(way, conversation, agents, log) for way, log in logs.items())
        for way in ways:
            await way.warm_up()
        yield OrdinaryWays(ways, Tokenizer(client, engines[_UNCACHED]))


def _engine(
    way: str, conversation: Conversation, model: str, settings: EngineSettings
) -> AbstractAsyncContextManager[ServingChild]:
    return serving_child(
        _ENGINE_MODULE,
        {
            "model": model,
            "engine": asdict(settings),
            "tenant": way,
            "recorded": conversation.token_ids,
            "uncached": [_UNCACHED, WARM_UP + way],
        },
    )


async def _start_agents(
    stack: AsyncExitStack,
    client: httpx.AsyncClient,
    conversation: Conversation,
    model: str,
    engines: Mapping[str, str],
) -> dict[str, EventClient]:
    """Start the agents' processes, neighbours in the conversation in different ones."""
    names = [role.name for role in conversation.roles]
    groups = [names[number::_AGENT_PROCESSES] for number in range(_AGENT_PROCESSES)]
    starting = [
        await stack.enter_async_context(_agents(hosted, conversation, model, engines))
        for hosted in groups
    ]
    agents: dict[str, EventClient] = {}
    for hosted, child in zip(groups, starting, strict=True):
        url = await child.url()
        agents |= {name: EventClient(client, url, "orchestrator to agent") for name in hosted}
    return agents


def _agents(
    hosted: Sequence[str], conversation: Conversation, model: str, engines: Mapping[str, str]
) -> AbstractAsyncContextManager[ServingChild]:
    return serving_child(
        _AGENT_MODULE,
        {
            "engines": {**engines, **{WARM_UP + way: engines[way] for way in engines}},
            "model": model,
            "roles": {role.name: role.text for role in conversation.roles},
            "agents": hosted,
            "layouts": {
                **HTTP_LAYOUTS,
                **{WARM_UP + way: layout for way, layout in HTTP_LAYOUTS.items()},
            },
        },
    )

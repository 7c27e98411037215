from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from agentbus.context.layout import Prompt
from agentbus.demo.events import Leg
from agentbus.demo.http_agent import AgentServer
from agentbus.demo.http_client import EventClient, open_client
from agentbus.demo.http_engine import ChatServer
from agentbus.demo.http_ways import HttpWay, Tokenizer
from agentbus.demo.replayed import Replayed
from agentbus.demo.script import Conversation
from agentbus.demo.serving import MAX_BODY_BYTES
from agentbus.engine.base import (
    Capabilities,
    EngineStats,
    Finished,
    GenerateRequest,
    Piece,
    Usage,
)
from agentbus.errors import ContextTooLong

from .helpers import render, spell, tokenize

pytestmark = pytest.mark.anyio


class Letters:
    """An engine that writes the forced ids letter by letter, or waits for ever where asked to."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.prompts: list[Prompt] = []
        self.freed = anyio.Event()
        self.hang = False
        self.error: Exception | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            model="letters", window=999, prefix_reuse=True, append_only_template=True
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        self.requests.append(request)
        if self.error:
            raise self.error
        try:
            for token in request.forced:
                yield Piece(chr(token - 10), (token,))
            if self.hang:
                await anyio.sleep_forever()
            prompt = len(request.prompt) if isinstance(request.prompt, tuple) else 0
            usage = Usage(
                prompt_tokens=prompt,
                reused_tokens=3,
                prefilled_tokens=prompt - 3,
                decoded_tokens=len(request.forced),
            )
            yield Finished("forced", usage)
        finally:
            self.freed.set()

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        self.prompts.append(prompt)
        cue = f"{prompt.cue.name}:" if prompt.cue.name else ""
        return render([{"role": t.role, "content": t.text} for t in prompt.turns], cue)

    def count(self, text: str) -> int:
        return len(text)

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        return Usage()

    def stats(self) -> EngineStats:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str, None]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True


def chat(**more: object) -> dict[str, object]:
    messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Go."}]
    return {"model": "m", "messages": messages, "max_tokens": 2, "cache_salt": "way", **more}


async def events_of(url: str, body: dict[str, object]) -> list[object]:
    async with open_client() as client:
        link = EventClient(client, url, "link")
        return [e async for e in link.post("/v1/chat/completions", body, "7")]


async def test_a_chat_is_tokenized_whole_and_streamed() -> None:
    engine = Letters()
    server = ChatServer(Replayed(engine, "way", {"7": spell("ok")}), frozenset(["plain"]))
    async with served(server.application()) as url:
        *events, leg = await events_of(url, chat(ignore_eos=True))
    assert isinstance(leg, Leg)
    pieces, last = events[:-1], events[-1]
    assert [e["choices"][0]["delta"]["content"] for e in pieces] == ["o", "k"]  # type: ignore[index]
    (request,) = engine.requests
    assert request.prompt == engine.tokenize(engine.prompts[0])
    assert (request.tenant, request.label, request.reuse) == ("way", "7", True)
    assert request.ignore_end and request.max_tokens == 2 and request.forced == spell("ok")
    assert last["usage"] == {  # type: ignore[index]
        "prompt_tokens": len(request.prompt),
        "completion_tokens": 2,
        "total_tokens": len(request.prompt) + 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def test_a_salt_without_cache_and_an_open_message() -> None:
    engine = Letters()
    server = ChatServer(engine, frozenset(["plain"]))
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "beta:"}]
    body = chat(messages=messages, continue_final_message=True, cache_salt="plain")
    async with served(server.application()) as url:
        await events_of(url, body)
    assert engine.requests[0].reuse is False
    assert engine.requests[0].forced == ()
    assert engine.prompts[0].cue.name == "beta"
    assert len(engine.prompts[0].turns) == 1


async def test_an_engines_error_ends_the_stream_in_its_class() -> None:
    engine = Letters()
    engine.error = ContextTooLong(1000, 999)
    async with served(ChatServer(engine, frozenset()).application()) as url:
        with pytest.raises(ContextTooLong, match="999"):
            await events_of(url, chat())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model": "m"}',
        b'{"model": "m", "messages": [], "max_tokens": 0}',
        b'{"model": "m", "messages": [], "continue_final_message": true}',
        b'{"model": "m", "messages": [], "max_tokens": 9223372036854775807}',
        b'{"model": "m", "messages": [], "cache_salt": "\\ud800"}',
    ],
)
async def test_a_bad_request_is_refused(body: bytes) -> None:
    server = ChatServer(Letters(), frozenset())
    async with served(server.application()) as url, httpx.AsyncClient() as client:
        answer = await client.post(url + "/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


async def test_a_huge_request_is_refused_unread() -> None:
    server = ChatServer(Letters(), frozenset())
    async with served(server.application()) as url, httpx.AsyncClient() as client:
        body = b" " * (MAX_BODY_BYTES + 1)
        answer = await client.post(url + "/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert f"limit of {MAX_BODY_BYTES}" in answer.json()["error"]["message"]


async def test_texts_are_tokenized_as_a_chat() -> None:
    server = ChatServer(Letters(), frozenset())
    async with served(server.application()) as url, open_client() as client:
        assert await Tokenizer(client, url).chat(("x", "yz")) == await tokenize(("x", "yz"))
        assert (await client.post(url + "/tokenize", content=b"{}")).status_code == 400


async def test_hanging_up_frees_the_engine() -> None:
    engine = Letters()
    engine.hang = True
    server = ChatServer(Replayed(engine, "way", {"7": spell("a")}), frozenset())
    async with served(server.application()) as url:
        async with open_client() as client:
            link = EventClient(client, url, "link")
            async with aclosing(link.post("/v1/chat/completions", chat(), "7")) as events:
                await anext(events)
        with anyio.fail_after(10):
            await engine.freed.wait()


@pytest.mark.parametrize(("way", "layout"), [("a", "role_first"), ("b", "roster_first")])
async def test_a_hop_goes_over_two_legs_with_the_whole_transcript(
    conversation: Conversation, way: str, layout: str, tmp_path: Path
) -> None:
    engine = Letters()
    heard: list[str] = []
    server = ChatServer(Replayed(engine, way, conversation.token_ids), frozenset())
    async with served(server.application()) as engine_url, open_client() as client:
        upstream = EventClient(client, engine_url, "agent to engine")
        hosted = frozenset(["alpha", "beta"])
        agents = AgentServer({way: upstream}, "m", conversation.roles, hosted, {way: layout})
        async with served(agents.application()) as agent_url:
            link = EventClient(client, agent_url, "orchestrator to agent")
            http_way = HttpWay(way, conversation, dict.fromkeys(hosted, link), tmp_path)
            results = [await http_way.hop(i, heard.append) for i in range(4)]
    assert "".join(heard) == "".join(hop.text for hop in conversation.hops)
    for hop, result, request in zip(conversation.hops, results, engine.requests, strict=True):
        assert result.text == hop.text
        assert result.decoded == len(hop.token_ids)
        assert isinstance(request.prompt, tuple)
        assert result.prompt_tokens == len(request.prompt) == result.reused + result.prefilled
        assert [leg.link for leg in result.legs] == ["orchestrator to agent", "agent to engine"]
        assert 0 < result.ttft_s <= result.wall_s
    sent = [result.sent_bytes for result in results]
    assert sent == sorted(sent)

from __future__ import annotations

from dataclasses import asdict

import anyio
import httpx
import pytest

from agentbus.config import EngineSettings
from agentbus.demo import children
from agentbus.demo.children import serving_child
from agentbus.demo.commands import running
from agentbus.errors import MalformedFrame, PeerLost, UnknownEngine

pytestmark = pytest.mark.anyio

AGENT = "agentbus.demo.http_agent"
ENGINE = "agentbus.demo.http_engine"
SETTINGS = {
    "engines": {"plain": "http://127.0.0.1:1"},
    "model": "m",
    "roles": {"alpha": "You count."},
    "agents": ["alpha"],
    "layouts": {"plain": "role_first"},
}


async def test_a_child_serves_until_the_block_ends() -> None:
    async with serving_child(AGENT, SETTINGS) as child, httpx.AsyncClient() as client:
        url = await child.url()
        assert (await client.post(url + "/plain/agents/nobody")).status_code == 404
        assert (await client.post(url + "/other/agents/alpha")).status_code == 404
        broken = await client.post(url + "/plain/agents/alpha", content=b"{")
        assert broken.status_code == 400
        assert "error" in broken.json()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as client:
            await client.post(url)


async def test_a_child_ends_by_itself_when_its_input_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "STOP_TIMEOUT_S", 40.0)
    with anyio.fail_after(30):
        async with serving_child(AGENT, SETTINGS) as child:
            await child.url()


async def test_a_child_that_cannot_start_says_why_when_it_is_waited_for() -> None:
    engine = asdict(EngineSettings())
    recorded = {"tenant": "", "recorded": {}}
    settings = {"model": "nosuchkind:x", "engine": engine, **recorded, "uncached": []}
    async with serving_child(ENGINE, settings) as child:  # others can start meanwhile
        with pytest.raises(UnknownEngine):
            await child.url()


async def test_a_child_that_says_nothing_is_a_lost_peer() -> None:
    with pytest.raises(PeerLost):
        async with serving_child("agentbus.names", {}) as child:
            await child.url()


async def test_a_child_that_says_something_else_is_not_ready() -> None:
    with pytest.raises(MalformedFrame, match="did not say that it is ready"):
        async with running(["this"]):  # prints a poem
            pytest.fail("it is not ready")

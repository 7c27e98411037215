"""Who gets in over tcp, and whose grants are good there: links between workers, encrypted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from agentbus import Bus, BusSettings, Keys
from agentbus.daemon import start_broker
from agentbus.errors import ConfigError, GrantRefused, NotAuthorised, PermissionDenied
from agentbus.routing import BROKER, Locate, Route, ShowGrant
from agentbus.wire import Hello

from .agents import Echo, Ping, Pong
from .policies import allow, policy
from .tcp_keys import LOOPBACK, SERVER, new_keys

pytestmark = pytest.mark.anyio

ANN, BOB, EVE = (new_keys(SERVER.public) for _ in range(3))
USERS = {"ann": ANN.public, "bob": BOB.public, "eve": EVE.public}
LISTENING = replace(SERVER, authorized=USERS)
AT_BOB = replace(BOB, authorized=USERS)
RULES = (
    allow("key:bob", "register"),
    allow("key:ann", "request", "echo"),
    allow("key:eve", "list"),
)


@asynccontextmanager
async def broker(keys: Keys = LISTENING) -> AsyncIterator[str]:
    async with Bus.open(listen=LOOPBACK, name="broker", keys=keys) as bus:
        await start_broker(bus, policy=policy(*RULES))
        yield bus.listens_at


@asynccontextmanager
async def echoing(url: str, keys: Keys = AT_BOB) -> AsyncIterator[tuple[Bus, Echo]]:
    """A worker that others may reach over tcp."""
    async with Bus.open(url, listen=LOOPBACK, name="bob", keys=keys) as bob:
        echo = Echo()
        await bob.spawn(echo, name="echo")
        yield bob, echo


@pytest.mark.promise("peer.may")
async def test_keys_are_principals() -> None:
    async with broker() as url, echoing(url):
        async with Bus.open(url, keys=EVE) as eve:
            with pytest.raises(PermissionDenied, match="key:eve may not request 'echo'"):
                await eve.request("echo", Ping(number=1))
            with pytest.raises(PermissionDenied, match="key:eve may not register 'mine'"):
                await eve.spawn(Echo(), name="mine")
            assert [agent.name for agent in await eve.agents()] == ["echo"]


@pytest.mark.promise("peer.grant")
async def test_workers_meet_directly_over_tcp() -> None:
    async with broker() as url, echoing(url) as (bob, _):
        async with Bus.open(url, keys=ANN) as ann:
            reply = await ann.call("echo", Ping(number=1), returns=Pong)
            assert reply.account.transport == "tcp"
            known = ann._sender.routes.known("echo")
            assert known is not None
            assert known.name == bob.name


async def test_where_a_key_is_not_let_in_the_broker_carries_on() -> None:
    alone = replace(BOB, authorized={"eve": EVE.public})
    async with broker() as url, echoing(url, alone):
        async with Bus.open(url, keys=ANN) as ann:
            assert (await ann.request("echo", Ping(number=1), returns=Pong)).by == "echo"
            assert ann._sender.routes.known("echo") is ann._sender.routes.home


async def test_processes_of_one_host_need_no_keys_where_a_worker_listens_over_tcp(
    socket_dir: Path,
) -> None:
    """Joined over a Unix socket: without keys, or with others, the broker carries on."""
    path = f"{socket_dir}/run/bus.sock"
    for rules in ((), (allow("*", "*"),)):
        async with Bus.open(listen=path, name="broker") as home:
            await start_broker(home, policy=policy(*rules) if rules else None)
            async with echoing(f"unix://{path}"):
                for keys in (None, new_keys(SERVER.public), ANN):
                    async with Bus.open(f"unix://{path}", keys=keys) as ann:
                        assert (await ann.request("echo", Ping(number=1), returns=Pong)).number == 1


# --- who is refused: no key, a wrong one, one that has expired, a grant that was shown before


@pytest.mark.promise("peer.known")
async def test_without_a_key_nobody_joins() -> None:
    async with broker() as url:
        with pytest.raises(ConfigError, match="need keys"):
            async with Bus.open(url):
                pass


@pytest.mark.promise("peer.known")
async def test_with_a_wrong_key_nobody_joins() -> None:
    async with broker() as url:
        for wrong in (new_keys(SERVER.public), replace(ANN, server=EVE.public)):
            with pytest.raises(NotAuthorised):
                async with Bus.open(url, keys=wrong):
                    pass


@pytest.mark.promise("peer.known")
async def test_with_an_expired_key_nobody_joins(caplog: pytest.LogCaptureFixture) -> None:
    ended = replace(LISTENING, expires={"ann": time.time() - 1, "bob": time.time() + 3600})
    async with broker(ended) as url:
        with pytest.raises(NotAuthorised):
            async with Bus.open(url, keys=ANN):
                pass
        async with Bus.open(url, keys=BOB) as bob:
            assert await bob.agents() == ()
    assert "has expired" in caplog.text
    assert ANN.public not in caplog.text


@pytest.mark.promise("peer.known")
async def test_a_link_ends_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr("agentbus.transport.zmq_listen.time", clock)
    soon = replace(LISTENING, expires={"ann": now + 1})
    settings = BusSettings(rejoin_timeout=0)
    async with broker(soon) as url, Bus.open(url, keys=ANN, settings=settings) as ann:
        with anyio.fail_after(10):
            await ann.home_lost()


@pytest.mark.promise("peer.grant")
async def test_who_calls_itself_as_another_process_gets_none_of_its_requests() -> None:
    at_ann = replace(ANN, authorized=USERS)
    async with broker() as url, echoing(url) as (bob, echo):
        async with (
            Bus.open(url, listen=LOOPBACK, keys=at_ann) as ann,
            Bus.open(url, keys=EVE) as eve,
        ):
            stolen = Echo()
            eve._sender.hosts.host(stolen, "echo", "")
            eve._sender.routes._hello = Hello(bob.name)
            await eve._sender.routes._connect(ann.listens_at, ANN.public)
            with anyio.fail_after(5):
                while ann._sender.peers.named(bob.name) is None:
                    await anyio.lowlevel.checkpoint()
            assert (await ann.request("echo", Ping(number=1), returns=Pong)).by == "echo"
            assert (echo.seen, stolen.seen) == ([1], [])


@pytest.mark.promise("peer.grant")
async def test_a_replayed_grant_is_refused() -> None:
    async with broker() as url, echoing(url) as (bob, echo):
        async with Bus.open(url, name="ann", keys=ANN) as ann, Bus.open(url, keys=EVE) as eve:
            taken = await ann.request(BROKER, Locate("echo"), returns=Route)
            replay = ShowGrant(taken.grant)
            await ann.request("echo", Ping(number=1))  # it shows another one
            # By another key, even under the name of the process that it was given to.
            eve._sender.routes._hello = ann._sender.routes._hello
            far = await eve._sender.routes._connect(bob.listens_at, BOB.public)
            with pytest.raises(GrantRefused, match="another process's"):
                await eve._sender.tell(far, replay, eve._origin(None))
            # By its own process, once more, on the same link and on another one.
            near = ann._sender.routes.known("echo")
            assert near is not None
            await ann._sender.tell(near, replay, ann._origin(None))
            with pytest.raises(GrantRefused, match="shown before"):
                await ann._sender.tell(near, replay, ann._origin(None))
            near.link.abort()
            with anyio.fail_after(5):
                while ann._sender.peers.of(near.link) is not None:
                    await anyio.lowlevel.checkpoint()
            again = await ann._sender.routes._connect(bob.listens_at, BOB.public)
            with pytest.raises(GrantRefused, match="shown before"):
                await ann._sender.tell(again, replay, ann._origin(None))
            ann._sender.routes._by_agent["echo"] = again
            with pytest.raises(GrantRefused, match="granted no such request"):
                await ann.request("echo", Ping(number=2))
            await ann.request("echo", Ping(number=3))
            assert echo.seen == [1, 3]

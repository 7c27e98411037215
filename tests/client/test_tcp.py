"""A bus over tcp; the processes share a loop and a host, the links are real and encrypted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.daemon import start_broker
from agentbus.errors import ConfigError, NotAuthorised, PeerLost

from .agents import Echo, Ping, Pong, Relay
from .tcp_keys import CLIENT, LISTENING, LOOPBACK, SERVER, new_keys

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    async with Bus.open(listen=LOOPBACK, name="broker", keys=LISTENING) as bus:
        await start_broker(bus)
        yield bus.listens_at


async def test_a_bus_is_joined_over_tcp() -> None:
    async with Bus.open(listen=LOOPBACK, keys=LISTENING) as home:
        await home.spawn(Echo(), name="echo")
        async with Bus.open(home.listens_at, keys=CLIENT) as program:
            reply = await program.call("echo", Ping(number=1), returns=Pong)
            assert reply.value.number == 1
            assert reply.account.transport == "tcp"
            async with home.subscribe("n.*") as messages:
                await program.publish("n.1", "hello")
                with anyio.fail_after(5):
                    assert (await anext(messages)).value == "hello"


async def test_a_home_that_leaves_is_lost() -> None:
    async with Bus.open(listen=LOOPBACK, keys=LISTENING) as home:
        settings = BusSettings(rejoin_timeout=0)
        async with Bus.open(home.listens_at, keys=CLIENT, settings=settings) as program:
            for peer in home._sender.peers:
                peer.link.abort()
            with anyio.fail_after(5):
                await program.home_lost()
            with pytest.raises(PeerLost):
                await program.request("echo", Ping(number=1))


async def test_a_broker_over_tcp_knows_who_is_where() -> None:
    async with broker() as url:
        async with Bus.open(url, keys=CLIENT) as a, Bus.open(url, keys=CLIENT) as program:
            await a.spawn(Echo(), name="echo")
            assert [agent.name for agent in await program.agents()] == ["echo"]
            # Neither accepts links: the broker carries the request on.
            reply = await program.call("echo", Ping(number=1), returns=Pong)
            assert reply.value == Pong(number=1, by="echo")
            assert reply.account.transport == "tcp"


async def test_processes_of_one_host_meet_at_a_path_that_both_see(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/a.sock"
    async with broker() as url:
        async with (
            Bus.open(url, listen=path, keys=CLIENT) as a,
            Bus.open(url, keys=CLIENT) as program,
        ):
            await a.spawn(Echo(), name="echo")
            reply = await program.call("echo", Ping(number=1), returns=Pong)
            assert reply.account.transport == "unix"
            await a.spawn(Echo(), name="relay")
            relayed = Relay(to="echo", number=2)
            assert (await program.request("relay", relayed, returns=Pong)).number == 2


async def test_a_path_of_another_host_is_left_to_the_broker(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/a.sock"
    async with broker() as url:
        async with (
            Bus.open(url, listen=path, keys=CLIENT) as a,
            Bus.open(url, keys=CLIENT) as program,
        ):
            await a.spawn(Echo(), name="echo")
            await anyio.Path(path).unlink()  # as if it were on another host
            assert (await program.request("echo", Ping(number=1), returns=Pong)).by == "echo"
            async with Bus.open(listen=path):  # and there, it is another process's
                await a.spawn(Echo(), name="other")
                assert (await program.request("other", Ping(number=1), returns=Pong)).number == 1


async def test_keys_decide_who_joins() -> None:
    async with broker() as url:
        with pytest.raises(NotAuthorised):
            async with Bus.open(url, keys=new_keys(SERVER.public)):
                pass
        with pytest.raises(ConfigError, match="need keys"):
            async with Bus.open(url):
                pass
    with pytest.raises(ConfigError, match="need keys"):
        async with Bus.open(listen=LOOPBACK):
            pass

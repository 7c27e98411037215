"""Links under another process's name, of the same user, whose token names somebody else or nobody.

On Unix sockets nothing but its token tells such a process apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.config import Limits
from agentbus.daemon import start_broker
from agentbus.errors import AgentbusError, NoResponder
from agentbus.messages import Envelope, Kind
from agentbus.routing import BROKER, Register
from agentbus.transport import Link, connect_unix, listen_unix
from agentbus.wire import Hello

from .agents import Echo, Ping, Pong
from .policies import allow, broker, token_of, tokens

pytestmark = [pytest.mark.anyio, pytest.mark.promise("peer.may")]

ALL = allow("token:*", "*")


class Impostor:
    """The owner of a link that says nothing, and hears what is meant for somebody else."""

    def __init__(self) -> None:
        self.heard: list[Kind] = []

    def link_opened(self, link: Link) -> None:
        pass

    def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        self.heard += [envelope.kind for envelope in envelopes]

    def link_broken(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        pass


@asynccontextmanager
async def linked(path: str, name: str) -> AsyncIterator[Impostor]:
    """Have a silent link under a process's name."""
    impostor = Impostor()
    link = await connect_unix(path, impostor, Hello(name), Limits(), timeout=5)
    yield impostor
    link.abort()


def joining(url: str, name: str, settings: BusSettings | None = None) -> Bus:
    return Bus.open(url, name=name, token=token_of(name), settings=settings)


async def ask(bus: Bus, agent: str) -> Pong:
    with anyio.fail_after(5):
        return await bus.request(agent, Ping(number=1), returns=Pong)


async def test_what_a_lost_process_had_goes_to_nobody(socket_dir: Path) -> None:
    async with broker(socket_dir, ALL) as (url, guard):
        path = url.removeprefix("unix://")
        async with joining(url, "bob") as bob:
            async with joining(url, "ann", BusSettings(rejoin_timeout=0)) as ann:
                await ann.spawn(Echo(), name="jobs", group=True)
                await ask(bob, "jobs")
                peers = guard._links._node.peers
                at_broker = peers.named(ann.name)
                assert at_broker is not None
                async with linked(path, ann.name) as impostor:
                    at_broker.link.abort()
                    with anyio.fail_after(5):
                        while peers.named(ann.name) is at_broker:
                            await anyio.lowlevel.checkpoint()
                    with pytest.raises(NoResponder):
                        await ask(bob, "jobs")
                    assert impostor.heard == []


async def test_a_name_is_not_had_while_its_link_is_broken(socket_dir: Path) -> None:
    async with broker(socket_dir, ALL) as (url, guard):
        path = url.removeprefix("unix://")
        async with joining(url, "bob") as bob, joining(url, "ann") as ann:
            await ann.spawn(Echo(), name="jobs", group=True)
            peers = guard._links._node.peers
            named = peers.named(ann.name)
            assert named is not None
            named.link.broken = True
            async with linked(path, ann.name) as impostor:
                assert peers.named(ann.name) is named
                named.link.broken = False
                assert (await ask(bob, "jobs")).by == "jobs"
                assert impostor.heard == []


async def test_who_joins_has_its_name_from_who_said_it_before(socket_dir: Path) -> None:
    async with broker(socket_dir, ALL) as (url, _):
        async with joining(url, "bob") as bob:
            late = joining(url, "ann")
            async with linked(url.removeprefix("unix://"), late.name) as impostor, late as ann:
                await ann.spawn(Echo(), name="jobs", group=True)
                assert (await ask(bob, "jobs")).by == "jobs"
                assert impostor.heard == []


@pytest.mark.promise("peer.grant")
async def test_a_direct_link_is_nobodys_until_it_shows_a_grant(socket_dir: Path) -> None:
    async with broker(socket_dir, ALL) as (url, _):
        async with joining(url, "bob") as bob, joining(url, "ann") as ann:
            await bob.spawn(Echo(), name="bobs")
            await ann.spawn(Echo(), name="echo")
            async with linked(bob.listens_at, ann.name) as impostor:
                assert (await ask(bob, "echo")).by == "echo"
                assert impostor.heard == []


@pytest.mark.promise("peer.grant")
async def test_one_link_serves_both_directions_all_the_same(socket_dir: Path) -> None:
    async with broker(socket_dir, ALL) as (url, _):
        async with joining(url, "bob") as bob, joining(url, "ann") as ann:
            await bob.spawn(Echo(), name="bobs")
            await ann.spawn(Echo(), name="echo")
            await ask(ann, "bobs")
            await ask(bob, "echo")
            assert len(bob.report().links) == len(ann.report().links) == 2


@pytest.mark.promise("peer.grant")
async def test_a_socket_elsewhere_does_not_come_by_a_name(socket_dir: Path) -> None:
    """An agent is registered at a socket where another process's name is said."""
    trap, path = Impostor(), f"{socket_dir}/run/trap.sock"
    async with broker(socket_dir, ALL) as (url, _):
        async with (
            joining(url, "bob") as bob,
            joining(url, "ann") as ann,
            joining(url, "eve") as eve,
        ):
            await ann.spawn(Echo(), name="echo")
            async with await listen_unix(path, trap, Hello(ann.name), Limits()):
                await eve.request(BROKER, Register("trap", path, ""), returns=type(None))
                with pytest.raises(NoResponder):
                    await ask(bob, "trap")
                assert bob._sender.peers.named(ann.name) is not None
                assert (await ask(bob, "echo")).by == "echo"
                assert trap.heard == []


@pytest.mark.promise("peer.grant")
async def test_who_had_a_name_before_does_not_come_by_what_its_next_process_has(
    socket_dir: Path,
) -> None:
    """Its grants were good, and named it; the process that has its name now is somebody else."""
    async with broker(socket_dir, ALL) as (url, guard):
        async with joining(url, "bob") as bob:
            await bob.spawn(Echo(), name="bobs")
            ann = joining(url, "ann")
            eve = joining(url, "eve", BusSettings(rejoin_timeout=0))
            eve._name = ann.name
            async with eve:
                await ask(eve, "bobs")
                (home,) = eve._sender.routes.homes()
                home.link.abort()
                with anyio.fail_after(5):
                    while guard._access._processes.get(ann.name) is not None:
                        await anyio.lowlevel.checkpoint()
                assert bob._sender.peers.named(ann.name) is not None
                async with ann:
                    await ann.spawn(Echo(), name="echo")
                    heard = eve.report().links
                    assert (await ask(bob, "echo")).by == "echo"
                    assert eve.report().links == heard


@pytest.mark.parametrize("token", ["ann", "eve"])
async def test_without_a_policy_a_process_takes_its_own_place_alone(
    token: str, socket_dir: Path
) -> None:
    """It has made a new link, while here the old one's connection is only broken yet."""
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home, tokens=tokens("ann", "eve"))
        peers = home._sender.peers
        async with joining(f"unix://{path}", "ann", BusSettings(rejoin_timeout=0)) as ann:
            old = peers.named(ann.name)
            assert old is not None
            old.link.broken = True
            other = joining(f"unix://{path}", token)
            other._name = ann.name
            async with other:
                assert (peers.named(ann.name) is old) is (token == "eve")
                old.link.broken = False
                old.link.abort()
                with anyio.fail_after(5):
                    while old in peers:
                        await anyio.lowlevel.checkpoint()
                assert (peers.named(ann.name) is None) is (token == "eve")

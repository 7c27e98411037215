"""A policy at work: what the broker lets processes do, and what they take of each other."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from agentbus import PRESENCE, Agent, Bus, BusSettings, Call, Presence, handler
from agentbus.client.grants import GrantGate
from agentbus.client.payload import payload_type
from agentbus.config import RuleSettings
from agentbus.daemon import start_broker
from agentbus.errors import (
    AgentbusError,
    GrantRefused,
    InvalidMessage,
    InvalidName,
    NoResponder,
    NotAuthorised,
    PeerLost,
    PermissionDenied,
    TooLarge,
)
from agentbus.messages import Envelope, Kind
from agentbus.routing import (
    BROKER,
    BUS,
    Join,
    Joined,
    Locate,
    Refused,
    Register,
    Route,
    ShowGrant,
    Unregister,
)
from agentbus.transport import Link, connect_unix
from agentbus.wire import Hello, join_batch

from .agents import Echo, Ping, Pong, Relay
from .policies import allow, broker, deny, policy, token_of, tokens

pytestmark = [pytest.mark.anyio, pytest.mark.promise("peer.may")]

ALL = (
    allow("token:ann", "*"),
    allow("token:bob", "register"),
)


def joined(url: str, name: str) -> Bus:
    return Bus.open(url, name=name, token=token_of(name))


def gate_of(bus: Bus) -> GrantGate:
    gate = bus._sender.gate
    assert isinstance(gate, GrantGate)
    return gate


async def outcome(bus: Bus) -> AgentbusError | None:
    try:
        await bus.request("echo", Ping(number=0))
    except AgentbusError as error:
        return error
    return None


async def test_a_process_asks_what_it_may_and_nothing_else(socket_dir: Path) -> None:
    rules = (allow("token:bob", "register"), allow("token:ann", "request", "open.*"))
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            for name in ("open.one", "shut.one"):
                await bob.spawn(Echo(), name=name)
            reply = await ann.call("open.one", Ping(number=1), returns=Pong)
            assert reply.account.transport == "unix"
            for _ in range(2):
                with pytest.raises(PermissionDenied) as denied:
                    await ann.request("shut.one", Ping(number=1))
            assert denied.value.operation == "request"
            assert denied.value.subject == "shut.one"
            assert "+token:ann" in denied.value.principal
            assert "agentbus acl explain" in str(denied.value)
            # What the policy does not let it ask, it does not learn about either.
            with pytest.raises(PermissionDenied):
                await ann.request("nobody", Ping(number=1))
            with pytest.raises(NoResponder):
                await ann.request("open.nobody", Ping(number=1))


async def test_the_way_is_direct_and_the_broker_carries_nothing(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            await ann.request("echo", Ping(number=1))
            (to_bob,) = [peer for peer in ann._sender.peers if peer.name == bob.name]
            assert ann._sender.routes.known("echo") is to_bob
            assert to_bob.granted == {("", "echo"): None}
            before = ann._sender.routes.home
            assert before is not None
            sent = before.last_id
            for number in range(50):
                await ann.request("echo", Ping(number=number))
            assert before.last_id == sent


async def test_agents_are_told_apart_where_their_process_registered_them(socket_dir: Path) -> None:
    rules = (
        allow("token:*", "register"),
        allow("agent:writer", "request", "vault"),
        allow("token:ann", "request", "writer"),
        allow("token:ann", "request", "reader"),
    )
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann, joined(url, "eve") as eve:
            await bob.spawn(Echo(), name="vault")
            for name in ("writer", "reader"):
                await ann.spawn(Echo(), name=name)
            relayed = Relay(to="vault", number=1)
            assert (await ann.request("writer", relayed, returns=Pong)).by == "vault"
            with pytest.raises(PermissionDenied, match=r"token:ann\+agent:reader may not request"):
                await ann.request("reader", relayed)
            with pytest.raises(PermissionDenied):
                await ann.request("vault", Ping(number=1))
            # To claim another process's agent is to claim nothing.
            forged = Locate("vault", "writer")
            with pytest.raises(PermissionDenied, match="token:eve may not request 'vault'"):
                await eve.request(BROKER, forged, returns=Route)


async def test_instances_are_as_their_agents(socket_dir: Path) -> None:
    class Session(Agent):
        @handler
        async def relay(self, relay: Relay, call: Call) -> Pong:
            return await call.request(relay.to, Ping(number=relay.number), returns=Pong)

        @handler
        async def ping(self, ping: Ping, call: Call) -> Pong:
            return Pong(number=ping.number, by=self.name)

    rules = (
        allow("token:*", "register"),
        allow("token:bob", "request", "front"),
        allow("agent:front", "request", "back"),
    )
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Session, name="back", per_key=True)
            await ann.spawn(Session, name="front", per_key=True)
            for key in ("x", "y", "x"):
                relayed = Relay(to=f"back/{key}", number=1)
                pong = await bob.request(f"front/{key}", relayed, returns=Pong)
                assert pong.by == f"back/{key}"


async def test_names_may_be_had_by_whom_the_policy_says(socket_dir: Path) -> None:
    async with broker(socket_dir, allow("token:ann", "register", "ann.>")) as (url, _):
        async with joined(url, "ann") as ann, joined(url, "eve") as eve:
            await ann.spawn(Echo(), name="ann.one")
            for bus, name in ((ann, "other"), (eve, "ann.two")):
                with pytest.raises(PermissionDenied, match="may not register"):
                    await bus.spawn(Echo(), name=name)
                assert name not in bus._sender.hosts.agents


async def test_only_what_may_be_seen_is_listed(socket_dir: Path) -> None:
    rules = (allow("token:ann", "*"), allow("token:eve", "list", "public.*"))
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "ann") as ann, joined(url, "eve") as eve:
            for name in ("public.one", "private"):
                await ann.spawn(Echo(), name=name)
            assert [agent.name for agent in await eve.agents()] == ["public.one"]
            assert [agent.name for agent in await ann.agents()] == ["private", "public.one"]


async def test_topics_are_published_and_read_by_whom_the_policy_says(
    socket_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = (
        allow("token:ann", "publish", "news.>"),
        allow("token:bob", "subscribe", "news.*"),
        deny("token:bob", "subscribe", "news.secret"),
    )
    caplog.set_level(logging.INFO, "agentbus")
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "ann") as ann, joined(url, "bob") as bob, joined(url, "eve") as eve:
            for pattern in ("news.>", ">", "news.*", "news.secret", "other"):
                with pytest.raises(PermissionDenied, match="may not subscribe"):
                    async with bob.subscribe(pattern):
                        pass
            async with bob.subscribe("news.sea") as messages:
                with anyio.fail_after(5):
                    await ann.publish("news.sea", 1)
                    assert (await anext(messages)).value == 1
                    # A message that is not passed on has no reply: its publisher is told once, and
                    # from then on by an error.
                    await eve.publish("news.sea", 2)
                    while not eve._sender.topics._refused:
                        await anyio.lowlevel.checkpoint()
                with pytest.raises(PermissionDenied, match=r"token:eve may not publish 'news.sea'"):
                    await eve.publish("news.sea", 3)
                # Who goes on all the same is not told again, nor is the log filled.
                (home,) = eve._sender.routes.homes()
                frames = (join_batch(payload_type(int).encode(3)),)
                home.link.send(
                    Envelope(Kind.PUBLISH, target="news.sea", schema="int", payloads=frames)
                )
                await eve.agents()
                await ann.publish("news.sea", 4)
                with anyio.fail_after(5):
                    assert (await anext(messages)).value == 4
    assert caplog.text.count("denied: ") == 6


@pytest.mark.parametrize("rules", [(), (allow("*", "*"),)])
async def test_the_buses_own_topics_and_names_are_its_own(
    socket_dir: Path, rules: tuple[RuleSettings, ...]
) -> None:
    """With a policy and without: presence cannot be forged, nor names of the bus be taken."""
    path = f"{socket_dir}/run/bus.sock"
    chosen = policy(*rules) if rules else None
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home, policy=chosen)
        async with Bus.open(f"unix://{path}") as eve, Bus.open(f"unix://{path}") as bus:
            async with bus.subscribe(PRESENCE, types=(Presence,)) as seen:
                await eve.publish(PRESENCE, Presence("bank", "nowhere", present=True))
                await eve.spawn(Echo(), name="real")
                # Nor is it said that an agent has gone, by who does not have it.
                await bus.request(BROKER, Unregister("real"), returns=type(None))
                await eve.spawn(Echo(), name="also")
                with anyio.fail_after(5):
                    assert [(await anext(seen)).value.name for _ in range(2)] == ["real", "also"]
            for name in ("$broker2", "$bus", "$process.other-1"):
                with pytest.raises(InvalidName):
                    await eve.request(BROKER, Register(name, "", ""), returns=type(None))
            for wrong in (
                Register("a/b", "", ""),
                Register("", "", ""),
                Register("a" * 200, "", ""),
            ):
                with pytest.raises(InvalidName):
                    await eve.request(BROKER, wrong, returns=type(None))
            with pytest.raises(TooLarge, match="role"):
                await eve.request(BROKER, Register("a", "", "r" * 70_000), returns=type(None))


@pytest.mark.parametrize("rules", [(), (allow("*", "*"),)])
async def test_nobody_takes_the_brokers_name(
    socket_dir: Path, rules: tuple[RuleSettings, ...]
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home, policy=policy(*rules) if rules else None)
        for said in (Unregister(BROKER), Register("mine", "", ""), Join()):
            false = Bus.open(f"unix://{path}")
            false._name = home.name
            with pytest.raises((NotAuthorised, PeerLost)):
                async with false:
                    pass
            async with Bus.open(f"unix://{path}") as eve:
                eve._sender.routes._hello = Hello(home.name)
                eve._sender.routes._by_path.clear()
                link = await eve._sender.routes._connect(path)
                eve._sender.routes._home = link
                with pytest.raises((NotAuthorised, PeerLost)):
                    await eve.request(BROKER, said, returns=type(None))
        async with Bus.open(f"unix://{path}") as bus:
            assert await bus.agents() == ()


async def test_a_request_is_not_handed_over_to_the_bus_itself(socket_dir: Path) -> None:
    """The caller's process would say in its own name what another one wrote."""

    class Sly(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> str:
            try:
                await call.handoff(BROKER, Register("stolen", "", ""))
            except InvalidName as error:
                return str(error)
            return "stolen"

    async with broker(socket_dir, allow("*", "*")) as (url, _):
        async with joined(url, "eve") as eve, joined(url, "ann") as ann:
            await eve.spawn(Sly(), name="sly")
            answer = await ann.request("sly", Ping(number=1), returns=str)
            assert "cannot be handed over to the bus itself" in answer
            assert [agent.name for agent in await ann.agents()] == ["sly"]


async def test_a_hand_over_goes_only_where_the_caller_may_go(socket_dir: Path) -> None:
    class Desk(Agent):
        @handler
        async def relay(self, relay: Relay, call: Call) -> Pong:
            await call.handoff(relay.to, Ping(number=relay.number))
            raise AssertionError("the other agent answers")

    rules = (
        allow("token:bob", "*"),
        allow("token:ann", "request", "desk"),
        allow("token:ann", "request", "open"),
    )
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "eve") as eve, joined(url, "ann") as ann:
            del eve
            await bob.spawn(Desk(), name="desk")
            for name in ("open", "shut"):
                await bob.spawn(Echo(), name=name)
            assert (await ann.request("desk", Relay(to="open", number=1))).by == "open"
            with pytest.raises(PermissionDenied, match="token:ann may not request 'shut'"):
                await ann.request("desk", Relay(to="shut", number=1))


async def test_groups_are_asked_by_way_of_the_broker_under_the_policy(socket_dir: Path) -> None:
    rules = (allow("token:bob", "register"), allow("token:ann", "request", "jobs"))
    async with broker(socket_dir, *rules) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann, joined(url, "eve") as eve:
            await bob.spawn(Echo(), name="jobs", group=True)
            assert (await ann.request("jobs", Ping(number=1), returns=Pong)).by == "jobs"
            with pytest.raises(PermissionDenied):
                await eve.request("jobs", Ping(number=1))
            # Nor if it does not ask where the group is, but sends at once.
            eve._sender.routes._by_agent["jobs"] = eve._sender.routes.homes()[0]
            for _ in range(2):
                with pytest.raises(PermissionDenied, match="token:eve may not request 'jobs'"):
                    await eve.request("jobs", Ping(number=1))


# --- tokens


async def test_a_token_that_is_not_good_lets_nobody_in(
    socket_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home, policy=policy(*ALL), tokens=tokens("ann", expires=past))
        for name, problem in (("ann", "the token of ann has expired"), ("eve", "does not know")):
            with pytest.raises(NotAuthorised, match=problem) as refused:
                async with joined(f"unix://{path}", name):
                    pass
            assert token_of(name) not in str(refused.value) + repr(refused.value) + caplog.text


async def test_what_was_denied_is_decided_anew_with_a_token(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, Bus.open(url) as late:
            await bob.spawn(Echo(), name="jobs", group=True)
            late._sender.routes._by_agent["jobs"] = late._sender.routes.homes()[0]
            with pytest.raises(PermissionDenied):
                await late.request("jobs", Ping(number=1))
            await late.request(BROKER, Join(token_of("ann")), returns=Joined)
            assert (await late.request("jobs", Ping(number=1), returns=Pong)).by == "jobs"


async def test_a_link_ends_with_its_token(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    now = datetime.now(UTC)
    # On a slow machine the token is to end after the process has joined all the same.
    monkeypatch.setattr("agentbus.guard.time", SimpleNamespace(time=now.timestamp))
    soon = now + timedelta(seconds=0.3)
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home, policy=policy(*ALL), tokens=tokens("ann", expires=soon))
        settings = BusSettings(rejoin_timeout=0)
        token = token_of("ann")
        async with Bus.open(f"unix://{path}", token=token, settings=settings) as ann:
            with anyio.fail_after(10):
                await ann.home_lost()


# --- direct links under grants


@pytest.mark.promise("peer.grant")
async def test_a_direct_link_without_a_grant_carries_nothing(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL, allow("token:bob", "subscribe")) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "eve") as eve:
            echo = Echo()
            await bob.spawn(echo, name="echo")
            routes, origin = eve._sender.routes, eve._origin(None)
            async with bob.subscribe("news.*") as messages:
                to_bob = routes._by_agent["echo"] = await routes._connect(bob.listens_at)
                with pytest.raises(GrantRefused, match="granted no such request"):
                    await eve.request("echo", Ping(number=1))
                frames = (join_batch(payload_type(int).encode(1)),)
                forged = Envelope(Kind.PUBLISH, target="news.sea", schema="int", payloads=frames)
                to_bob.link.send(forged)
                for said in ("+>", ShowGrant(b"made up"), ShowGrant(b"\0" * 3000)):
                    with pytest.raises(GrantRefused):
                        await eve._sender.tell(to_bob, said, origin)
                for wrong in (
                    Joined(guarded=False),
                    Refused("key:a", "publish", "", "news.sea"),
                    7,
                ):
                    with pytest.raises(InvalidMessage):
                        await eve._sender.tell(to_bob, wrong, origin)
                assert not messages._queue
            assert echo.seen == []


@pytest.mark.promise("peer.grant")
async def test_requests_that_come_together_are_each_refused(socket_dir: Path) -> None:
    """What shares an envelope does not get past the gate, and none of it is left without an end."""
    async with broker(socket_dir, allow("token:bob", "register")) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            echo = Echo()
            await bob.spawn(echo, name="echo")
            to_bob = await ann._sender.routes._connect(bob.listens_at)
            link = to_bob.link
            asked = []
            for number in range(20):
                pending = ann._sender.pending("echo", None, None, stream=False)
                origin = ann._origin(5)
                ann._sender.peers.send(to_bob, pending, Ping(number=number), origin)
                assert link.joins
                asked.append(pending)
            with anyio.fail_after(5):
                for pending in asked:
                    with pytest.raises((GrantRefused, PermissionDenied)):
                        await pending.wait()
            assert echo.seen == []


@pytest.mark.promise("peer.grant")
async def test_a_grant_is_for_its_process_and_for_once(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "eve") as eve, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            route = await ann.request(BROKER, Locate("echo"), returns=Route)
            assert route.grant
            stolen = ShowGrant(route.grant)
            to_bob = await eve._sender.routes._connect(bob.listens_at)
            with pytest.raises(GrantRefused, match="another process's"):
                await eve._sender.tell(to_bob, stolen, eve._origin(None))
            from_ann = await ann._sender.routes._connect(bob.listens_at)
            await ann._sender.tell(from_ann, stolen, ann._origin(None))
            with pytest.raises(GrantRefused, match="shown before"):
                await ann._sender.tell(from_ann, stolen, ann._origin(None))
            assert route.grant.hex() not in repr(route) + repr(stolen)


@pytest.mark.promise("peer.grant")
async def test_where_no_grant_can_be_given_the_broker_carries_on(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, guard):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            guard._access._processes[bob.name].secret = b""
            assert (await ann.request("echo", Ping(number=1), returns=Pong)).by == "echo"
            assert ann._sender.routes.known("echo") is ann._sender.routes.home


@pytest.mark.promise("peer.grant")
async def test_a_grant_that_has_ended_carries_nothing_more(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            echo = Echo()
            await bob.spawn(echo, name="echo")
            await ann.request("echo", Ping(number=1))
            (at_bob,) = [peer for peer in bob._sender.peers if peer.name == ann.name]
            at_bob.allowed = dict.fromkeys(at_bob.allowed, bob._sender.now())
            with pytest.raises(GrantRefused):
                await ann.request("echo", Ping(number=2))
            # The caller's process asks for another one before it asks again.
            await ann.request("echo", Ping(number=3))
            assert echo.seen == [1, 3]


@pytest.mark.promise("peer.grant")
async def test_grants_are_renewed_while_they_are_used(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.broker.access.GRANT_SECONDS", 0.3)
    monkeypatch.setattr("agentbus.daemon.GRANT_SECONDS", 0.3)
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            await ann.request("echo", Ping(number=0))
            shown = set(gate_of(bob)._book._shown)
            with anyio.fail_after(5):
                number = 0
                while len(shown) < 4:
                    number += 1
                    with contextlib.suppress(GrantRefused):  # where the loop was held up too long
                        await ann.request("echo", Ping(number=number))
                    shown |= set(gate_of(bob)._book._shown)
                # What is not used is let go of, and asked for anew when it is used again.
                grants = ann._sender.grants
                while grants._shown:
                    await anyio.lowlevel.checkpoint()
            await ann.request("echo", Ping(number=-1))
            assert grants._shown
        assert not grants._shown


@pytest.mark.promise("peer.grant")
async def test_another_policy_holds_at_once(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, guard):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            echo = Echo()
            await bob.spawn(echo, name="echo")
            await ann.request("echo", Ping(number=1))
            old = gate_of(bob), gate_of(ann)
            guard.renew(policy(allow("token:bob", "*")), tokens("ann", "bob"))
            with anyio.fail_after(5):
                while gate_of(bob) is old[0] or gate_of(ann) is old[1]:
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(PermissionDenied, match="token:ann may not request 'echo'"):
                await ann.request("echo", Ping(number=2))
            guard.renew(policy(*ALL), tokens("bob"))
            with anyio.fail_after(5):
                while not isinstance(await outcome(ann), PermissionDenied):
                    await anyio.lowlevel.checkpoint()
            guard.renew(None, tokens())
            with anyio.fail_after(5):
                while await outcome(ann) is not None:
                    await anyio.lowlevel.checkpoint()
            assert bob._sender.gate is None
            assert 2 not in echo.seen


async def test_subscriptions_end_that_another_policy_does_not_allow(socket_dir: Path) -> None:
    before = (allow("token:ann", "*"), allow("token:bob", "subscribe"))
    after = (allow("token:ann", "*"), allow("token:bob", "subscribe", "weather.*"))
    async with broker(socket_dir, *before) as (url, guard):
        async with joined(url, "ann") as ann, joined(url, "bob") as bob:
            async with (
                bob.subscribe("news.*") as one,
                bob.subscribe("news.*") as other,
                bob.subscribe("weather.*") as kept,
            ):
                guard.renew(policy(*after), tokens("ann", "bob"))
                await ann.publish("news.sea", 1)
                await ann.publish("weather.sea", 2)
                with anyio.fail_after(5):
                    for ended in (one, other):
                        with pytest.raises(PermissionDenied, match=r"may not subscribe 'news\.\*'"):
                            await anext(ended)
                    assert (await anext(kept)).value == 2


async def test_without_a_policy_any_more_requests_go_at_once(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, guard):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            await ann.request("echo", Ping(number=1))
            guard.renew(None, tokens())
            with anyio.fail_after(5):
                while ann._sender.gate is not None or bob._sender.gate is not None:
                    await anyio.lowlevel.checkpoint()
            await ann.request("echo", Ping(number=2))
            assert ann._sender.routes.ready("echo", "") is not None
            assert ann._sender.routes.ready("echo", "anyone") is not None


async def test_a_second_link_under_a_name_is_nobody(socket_dir: Path) -> None:
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "ann") as ann:
            await ann.spawn(Echo(), name="echo")
            async with Bus.open(url) as eve:
                impostor = eve._sender.routes
                impostor._hello = Hello(ann.name)
                link = await connect_unix(
                    url.removeprefix("unix://"),
                    eve._sender.peers,
                    impostor._hello,
                    eve._settings.limits,
                    timeout=5,
                )
                second = eve._sender.peers.of(link)
                assert second is not None
                impostor._home = second
                with anyio.fail_after(5), pytest.raises(PeerLost):
                    await eve.request(BROKER, Join(token_of("bob")), returns=Joined)
            assert [agent.name for agent in await ann.agents()] == ["echo"]


async def test_a_silent_link_of_somebody_else_does_not_come_by_a_name(socket_dir: Path) -> None:
    """Neither while the connection of the process itself is broken, nor when that has gone."""
    url = f"unix://{socket_dir}/run/bus.sock"
    async with Bus.open(listen=url.removeprefix("unix://"), name="broker") as home:
        await start_broker(home, policy=policy(allow("*", "*")), tokens=tokens("ann", "bob"))
        peers = home._sender.peers
        async with joined(url, "bob") as bob:
            async with joined(url, "ann") as ann:
                await ann.spawn(Echo(), name="echo")
                named = peers.named(ann.name)
                assert named is not None
                others = [Impostor(Hello(ann.name)) for _ in range(2)]
                for other in others:
                    named.link.broken = other is others[0]
                    peers.link_opened(other)
                    assert peers.named(ann.name) is named
            with anyio.fail_after(5), pytest.raises(NoResponder):
                await bob.request("echo", Ping(number=1))
            assert peers.named(ann.name) is None
        for other in others:
            peers.link_lost(other, None)


class Impostor(Link):
    """The end of a link of another user, who says nothing."""

    def __init__(self, peer: Hello) -> None:
        super().__init__()
        self._peer = peer
        self.user = "mallory"

    @property
    def peer(self) -> Hello:
        return self._peer


@pytest.mark.promise("peer.secret", "peer.hostile")
async def test_a_secret_in_a_message_of_a_wrong_form_is_not_repeated(
    socket_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "agentbus-very-secret"
    said = (
        (BROKER, payload_type(Join).schema, {"token": [secret]}),
        (BROKER, payload_type(Join).schema, secret),
        (BUS, payload_type(ShowGrant).schema, {"grant": [secret]}),
        (BUS, payload_type(str).schema, "+" + "a." * 900 + secret),
    )
    async with broker(socket_dir, *ALL) as (url, _):
        async with Bus.open(url) as eve:
            (home,) = eve._sender.routes.homes()
            for target, schema, value in said:
                pending = eve._sender.pending(target, None, None, stream=False)
                frames = payload_type(type(value)).encode(value)
                number = home.last_id = home.last_id + 1
                home.outgoing[number] = pending
                forged = Envelope(
                    Kind.REQUEST, number, target=target, schema=schema, hops_left=1, payloads=frames
                )
                home.link.send(forged)
                with anyio.fail_after(5), pytest.raises(AgentbusError) as refused:
                    await pending.wait()
                assert secret not in str(refused.value) + repr(refused.value) + caplog.text
            assert not await eve.agents()


@pytest.mark.promise("peer.secret")
async def test_nothing_secret_is_logged_or_shown(
    socket_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with broker(socket_dir, *ALL) as (url, _):
        async with joined(url, "bob") as bob, joined(url, "ann") as ann:
            await bob.spawn(Echo(), name="echo")
            await ann.request("echo", Ping(number=1))
            with pytest.raises(PermissionDenied) as denied:
                await bob.request("echo2", Ping(number=1))
            route = await ann.request(BROKER, Locate("echo"), returns=Route)
            rules = await ann.request(BROKER, Join(token_of("ann")), returns=Joined)
            shown = repr((route, rules, Join(token_of("ann")), denied.value, ann, bob))
            for secret in (token_of("ann"), token_of("bob"), repr(rules.key), repr(route.grant)):
                assert secret not in shown + caplog.text + str(denied.value)


# --- without a policy


async def test_without_a_policy_links_have_no_gate(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home)
        async with Bus.open(f"unix://{path}") as a, Bus.open(f"unix://{path}") as b:
            await a.spawn(Echo(), name="echo")
            await b.request("echo", Ping(number=1))
            for bus in (home, a, b):
                assert bus._sender.gate is None
                assert all(peer.granted is None for peer in bus._sender.peers)
                assert not any(peer.allowed for peer in bus._sender.peers)

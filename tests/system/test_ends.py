"""Processes that end, in order or not: what others see, and what is left behind."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.errors import AgentbusError, NoResponder, PeerLost
from agentbus.routing import PRESENCE, Presence

from .agents import STARTED, Ask, Count, Gate, Hold, Sum, Total
from .processes import TIMEOUT, agent, broker, finished, running, starting, url_of, worker

pytestmark = pytest.mark.anyio

ADDER = agent("adder", "Adder")
HOLDER = agent("holder", "Holder")


async def outcome(bus: Bus, payload: Any, caught: list[AgentbusError]) -> None:
    """Ask the holder, and note how that ends."""
    try:
        await bus.request("holder", payload, deadline=TIMEOUT)
    except AgentbusError as error:
        caught.append(error)


async def listed(url: str) -> dict[str, dict[str, Any]]:
    status, out, err = await finished("ps", "--json", "--bus", url)
    assert (status, err) == (0, "")
    return {row["name"]: row for row in json.loads(out)}


def sockets(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.promise("ends.peer-lost", "autogen-hang")
async def test_a_killed_worker(socket_dir: Path) -> None:
    """Its requests and streams end typed, its name is free, other workers go on."""
    caught: list[AgentbusError] = []
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, _ = await enter(broker(socket_dir))
        doomed, _ = await enter(running(worker(url, HOLDER), worker(url, ADDER)))
        before = await listed(url)
        assert set(before) == {"holder", "adder"}
        bus = await enter(Bus.open(url))
        with anyio.fail_after(TIMEOUT):
            async with bus.subscribe(STARTED) as started, anyio.create_task_group() as group:
                group.start_soon(outcome, bus, Hold(), caught)
                assert (await anext(started)).value == doomed.process.pid
                await doomed.kill()
        assert [type(error) for error in caught] == [PeerLost]
        assert vars(caught[0]) == {"peer": before["holder"]["process"]}
        assert await bus.request("adder", Sum(numbers=[1, 2])) == Total(total=3, by="adder")
        assert len(sockets(socket_dir)) == 2, "the killed worker left its socket"
        await enter(running(worker(url, HOLDER)))
        after = await listed(url)
        assert after["adder"]["process"] == before["adder"]["process"]
        assert after["holder"]["process"] != before["holder"]["process"]
        async with bus.stream("holder", Count(upto=1), deadline=TIMEOUT) as parts:
            assert await anext(parts) != doomed.process.pid


async def test_a_worker_killed_behind_another(socket_dir: Path) -> None:
    """A handler that waits for a dead process fails typed, and so does its own caller."""
    async with broker(socket_dir) as (url, _):
        workers = running(worker(url, agent("left", "Adder")), worker(url, agent("right", "Adder")))
        async with workers as [_, doomed], Bus.open(url) as bus:
            assert (await bus.request("left", Ask(to="right", numbers=[1]))).total == 1
            await doomed.kill()
            with pytest.raises((PeerLost, NoResponder)), anyio.fail_after(TIMEOUT):
                await bus.request("left", Ask(to="right", numbers=[1]))
            assert (await bus.request("left", Sum(numbers=[1]))).total == 1


async def test_a_stream_from_a_killed_worker_ends(socket_dir: Path) -> None:
    async with (
        broker(socket_dir) as (url, _),
        running(worker(url, HOLDER)) as [doomed],
        Bus.open(url) as bus,
        bus.stream("holder", Count(upto=9)) as parts,
    ):
        assert await anext(parts) == doomed.process.pid
        await doomed.kill()
        with pytest.raises(PeerLost), anyio.fail_after(TIMEOUT):
            await anext(parts)


async def test_sigterm_ends_in_order(socket_dir: Path) -> None:
    """Even with a request under way: status 0, nothing on standard error, no file left."""
    caught: list[AgentbusError] = []
    impatient = worker(url_of(socket_dir), HOLDER, "--drain-timeout", "0.1")
    async with broker(socket_dir) as (url, home), running(impatient) as [command]:
        assert command.ready == ["holder"]
        assert len(sockets(socket_dir)) == 2
        with anyio.fail_after(TIMEOUT):
            async with (
                Bus.open(url) as bus,
                bus.subscribe(STARTED) as started,
                anyio.create_task_group() as group,
            ):
                group.start_soon(outcome, bus, Hold(), caught)
                await anext(started)
                assert await command.terminate() == 0
        assert len(caught) == 1
        assert sockets(socket_dir) == ["bus.sock"]
        assert await home.terminate() == 0
        assert sockets(socket_dir) == []
        assert (await command.errors(), await home.errors()) == ("", "")


async def test_a_worker_is_stopped_while_it_starts(socket_dir: Path) -> None:
    async with (
        broker(socket_dir) as (url, _),
        starting(worker(url, agent("slow", "Slow"))) as command,
    ):
        with anyio.fail_after(TIMEOUT):
            while "slow" not in await listed(url):
                pass
            assert await command.terminate() == 0
        assert await command.errors() == ""
        assert sockets(socket_dir) == ["bus.sock"]


async def test_a_killed_broker(socket_dir: Path) -> None:
    """What needs the broker ends typed; workers that are not to wait for another end."""
    config = socket_dir / "agentbus.toml"
    config.write_text("[bus]\nrejoin_timeout = 0.0\n")
    async with (
        broker(socket_dir) as (url, home),
        running(worker(url, ADDER, "--config", str(config))) as [command],
    ):
        async with Bus.open(url, settings=BusSettings(rejoin_timeout=0)) as bus:
            assert (await bus.request("adder", Sum(numbers=[1]))).total == 1
            await home.kill()
            with anyio.fail_after(TIMEOUT):
                assert await command.ended() == 1
                with pytest.raises(PeerLost):
                    await bus.request("adder", Sum(numbers=[2]))
                with pytest.raises(PeerLost):
                    await bus.agents()
                with pytest.raises(PeerLost):
                    await bus.publish("news", 1)
        assert await command.errors() == ""
        status, out, err = await finished("ps", "--bus", url)
        assert (status, out) == (1, "")
        assert err == (
            f"agentbus: socket: the process that listened at {socket_dir}/run/bus.sock is gone\n"
        )


@pytest.mark.promise("back.home", "autogen-reconnect")
async def test_a_broker_that_was_killed_and_started_again(socket_dir: Path) -> None:
    """Workers and programs come back by themselves, with their names and subscriptions."""
    async with broker(socket_dir) as (url, home), running(worker(url, ADDER)) as [command]:
        async with Bus.open(url) as bus, bus.subscribe("news") as news:
            assert (await bus.request("adder", Sum(numbers=[1]))).total == 1
            await home.kill()
            with anyio.fail_after(TIMEOUT), pytest.raises(PeerLost):
                while True:
                    await bus.agents()
            # What goes over a link of its own needs no broker.
            assert (await bus.request("adder", Sum(numbers=[2]))).total == 2
            async with broker(socket_dir) as (_, again), Bus.open(url) as other:
                with anyio.fail_after(TIMEOUT):
                    async with other.subscribe(PRESENCE, types=[Presence]) as presence:
                        if "adder" not in {agent.name for agent in await other.agents()}:
                            assert (await anext(presence)).value.name == "adder"
                    assert (await other.request("adder", Sum(numbers=[3]))).total == 3
                    value = None
                    while value is None:
                        await other.publish("news", "back")
                        with anyio.move_on_after(0.1):
                            value = (await anext(news)).value
                assert value == "back"
                assert command.process.returncode is None
                assert await command.terminate() == 0
                assert await again.terminate() == 0


async def test_a_second_broker_is_refused_and_a_dead_ones_place_taken(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, first):
        status, out, err = await finished("up", "--bus", url)
        path = url.removeprefix("unix://")
        assert (status, out) == (1, "")
        assert err == f"agentbus: socket: another process already listens at {path}\n"
        assert await listed(url) == {}
        await first.kill()
        assert sockets(socket_dir) == ["bus.sock"]
        async with broker(socket_dir):
            assert await listed(url) == {}


async def test_a_name_on_the_bus_is_taken(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, _), running(worker(url, ADDER)):
        status, out, err = await finished("worker", "--bus", url, ADDER, "--json")
        assert status == 1
        assert json.loads(out)["error"]["code"] == "name_taken"
        assert "Traceback" not in err
        assert len(sockets(socket_dir)) == 2


async def test_an_engine_that_cannot_be_had_says_so(socket_dir: Path) -> None:
    """One sentence, or one object; the worker leaves nothing and the bus goes on."""
    missing = f"{socket_dir}/none.gguf"
    found: dict[str, tuple[int, str, str]] = {}

    async def serve(model: str, *more: str) -> None:
        found[model] = await finished(*worker(url, "--serve", model), *more)

    async with broker(socket_dir) as (url, _):
        async with anyio.create_task_group() as group:
            group.start_soon(serve, "no_such_kind:words")
            group.start_soon(serve, missing, "--json")
        assert sockets(socket_dir) == ["bus.sock"]
        async with Bus.open(url) as bus:
            assert await bus.agents() == ()
    status, out, err = found["no_such_kind:words"]
    assert (status, out) == (1, "")
    assert err == "agentbus: no engine 'no_such_kind' is installed; installed: fake, torch\n"
    status, out, err = found[missing]
    assert (status, err) == (1, "")
    assert json.loads(out)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("told", ["worker", "broker"])
@pytest.mark.promise("drain.finish")
async def test_a_worker_that_is_told_to_end_finishes_what_it_has_begun(
    told: str, socket_dir: Path
) -> None:
    """Told by a signal, or by its broker, which was: status 0 and nothing on standard error."""
    answers: list[str] = []

    async def ask(bus: Bus) -> None:
        answers.append(await bus.request("relay", "gate", returns=str))

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, home = await enter(broker(socket_dir))
        [command] = await enter(running(worker(url, agent("relay", "Relay"))))
        bus = await enter(Bus.open(url))
        gate = Gate()
        await bus.spawn(gate, name="gate")
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, bus)
                await gate.held.wait()
                if told == "worker":
                    command.process.terminate()
                    while "relay" in await listed(url):
                        pass
                else:
                    home.process.terminate()
                    assert await bus.home_lost()
                assert not answers
                gate.opened.set()
            assert answers == ["opened"]
            assert await command.ended() == 0
        assert await command.errors() == ""


async def test_a_second_signal_ends_a_worker_at_once(socket_dir: Path) -> None:
    caught: list[AgentbusError] = []
    async with broker(socket_dir) as (url, _), running(worker(url, HOLDER)) as [command]:
        with anyio.fail_after(5):
            async with (
                Bus.open(url) as bus,
                bus.subscribe(STARTED) as started,
                anyio.create_task_group() as group,
            ):
                group.start_soon(outcome, bus, Hold(), caught)
                await anext(started)
                command.process.terminate()
                while await listed(url):
                    pass
                command.process.terminate()
                assert await command.ended() == 0
        assert len(caught) == 1

"""Spans: errors always, of the rest the share that is asked for, alike in all processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Agent, Bus, BusSettings, Call, TelemetrySettings, handler
from agentbus.errors import ConfigError, DeadlineExceeded, HandlerFailed, NoResponder
from agentbus.telemetry import Span

from .agents import Boom, Count, Echo, Hold, Ping, Relay
from .conftest import Pair

pytestmark = pytest.mark.anyio
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Pass(BaseModel):
    """Have another agent answer a Ping."""

    to: str


class Passer(Agent):
    """Hands over."""

    @handler
    async def on(self, on: Pass, call: Call) -> None:
        await call.handoff(on.to, Ping(number=1))

    @handler
    async def header(self, what: str, call: Call) -> str:
        return call.traceparent


def sampling(share: float) -> BusSettings:
    return BusSettings(telemetry=TelemetrySettings(sample=share))


@asynccontextmanager
async def agents(pair: Pair, share: float) -> AsyncIterator[tuple[Bus, Callable[[], list[Span]]]]:
    """Yields who asks, and what returns the spans of all requests to the agents so far."""
    async with pair.open(sampling(share)) as (host, asker):
        for name in ("echo", "other"):
            await host.spawn(Echo(), name=name)
        await host.spawn(Passer(), name="passer")

        def spans() -> list[Span]:
            found = host.spans() if host is asker else [*host.spans(), *asker.spans()]
            return [span for span in found if not span.account.target.startswith("$")]

        yield asker, spans


def of(spans: list[Span], kind: str, target: str) -> Span:
    (found,) = [s for s in spans if s.kind == kind and s.account.target == target]
    return found


async def settled(spans: Callable[[], list[Span]], count: int) -> list[Span]:
    """Wait until a handler, whose end nobody waits for, has ended too."""
    with anyio.fail_after(5):
        while len(spans()) < count:
            await anyio.lowlevel.checkpoint()
    assert len(spans()) == count
    return spans()


@pytest.mark.promise("trace.kept")
async def test_both_sides_of_all_hops_share_a_trace(pair: Pair) -> None:
    async with agents(pair, 1.0) as (asker, spans):
        await asker.call("echo", Relay(to="other", number=1))
        found = await settled(spans, 4)
        root, first = of(found, "client", "echo"), of(found, "server", "echo")
        inner, last = of(found, "client", "other"), of(found, "server", "other")
        assert len({span.trace for span in found}) == 1
        assert len({span.span for span in found}) == 4
        parents = [root.parent, first.parent, inner.parent, last.parent]
        assert parents == ["", root.span, first.span, inner.span]
        assert root.duration_s >= first.duration_s >= inner.duration_s > 0
        assert root.start_ns <= last.start_ns
        assert (inner.account.source, root.account.source) == ("echo", "")
        assert all(span.error == "" for span in found)
        if pair.kind != "inproc":
            assert root.process == asker.name != first.process
            assert root.account.sent_bytes > 0


@pytest.mark.promise("trace.kept")
async def test_errors_are_kept_of_every_trace(pair: Pair) -> None:
    async with agents(pair, 0.0) as (asker, spans):
        for number in range(50):
            await asker.request("echo", Ping(number=number))
        assert spans() == []
        for _ in range(3):
            with pytest.raises(HandlerFailed):
                await asker.request("echo", Boom(text="no"))
        found = await settled(spans, 6)
        assert {span.error for span in found} == {"handler_failed"}
        assert len({(span.trace, span.kind) for span in found}) == 6
        with pytest.raises(NoResponder):
            await asker.request("nobody", Ping(number=1))
        assert [s.error for s in spans() if s.account.target == "nobody"] == ["no_responder"]


async def test_a_deadline_that_passes_is_an_error(pair: Pair) -> None:
    async with agents(pair, 0.0) as (asker, spans):
        with pytest.raises(DeadlineExceeded):
            await asker.request("echo", Hold(), deadline=0.1)
        found = await settled(spans, 2)
        # Where there are two processes, whichever notices first tells the other.
        assert {span.error for span in found} <= {"deadline_exceeded", "cancelled"}
        assert of(found, "client", "echo").error == "deadline_exceeded"


async def test_who_leaves_a_stream_has_not_failed(pair: Pair) -> None:
    async with agents(pair, 0.0) as (asker, spans):
        async with asker.stream("echo", Count(upto=1)) as parts:
            await anext(parts)
        assert [span for span in spans() if span.kind == "client"] == []


@pytest.mark.promise("trace.kept")
@pytest.mark.parametrize("share", [0.05, 0.25])
async def test_the_share_of_traces_that_is_kept(pair: Pair, share: float) -> None:
    requests = 400
    async with agents(pair, share) as (asker, spans):
        for number in range(requests):
            await asker.request("echo", Ping(number=number))
        kept = [span for span in spans() if span.kind == "client"]
        assert len(kept) == pytest.approx(requests * share, abs=3)
        found = await settled(spans, 2 * len(kept))
        assert len({span.trace for span in found}) == len(kept)


async def test_a_hand_over_stands_under_who_handed_over(pair: Pair) -> None:
    async with agents(pair, 1.0) as (asker, spans):
        await asker.request("passer", Pass(to="other"))
        found = await settled(spans, 3)
        first, second = of(found, "server", "passer"), of(found, "server", "other")
        assert second.parent == first.span
        assert len({span.trace for span in found}) == 1


async def test_a_trace_from_outside_goes_on(pair: Pair) -> None:
    async with agents(pair, 1.0) as (asker, spans):
        outside = asker.traced(TRACEPARENT)
        header = await outside.request("passer", "header?")
        found = await settled(spans, 2)
        asked, handled = of(found, "client", "passer"), of(found, "server", "passer")
        assert asked.trace == TRACEPARENT[3:35]
        assert asked.parent == TRACEPARENT[36:52]
        assert header == f"00-{asked.trace}-{handled.span}-01"
        with pytest.raises(ConfigError):
            asker.traced("00-no")


async def test_all_off_is_all_off(pair: Pair) -> None:
    settings = BusSettings(telemetry=TelemetrySettings(enabled=False))
    async with pair.open(settings) as (host, asker):
        await host.spawn(Echo(), name="echo")
        reply = await asker.call("echo", Ping(number=1))
        account = reply.account
        assert (account.queue_s, account.handle_s, account.wall_s) == (0.0, 0.0, 0.0)
        with pytest.raises(HandlerFailed):
            await asker.request("echo", Boom(text="no"))
        assert host.spans() == asker.spans() == []
        (report,) = [r for r in host.report().agents if r.name == "echo"]
        assert report.replies == 0


async def test_one_side_off_does_not_trouble_the_other(socket_dir: Path) -> None:
    path = str(socket_dir / "bus.sock")
    off = BusSettings(telemetry=TelemetrySettings(enabled=False))
    async with Bus.open(listen=path, settings=off) as host:
        await host.spawn(Echo(), name="echo")
        async with Bus.open(f"unix://{path}", settings=sampling(1.0)) as asker:
            reply = await asker.call("echo", Ping(number=1))
            assert reply.account.wall_s > reply.account.handle_s == 0.0
            assert [span.kind for span in asker.spans() if span.account.target == "echo"] == [
                "client"
            ]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    with pytest.raises(ConfigError, match="sample"):
        TelemetrySettings(sample=share)

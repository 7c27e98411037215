"""Processes of engines, and of who reads from them, that are killed in the middle of streams."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agentbus import Bus, Context
from agentbus.client import ModelAgent, model_agent_name
from agentbus.engine.fake import FakeEngine
from agentbus.errors import AgentbusError, PeerLost
from tests.torch.tiny import TinyModel

from .processes import TIMEOUT, agent, broker, running, worker

pytestmark = pytest.mark.anyio

DOCUMENT = "The tide rises and falls twice a day. " * 10
STREAMS = 8
STORY = 1500
"""Tokens; more than are on their way to a reader that does not read."""


class Listeners:
    """Readers of one agent's stories, each of which stops reading at its first part."""

    def __init__(self, bus: Bus, target: str) -> None:
        self._bus = bus
        self._target = target
        self.begun = 0
        self.news = anyio.Event()
        self.go_on = anyio.Event()
        self.ends: Counter[type[AgentbusError] | None] = Counter()

    @property
    def context(self) -> Context:
        return self._bus.context().document(DOCUMENT)

    async def listen(self, tokens: int = STORY) -> None:
        target, context = self._target, self.context
        try:
            async with self._bus.stream(target, tokens, context=context, deadline=TIMEOUT) as parts:
                async for _ in parts:
                    if not self.go_on.is_set():
                        self.begun += 1
                        self._tell()
                        await self.go_on.wait()
            self.ends[None] += 1
        except AgentbusError as error:
            self.ends[type(error)] += 1
            self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    async def have_begun(self, count: int) -> None:
        while self.begun < count:
            assert not self.ends, f"ended before they had begun: {self.ends}"
            await self.news.wait()


@pytest.fixture(params=["fake", "torch"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What is served: all of its streams run at once, or as the engine computes them."""
    if request.param == "fake":
        return "fake:"
    return f"torch:{TinyModel(window=4096).write(tmp_path / 'tiny')}"


@pytest.mark.promise("ends.peer-lost")
async def test_an_engine_killed_in_the_middle_of_eight_streams(
    socket_dir: Path, model: str
) -> None:
    """Each stream ends typed; agents and callers go on with the next engine."""
    serve = ["--serve", model]
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, _ = await enter(broker(socket_dir))
        [doomed] = await enter(running(worker(url, *serve)))
        await enter(running(worker(url, "--model", model, agent("teller", "Teller"))))
        bus = await enter(Bus.open(url))
        listeners = Listeners(bus, "teller")
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                for _ in range(STREAMS):
                    group.start_soon(listeners.listen)
                await listeners.have_begun(STREAMS if model == "fake:" else 1)
                await doomed.kill()
                listeners.go_on.set()
        assert listeners.ends == {PeerLost: STREAMS}
        await enter(running(worker(url, *serve)))
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                for _ in range(STREAMS):
                    group.start_soon(listeners.listen, 4)
        assert listeners.ends[None] == STREAMS


async def test_readers_killed_in_the_middle_of_eight_streams(socket_dir: Path) -> None:
    """The engine frees their blocks, and who waited for what they computed goes on."""
    engine = FakeEngine()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, _ = await enter(broker(socket_dir))
        bus = await enter(Bus.open(url))
        await bus.spawn(ModelAgent(engine), name=model_agent_name("told"))
        command = worker(url, "--model", "told", agent("teller", "Teller"))
        [doomed] = await enter(running(command))
        listeners = Listeners(bus, "teller")
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                for _ in range(STREAMS):
                    group.start_soon(listeners.listen)
                await listeners.have_begun(STREAMS)
                assert engine.stats().running == STREAMS
                await doomed.kill()
                listeners.go_on.set()
            assert listeners.ends == {PeerLost: STREAMS}
            while engine.stats().running:
                await anyio.lowlevel.checkpoint()
        stats = engine.stats()
        assert stats.locked_blocks == 0
        assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
        await enter(running(command))
        await listeners.listen(4)
        assert listeners.ends[None] == 1

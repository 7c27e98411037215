"""A bus for tests: everything in this process, noted, and nothing left at the end."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..client import Agent, Bus, Call, ModelAgent, model_agent_name
from ..config import BusSettings, EngineSettings
from ..engine.fake import Reply
from ..errors import ModelNotFound
from .engines import ScriptedEngine
from .leftovers import Leftovers, settled

__all__ = ["Handled", "SpyBus", "open_bus"]

T = TypeVar("T")

_SCRIPTED = "fake:"
_OWN = "$"
"""Begins the names of what the bus itself puts on the bus."""


@dataclass(frozen=True, slots=True)
class Handled:
    """A message that an agent has begun to handle."""

    agent: str
    source: str
    """The agent that sent it; empty if the test did."""
    payload: Any
    """As the handler got it, and may have changed it since."""


class _Guarded(Bus):
    """A bus that serves no real model unless that is allowed."""

    def __init__(
        self, connect: str, listen: str, name: str, settings: BusSettings, *, allow_models: bool
    ) -> None:
        super().__init__(connect, listen, name, settings, None, "")
        self._allow_models = allow_models

    async def serve(self, model: str, settings: EngineSettings | None = None) -> str:
        """As `Bus.serve`, for scripted engines; for others if `open_bus` allowed it.

        Raises:
            ModelNotFound: it did not. Otherwise as `Bus.serve`.
        """
        if not self._allow_models and not model.startswith(_SCRIPTED):
            advice = "a test runs no real model: give it a script, bus.script(model, replies)"
            raise ModelNotFound(model, advice)
        return await super().serve(model, settings)


class SpyBus(_Guarded):
    """A bus that notes what its agents handle. Make it with `open_bus`."""

    def __init__(
        self, connect: str, settings: BusSettings, host: Bus | None, *, allow_models: bool
    ) -> None:
        super().__init__(connect, "", "test", settings, allow_models=allow_models)
        self._host = host
        self._news = asyncio.Event()
        self.handled: list[Handled] = []
        """What agents have begun to handle, in order; messages to models are not among it."""

    @property
    def host_url(self) -> str:
        """Where others can join an encoded bus: a second asker, or a `fault_proxy` before it."""
        return "" if self._host is None else f"unix://{self._host.listens_at}"

    async def spawn(
        self,
        agent: Agent | type[Agent],
        *,
        name: str = "",
        model: str = "",
        per_key: bool = False,
        group: bool = False,
    ) -> str:
        """As `Bus.spawn`; where the bus is encoded, the agent is at the other end of the link."""
        spawn = super().spawn if self._host is None else self._host.spawn
        return await spawn(agent, name=name, model=model, per_key=per_key, group=group)

    async def script(self, model: str, replies: Iterable[str | Reply]) -> ScriptedEngine:
        """Serve a model that says `replies`, one a call, to agents spawned with `model=`.

        Raises:
            NameTaken: the bus has a model of that name.
        """
        engine = ScriptedEngine(replies, model=model)
        await self.spawn(ModelAgent(engine), name=model_agent_name(model))
        return engine

    async def seen(self, agent: str, kind: type[T], *, count: int = 1, deadline: float = 5) -> T:
        """Wait until an agent has begun to handle so many payloads of a type; return the last.

        Raises:
            AssertionError: it has not within `deadline` seconds.
        """
        try:
            async with asyncio.timeout(deadline):
                while len(found := self._of(agent, kind)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            what = f"{len(found)} of {count} {kind.__name__} within {deadline} s"
            others = ", ".join(f"{h.agent}: {type(h.payload).__name__}" for h in self.handled)
            raise AssertionError(f"{agent!r} handled {what}; handled: {others or '-'}") from None
        return found[count - 1]

    def _of(self, agent: str, kind: type[T]) -> list[T]:
        return [h.payload for h in self.handled if h.agent == agent and isinstance(h.payload, kind)]

    def note(self, call: Call, payload: Any) -> None:
        """Note a message that an agent has begun to handle."""
        if not call.agent.startswith(_OWN):
            self.handled.append(Handled(call.agent, call.source, payload))
            self._news.set()

    def under_way(self) -> list[str]:
        """Return a line for each end that has requests or streams which have not ended."""
        ends = {"made here": self, "handled behind the link": self._host}
        counts = {what: end.report().under_way for what, end in ends.items() if end is not None}
        return [
            f"requests or streams {what} that have not ended: {count}"
            for what, count in counts.items()
            if count
        ]


@asynccontextmanager
async def open_bus(
    *,
    encoded: bool = False,
    allow_models: bool = False,
    settings: BusSettings | None = None,
) -> AsyncGenerator[SpyBus, None]:
    """Open a bus within this process for the length of a test.

    When the block ends without an exception, nothing may be left of what it began: no request or
    stream under way, and no task, its own included.

    Args:
        encoded: agents are asked as if they were in another process: over a Unix socket in a
            temporary folder, so that all goes through the codec.
        allow_models: real models may be served; without it only scripts are.
        settings: bounds and times.

    Raises:
        AssertionError: something was left.
    """
    before = Leftovers()
    settings = settings or BusSettings()
    async with AsyncExitStack() as stack:
        path, host = "", None
        if encoded:
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbus-")) + "/s"
            host = _Guarded("", path, "host", settings, allow_models=allow_models)
            await stack.enter_async_context(host)
        bus = SpyBus(path, settings, host, allow_models=allow_models)
        await stack.enter_async_context(bus)
        (host or bus).on_handled(bus.note)
        yield bus
        under_way = await settled(bus.under_way)
    _require_nothing([*under_way, *await settled(before.tasks)])


def _require_nothing(left: list[str]) -> None:
    if left:
        raise AssertionError("the test left behind: " + "; ".join(left))

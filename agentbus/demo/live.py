"""The live run: a broker, an engine and two worker processes, and the team at work on them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anyio
import orjson

from ..client import Bus, Subscription
from ..config import EngineSettings
from ..context import Context
from .account import LogEntry, UnequalWork, read_log
from .commands import running
from .events import Event, HopEnded, HopResult, HopStarted, HopText, Progress
from .roles import ROLES, WORKERS, Step, steps
from .script import Conversation, Hop
from .table import AGENTBUS
from .team import Tell, make_hop, topic_of, turn_of
from .ways import WARM_UP, WARM_UP_TEXT, OnText

__all__ = ["AgentbusWay", "Stage", "engine_settings", "hold", "opening", "stage"]

_LIVE = "live"
_DEADLINE_S = 900.0
_MEMBER = "agentbus.demo.team:Member"
_REPLAYED_MODULE = "agentbus.demo.replayed"


@dataclass(frozen=True, slots=True)
class Stage:
    """A running bus with the team on it. `token_log` is the engine's."""

    bus: Bus
    token_log: Path


@asynccontextmanager
async def stage(
    model: str, settings: EngineSettings, *, recorded: Conversation | None = None
) -> AsyncGenerator[Stage, None]:
    """Start broker, engine and workers as processes of their own, and join them.

    Where a conversation was recorded, agentbus's way decodes its token ids instead of the model's
    own choice, as the ordinary ways do.

    Raises:
        AgentbusError: one of them could not start.
    """
    with tempfile.TemporaryDirectory(prefix="ab-") as folder:
        url = f"unix://{folder}/bus/bus.sock"
        log = Path(folder, "tokens.jsonl")
        # no agentbus.toml that lies here: the ways are compared under the same settings
        own = ["--bus", url, "--config", os.devnull, "--json", "--until-eof"]
        logged = replace(settings, token_log=str(log))
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            await enter(running(["agentbus", "up", *own]))
            if recorded is None:
                await enter(running(_engine(model, logged, own)))
            else:
                await enter(running(_replaying(recorded, model, logged, url, Path(folder))))
            for members in WORKERS:
                targets = [f"{name}={_MEMBER}" for name in members]
                await enter(running(["agentbus", "worker", *own, "--model", model, *targets]))
            yield Stage(await enter(Bus.open(url, name="demo")), log)


def _engine(model: str, settings: EngineSettings, own: list[str]) -> list[str]:
    engine = ["--dtype", settings.dtype, "--threads", str(settings.threads)]
    logged = ["--token-log", settings.token_log]
    return ["agentbus", "worker", *own, "--serve", model, *logged, *engine]


def _replaying(
    recorded: Conversation, model: str, settings: EngineSettings, url: str, folder: Path
) -> list[str]:
    asked = folder / "replayed.json"
    asked.write_bytes(
        orjson.dumps(
            {
                "bus": url,
                "model": model,
                "engine": asdict(settings),
                "tenant": AgentbusWay.tenant,
                "recorded": recorded.token_ids,
            }
        )
    )
    return [_REPLAYED_MODULE, str(asked)]


def engine_settings() -> EngineSettings:
    """Return how the demo's engines run: on all cores but one.

    The processes that talk to the engine have that one, so that nothing is won or lost by who waits
    for whom.
    """
    return EngineSettings(threads=max(1, (os.cpu_count() or 1) - 1))


def opening(bus: Bus, document: str, question: str) -> Context:
    """Return the context that the team begins with: all roles, the document, the question."""
    context = bus.context()
    for role in ROLES:
        context = context.role(role.name, role.text)
    return context.document(document).user(question)


async def hold(
    team: Stage, document: str, question: str, *, max_tokens: int, progress: Progress
) -> tuple[Conversation, list[HopResult]]:
    """Let the team hold its conversation; returns the record of it and what each hop cost.

    Raises:
        AgentbusError: a member failed; the same class as where it failed.
    """
    watcher = _InOrder(progress)
    topic = topic_of(_LIVE)
    step = steps()[0]
    first = turn_of(step, run=_LIVE, max_tokens=max_tokens, hand_on=True)
    start = opening(team.bus, document, question)
    async with (
        team.bus.subscribe(topic, types=(HopStarted, HopText, HopEnded)) as events,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_watch, events, watcher)
        stream = team.bus.stream(step.target, first, context=start, deadline=_DEADLINE_S)
        await make_hop(stream, first, step.target, watcher.tell)
        await watcher.finished.wait()
        group.cancel_scope.cancel()
    results = watcher.results
    log = {entry.label: entry for entry in read_log(team.token_log, _LIVE)}
    return _record(document, question, results, log), results


def _record(
    document: str, question: str, results: list[HopResult], log: dict[str, LogEntry]
) -> Conversation:
    hops = []
    for step, result in zip(steps(), results, strict=True):
        entry = log.get(str(step.index))
        if entry is None:
            raise UnequalWork(f"the engine logged no call for hop {step.index}")
        ids = entry.generated_ids
        hops.append(Hop(step.index, step.source, step.target, step.ask, result.text, ids))
    return Conversation(ROLES, document, question, tuple(hops))


async def _watch(events: Subscription, watcher: _InOrder) -> None:
    async for message in events:
        await watcher.tell(message.value)


class _InOrder:
    """Passes events on hop by hop: they come from several processes, each in its own order."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._early: dict[int, list[Event]] = {}
        self._current = 0
        self.results: list[HopResult] = []
        self.finished = anyio.Event()

    async def tell(self, event: Event) -> None:
        """Take an event; it is passed on once all of the hops before it have been."""
        self._early.setdefault(event.index, []).append(event)
        while ready := self._early.pop(self._current, None):
            for one in ready:
                self._progress(one)
                if isinstance(one, HopEnded):
                    self.results.append(one.result)
                    self._current += 1
        if self._current == len(steps()):
            self.finished.set()


class AgentbusWay:
    """The conversation again, hop by hop, over the team's bus."""

    name = AGENTBUS
    transport = "Unix socket, msgpack"
    tenant = AGENTBUS

    def __init__(self, team: Stage, conversation: Conversation) -> None:
        self.token_log = team.token_log
        self._bus = team.bus
        self._conversation = conversation
        self._context = opening(team.bus, conversation.document, conversation.question)

    async def warm_up(self) -> None:
        """Let every member answer a short context with one token, under another salt."""
        for role in ROLES:
            context = self._bus.context().role(role.name, WARM_UP_TEXT).user(WARM_UP_TEXT)
            step = Step(0, "user", role.name, WARM_UP_TEXT)
            turn = turn_of(step, run=WARM_UP, max_tokens=1, hand_on=False)
            stream = self._bus.stream(role.name, turn, context=context, deadline=_DEADLINE_S)
            await make_hop(stream, turn, role.name, _only_text(lambda text: None))

    async def hop(self, index: int, on_text: OnText) -> HopResult:
        """Ask the member of hop `index` to speak again.

        Raises:
            AgentbusError: the member failed.
        """
        step = steps()[index]
        count = len(self._conversation.hops[index].token_ids)
        turn = turn_of(step, run=self.tenant, max_tokens=count, hand_on=False)
        stream = self._bus.stream(step.target, turn, context=self._context, deadline=_DEADLINE_S)
        result, context = await make_hop(stream, turn, step.target, _only_text(on_text))
        if context is not None:
            self._context = context
        return result


def _only_text(on_text: OnText) -> Tell:
    async def tell(event: Event) -> None:
        if isinstance(event, HopText):
            on_text(event.text)

    return tell

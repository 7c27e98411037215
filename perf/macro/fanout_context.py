"""Suite `fanout_context`: one new context that many models read, and models that read ahead.

`eight_agents` counts what eight agents at once have prefilled of one new context. The others time
the first token of an agent whose context came while it was busy (`queued`), while the agent that it
reads from was writing (`downstream`), or while the agent that names it as the next answered
(`next`): against the same without reading ahead, in turn, on new contexts each.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import anyio
import anyio.lowlevel
import orjson

from agentbus import Agent, Bus, BusSettings, Call, EngineSettings, handler
from agentbus.demo import load_default_document

from ..report import Row, compare
from ..suite import Progress, Suite

__all__ = ["FULL", "SUITE", "Size", "Stage", "eight_agents", "new_tokens", "staged"]

MODEL = "smollm2"
SECOND_MODEL = "torch:smollm2"
"""The same model in an engine of its own."""
AGENTS = 8
DEADLINE_S = 600.0
WAYS = ("ahead", "not_ahead")


@dataclass(frozen=True, slots=True)
class Size:
    rounds: int
    document: int
    """Characters; the default document has about 5.2 of them in a token."""
    read: int
    """Characters that are read ahead."""
    busy_s: float
    answer: int
    """Tokens that the upstream agent decodes."""


FULL = Size(rounds=5, document=7800, read=3000, busy_s=5.0, answer=96)
QUICK = Size(rounds=1, document=2600, read=1300, busy_s=2.5, answer=48)


class Busy(NamedTuple):
    """Work on something else for so long."""

    seconds: float


class Question(NamedTuple):
    """Answer with a token; returns the seconds to it."""

    text: str


class Follow(NamedTuple):
    """Read a writer's answer of so many tokens, then answer; returns the seconds to that."""

    writer: str
    tokens: int


class SumUp(NamedTuple):
    """Answer with so many tokens, then ask a reader about it; returns what that one does."""

    reader: str
    tokens: int


class Member(Agent):
    """You answer questions about a document in one sentence."""

    @handler
    async def busy(self, busy: Busy, call: Call) -> None:
        await anyio.sleep(busy.seconds)

    @handler
    async def answer(self, question: Question, call: Call) -> float:
        return await _first_token(call, question.text)

    @handler
    async def follow(self, follow: Follow, call: Call) -> float:
        context = call.context or call.empty_context()
        async with call.stream(follow.writer, follow.tokens, context=context) as parts:
            said = [part async for part in call.read_ahead(parts, follow.writer)]
        call.context = context.message(follow.writer, "".join(said))
        return await _first_token(call, "What is missing?")


class Writer(Agent):
    """You sum up documents for others, who know nothing of them."""

    @handler
    async def write(self, tokens: int, call: Call) -> AsyncGenerator[str, None]:
        story = call.generate_stream("Sum it up.", max_tokens=tokens, ignore_end=True)
        async with aclosing(story) as parts:
            async for part in parts:
                yield part


class Author(Agent):
    """You sum up documents, and have others look for what is missing."""

    @handler
    async def sum_up(self, ask: SumUp, call: Call) -> float:
        then = (ask.reader,)
        await call.generate("Sum it up.", max_tokens=ask.tokens, ignore_end=True, then=then)
        question = Question("What is missing?")
        return await call.request(ask.reader, question, context=call.context, returns=float)


async def _first_token(call: Call, text: str) -> float:
    begun = perf_counter()
    answer = call.generate_stream(text, max_tokens=1, ignore_end=True, label="measured")
    async with aclosing(answer) as parts:
        async for _ in parts:
            pass
    return perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Stage:
    """An engine's process part, and those of agents that read ahead and that do not."""

    host: Bus
    by_way: Mapping[str, Bus]
    log: Path


@asynccontextmanager
async def staged() -> AsyncGenerator[Stage, None]:
    with tempfile.TemporaryDirectory(prefix="ab-") as folder:
        log, path = Path(folder, "tokens.jsonl"), f"{folder}/bus.sock"
        settings = EngineSettings(threads=1, dtype="bfloat16", token_log=str(log))
        url = f"unix://{path}"
        async with (
            Bus.open(listen=path) as host,
            Bus.open(url) as ahead,
            Bus.open(url, settings=BusSettings(prefetch=False)) as not_ahead,
        ):
            await host.serve(MODEL, settings)
            yield Stage(host, dict(zip(WAYS, (ahead, not_ahead), strict=True)), log)


def _document(characters: int, mark: str) -> str:
    text = load_default_document()
    return f"{mark}\n\n{text * (1 + characters // len(text))}"[:characters]


def new_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens of prompts are new if each prefix is computed once."""
    new = 0
    before: Sequence[int] = ()
    for prompt in sorted(map(list, prompts)):
        shared = 0
        for ours, theirs in zip(prompt, before, strict=False):
            if ours != theirs:
                break
            shared += 1
        new, before = new + len(prompt) - shared, prompt
    return new


async def eight_agents(stage: Stage, size: Size, progress: Progress) -> list[Row]:
    bus = stage.by_way["ahead"]
    names = [f"member{number}" for number in range(AGENTS)]
    context = bus.context()
    for name in names:
        await bus.spawn(Member, name=name, model=MODEL)
        context = context.role(name, f"{name} looks at the document and says what it finds.")
    context = context.document(_document(size.document, "All of you read this."))
    stage.log.write_bytes(b"")
    times: list[float] = []

    async def ask(name: str) -> None:
        question = Question(f"What does {name} find?")
        times.append(await bus.request(name, question, context=context, deadline=DEADLINE_S))

    progress("eight agents, one context")
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(ask, name)
    entries = [orjson.loads(line) for line in stage.log.read_bytes().splitlines()]
    prompts = [entry["prompt_ids"] for entry in entries if entry["label"] == "measured"]
    ours = {
        "prefilled_tokens": float(sum(entry["prefilled"] for entry in entries)),
        "ttft_p50_ms": median(times) * 1000,
    }
    theirs: dict[str, dict[str, float]] = {
        "sum_of_new": {"prefilled_tokens": float(new_tokens(prompts))},
        "nothing_shared": {"prefilled_tokens": float(sum(map(len, prompts)))},
    }
    return compare(SUITE.name, "eight_agents", ours, theirs)


async def _queued(stage: Stage, size: Size, progress: Progress) -> list[Row]:
    for bus in stage.by_way.values():
        await bus.spawn(Member, name="reader", model=MODEL)

    async def round_of(way: str, number: int) -> float:
        bus = stage.by_way[way]
        context = bus.context().document(_document(size.read, f"Queued {way} {number}."))
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "reader", Busy(size.busy_s))
            await anyio.lowlevel.checkpoint()
            seconds = await bus.request(
                "reader", Question("What is new?"), returns=float, context=context
            )
        return seconds

    return await _in_turn("queued", round_of, size, progress)


async def _downstream(stage: Stage, size: Size, progress: Progress, *, same: bool) -> list[Row]:
    case = "downstream_same_engine" if same else "downstream"
    writer, reader = f"{case}_writer", f"{case}_reader"
    await stage.host.spawn(Writer, name=writer, model=SECOND_MODEL)
    for bus in stage.by_way.values():
        await bus.spawn(Member, name=reader, model=SECOND_MODEL if same else MODEL)

    async def round_of(way: str, number: int) -> float:
        bus = stage.by_way[way]
        context = bus.context().document(_document(size.read, f"{case} {way} {number}."))
        follow = Follow(writer, size.answer)
        return await bus.request(
            reader, follow, returns=float, context=context, deadline=DEADLINE_S
        )

    return await _in_turn(case, round_of, size, progress)


async def _next(stage: Stage, size: Size, progress: Progress, *, same: bool) -> list[Row]:
    case = "next_same_engine" if same else "next"
    author, reader = f"{case}_author", f"{case}_reader"
    for bus in stage.by_way.values():
        await bus.spawn(Author, name=author, model=SECOND_MODEL)
        await bus.spawn(Member, name=reader, model=SECOND_MODEL if same else MODEL)

    async def round_of(way: str, number: int) -> float:
        bus = stage.by_way[way]
        context = bus.context().document(_document(size.read, f"{case} {way} {number}."))
        ask = SumUp(reader, size.answer)
        return await bus.request(author, ask, returns=float, context=context, deadline=DEADLINE_S)

    return await _in_turn(case, round_of, size, progress)


async def _in_turn(
    case: str,
    round_of: Callable[[str, int], Coroutine[object, object, float]],
    size: Size,
    progress: Progress,
) -> list[Row]:
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(size.rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            progress(f"{case}: {way}, round {number + 1}")
            times[way].append(await round_of(way, number))
    figures = {way: {"ttft_p50_ms": median(found) * 1000} for way, found in times.items()}
    return compare(SUITE.name, case, figures["ahead"], {"not_ahead": figures["not_ahead"]})


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure all cases on one engine, the downstream ones with a second."""
    size = QUICK if quick else FULL
    async with staged() as stage:
        rows = await eight_agents(stage, size, progress)
        rows += await _queued(stage, size, progress)
        await stage.host.serve(SECOND_MODEL, EngineSettings(threads=1, dtype="bfloat16"))
        for same in (False, True):
            rows += await _downstream(stage, size, progress, same=same)
            rows += await _next(stage, size, progress, same=same)
    return rows


SUITE = Suite(
    name="fanout_context",
    peers=(),
    method=(
        f"SmolLM2 in bf16, one thread an engine; {AGENTS} agents asked at once about one new "
        "document; an agent whose message waits while it is busy; an agent that reads another's "
        "answer as it is written, or is asked when another has answered, which says so beforehand, "
        "on the same engine and on another. In the peer's column stands "
        "what is new, or the same without reading ahead, in turn; medians over the rounds."
    ),
    run=run,
)

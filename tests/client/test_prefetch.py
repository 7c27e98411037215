"""Models read the contexts of messages that wait, and along with answers that are being written."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus import Agent, Budget, Bus, BusSettings, Call, handler
from agentbus.client import ModelAgent, model_agent_name
from agentbus.client.generation import Generation
from agentbus.client.prefetch import settled_text
from agentbus.context import Context, Prompt
from agentbus.engine import Finished, GenerateRequest, Piece, Usage
from agentbus.engine.fake import FakeEngine, Reply
from agentbus.errors import ConfigError, ContextTooLong, HandlerFailed
from agentbus.telemetry import EngineReport

from .conftest import Pair, until

pytestmark = pytest.mark.anyio

MODEL = "held"
DOCUMENT = "The tide rises and falls twice a day. " * 40


class HeldEngine(FakeEngine):
    """Prefills once `open`; notes what was begun, and what was cancelled before."""

    def __init__(self) -> None:
        self.answers = Reply(text=" Nothing is new.")
        super().__init__(lambda request: self.answers)
        self.open = anyio.Event()
        self.open.set()
        self.begun = 0
        self.cancelled = 0
        self.written = ""
        """Text of the turn that is being written, as it was prefilled last."""
        self.owners: list[str] = []
        """For whose calls it prefilled, and who called."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        self.owners.append(request.owner)
        async with aclosing(super().generate(request)) as items:
            async for item in items:
                yield item

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        self.begun += 1
        self.owners.append(owner)
        self.written = prompt.cue.text
        try:
            await self.open.wait()
        except BaseException:
            self.cancelled += 1
            raise
        return await super().prefill(prompt, tenant=tenant, owner=owner)


class Reader(Agent):
    """You read."""

    def __init__(self) -> None:
        self.held = anyio.Event()
        self.release = anyio.Event()
        self.heard: list[str] = []

    @handler
    async def hold(self, hold: int, call: Call) -> str:
        self.held.set()
        await self.release.wait()
        if hold < 0:
            raise ValueError("nothing to hold")
        return ""

    @handler
    async def read(self, salt: str, call: Call) -> str:
        return await call.generate("What is new?", max_tokens=4, salt=salt)

    @handler
    async def ignore(self, nothing: bool, call: Call) -> str:
        return ""

    @handler
    async def follow(self, writer: tuple[str, str], call: Call) -> str:
        name, payload = writer
        async with call.stream(name, payload) as parts:
            async for part in call.read_ahead(parts, name):
                self.heard.append(part)
        context = call.context or call.empty_context()
        call.context = context.message(name, "".join(self.heard))
        return await call.generate(max_tokens=4)


class Author(Agent):
    """You write."""

    @handler
    async def write(self, then: tuple[str, ...], call: Call) -> str:
        await call.generate("Write.", max_tokens=9, salt="s", then=then)
        return await call.request("reader", "s", context=call.context, returns=str)


class Unready(Agent):
    release: ClassVar[anyio.Event]

    async def started(self) -> None:
        await self.release.wait()
        raise ValueError("not ready")

    @handler
    async def read(self, salt: str, call: Call) -> str:
        raise NotImplementedError


class Writer(Agent):
    def __init__(self) -> None:
        self.release = anyio.Event()

    @handler
    async def write(self, text: str, call: Call) -> AsyncIterator[str]:
        for word in text.split(" "):
            yield f" {word}"
        await self.release.wait()
        yield " The end."


class Stage:
    def __init__(self, host: Bus, asker: Bus, engine: HeldEngine) -> None:
        self.host, self.asker, self.engine = host, asker, engine
        self.reader = Reader()

    @property
    def report(self) -> EngineReport:
        (report,) = self.host.report().engines
        return report

    def context(self, document: str = DOCUMENT) -> Context:
        return self.asker.context().document(document)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[anyio.abc.TaskGroup]:
        """Keep the reader busy; it is free again at the end of the block."""
        self.reader.held, self.reader.release = anyio.Event(), anyio.Event()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(self.asker.request, "reader", 1)
                await self.reader.held.wait()
                yield group
                self.reader.release.set()


@asynccontextmanager
async def staged(pair: Pair, settings: BusSettings | None = None) -> AsyncIterator[Stage]:
    engine = HeldEngine()
    async with pair.open(settings) as (host, asker):
        await host.spawn(ModelAgent(engine), name=model_agent_name(MODEL))
        stage = Stage(host, asker, engine)
        await host.spawn(stage.reader, name="reader", model=MODEL)
        yield stage


async def test_a_model_reads_the_context_of_a_message_that_waits(pair: Pair) -> None:
    async with staged(pair) as stage:
        replies = []

        async def ask() -> None:
            replies.append(await stage.asker.call("reader", "", context=stage.context()))

        async with stage.held() as group:
            group.start_soon(ask)
            await until(lambda: stage.report.prefetched_tokens)
        cost = replies[0].account.model
        assert stage.report.prefetched_tokens > 300 and cost.reused_tokens > 300
        assert cost.prefilled_tokens < 20
        assert stage.report.used_tokens == stage.report.prefetched_tokens


async def test_the_engine_is_told_for_whose_call_it_reads_ahead(pair: Pair) -> None:
    async with staged(pair) as stage:

        async def ask(payload: object, context: Context) -> None:
            await stage.asker.request("reader", payload, context=context)

        said = stage.context().user("What is new?")
        async with stage.held() as group:
            group.start_soon(ask, "", said)
            await until(lambda: stage.report.prefetched_tokens)
        ahead, called = stage.engine.owners
        assert ahead == called and called.startswith("reader/")
        writer = Writer()
        await stage.host.spawn(writer, name="writer")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, ("writer", DOCUMENT), said)
                await until(lambda: stage.engine.written)
                writer.release.set()
        assert len(stage.engine.owners) > 3 and set(stage.engine.owners) == {called}
        del stage.engine.owners[:]
        async with stage.held() as group:
            group.start_soon(ask, "", stage.context("Unsaid. " * 80))
            await until(lambda: stage.engine.owners)
        assert stage.engine.owners[0] == "" != stage.engine.owners[1]


async def test_a_handler_that_reads_at_once_is_quicker(pair: Pair) -> None:
    async with staged(pair) as stage:
        for number in range(3):
            gate = anyio.Event()
            stage.engine.answers = Reply(text=" Nothing.", gate=gate)
            context = stage.context(f"{number} {DOCUMENT}")
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:

                    async def ask(context: Context = context) -> None:
                        await stage.asker.request("reader", "", context=context)

                    group.start_soon(ask)
                    await until(lambda: stage.engine.stats().running)
                    await anyio.wait_all_tasks_blocked()
                    gate.set()
        assert stage.engine.begun == 0
        model, _ = stage.host.report().agents
        assert model.replies == 3, "the engine was asked for more than the answers"


@pytest.mark.parametrize("why", ["off", "budget", "no context"])
async def test_nothing_is_prefetched(pair: Pair, why: str) -> None:
    async with staged(pair, BusSettings(prefetch=why != "off")) as stage:
        budget = Budget(tokens=10_000) if why == "budget" else None
        context = None if why == "no context" else stage.context()

        async def ask() -> None:
            await stage.asker.request("reader", "", context=context, budget=budget)

        async with stage.held() as group:
            group.start_soon(ask)
            await until(lambda: stage.host.report().agents[1].waiting)
            await anyio.wait_all_tasks_blocked()
        assert stage.engine.begun == 0


async def test_the_last_message_shows_whether_the_next_will_be_read_and_how(pair: Pair) -> None:
    async with staged(pair) as stage:

        async def ask(payload: object, document: str) -> None:
            await stage.asker.request("reader", payload, context=stage.context(document))

        async with stage.held() as group:
            group.start_soon(ask, True, DOCUMENT)
            await until(lambda: stage.report.prefetched_tokens)
        async with stage.held() as group:
            group.start_soon(ask, "salted", f"Second. {DOCUMENT}")
            await until(lambda: stage.host.report().agents[1].waiting)
            await anyio.wait_all_tasks_blocked()
        assert stage.engine.begun == 1 and stage.report.used_tokens == 0
        async with stage.held() as group:
            group.start_soon(ask, "salted", f"Third. {DOCUMENT}")
            await until(lambda: stage.engine.begun == 2)
            await until(lambda: stage.report.prefetched_tokens > 600)
        assert stage.report.used_tokens > 300


async def test_a_prefetch_ends_with_its_message(pair: Pair) -> None:
    async with staged(pair) as stage:
        stage.engine.open = anyio.Event()
        scope = anyio.CancelScope()

        async def ask() -> None:
            with scope:
                await stage.asker.request("reader", "", context=stage.context())

        async with stage.held() as group:
            group.start_soon(ask)
            await until(lambda: stage.engine.begun)
            scope.cancel()
            await until(lambda: stage.engine.cancelled)
        assert stage.engine.stats().locked_blocks == 0


@pytest.mark.parametrize("how", ["answers", "fails", "is cancelled"])
async def test_a_prefetch_ends_with_its_handler(pair: Pair, how: str) -> None:
    async with staged(pair) as stage:
        stage.engine.open = anyio.Event()
        scope = anyio.CancelScope()

        async def ask() -> None:
            with scope, suppress(HandlerFailed):
                hold = -1 if how == "fails" else 1
                await stage.asker.request("reader", hold, context=stage.context())

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await until(lambda: stage.engine.begun)
                assert not stage.engine.cancelled
                if how == "is cancelled":
                    scope.cancel()
                else:
                    stage.reader.release.set()
                await until(lambda: stage.engine.cancelled)
        assert not stage.host._entered().prefetcher._expected


async def test_a_prefetch_ends_with_an_agent_that_cannot_start(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        engine = HeldEngine()
        engine.open = anyio.Event()
        await host.spawn(ModelAgent(engine), name=model_agent_name(MODEL))
        await host.spawn(Unready, name="unready", model=MODEL, per_key=True)
        context = asker.context().document(DOCUMENT)
        errors = []

        async def ask() -> None:
            try:
                await asker.request("unready/one", "", context=context)
            except HandlerFailed as error:
                errors.append(error)

        Unready.release = anyio.Event()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await until(lambda: engine.begun)
                Unready.release.set()
                await until(lambda: engine.cancelled)
        assert len(errors) == 1


async def test_an_engine_that_cannot_prefetch_harms_nobody(pair: Pair) -> None:
    async with staged(pair) as stage:
        long = "word " * 9000
        errors: list[ContextTooLong] = []

        async def ask() -> None:
            try:
                await stage.asker.request("reader", "", context=stage.context(long))
            except ContextTooLong as error:
                errors.append(error)

        async with stage.held() as group:
            group.start_soon(ask)
            await until(lambda: stage.engine.begun)
        assert len(errors) == 1
        assert await stage.asker.request("reader", "", context=stage.context())


async def test_a_model_reads_along_while_another_agent_writes(pair: Pair) -> None:
    async with staged(pair) as stage:
        writer = Writer()
        await stage.host.spawn(writer, name="writer")
        text = "The moon pulls at the sea and the sea follows. " * 20
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                replies = []

                async def ask() -> None:
                    payload = ("writer", text)
                    replies.append(
                        await stage.asker.call("reader", payload, context=stage.context())
                    )

                group.start_soon(ask)
                await until(lambda: stage.report.prefetched_tokens > 450)
                assert stage.reader.heard[-1] != " The end."
                assert len(stage.engine.written) > 800
                assert text.startswith(stage.engine.written.strip())
                writer.release.set()
        cost = replies[0].account.model
        assert cost.prefilled_tokens < 60
        assert cost.reused_tokens > 450


@asynccontextmanager
async def writing(stage: Stage, *then: str, budget: Budget | None = None) -> AsyncIterator[None]:
    """Have an author's model in the middle of an answer; it ends with the block."""
    gate = anyio.Event()
    stage.engine.answers = Reply(text=" The sea rises.", gate=gate, gate_after=1)
    if "author" not in stage.asker._entered().hosts.agents:
        await stage.asker.spawn(Author(), name="author", model=MODEL)

    async def ask() -> None:
        await stage.asker.request("author", then, context=stage.context(), budget=budget)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: stage.engine.stats().running)
            yield
            gate.set()


async def test_the_model_of_who_is_asked_next_reads_what_is_there_of_its_context(
    pair: Pair,
) -> None:
    async with staged(pair) as stage:
        async with writing(stage, "reader"):
            await until(lambda: stage.report.prefetched_tokens > 300)
        author, ahead, reader = stage.engine.owners
        assert author.startswith("author/") and ahead == reader and reader.startswith("reader/")
        assert stage.report.used_tokens == stage.report.prefetched_tokens
        agents = {agent.name: agent for agent in stage.host.report().agents}
        assert agents["reader"].replies == 1 and not agents["reader"].failures
        assert agents["reader"].prefilled_tokens < 60
        assert agents["reader"].reused_tokens > 300
        assert not stage.host._entered().prefetcher._expected


async def test_nothing_is_announced_for_money_or_to_agents_without_a_model(pair: Pair) -> None:
    async with staged(pair) as stage:
        async with writing(stage, "reader", budget=Budget(tokens=10_000)):
            await anyio.wait_all_tasks_blocked()
        assert stage.engine.begun == 0
        await stage.host.spawn(Writer(), name="writer")
        for _ in range(2):
            async with writing(stage, "writer", "nobody"):
                await until(lambda: stage.asker._entered().prefetcher._deaf)
        agents = {agent.name: agent for agent in stage.host.report().agents}
        assert agents["writer"].failures == {"no_handler": 1}, "it was asked once"
        assert stage.engine.begun == 0


async def test_nothing_is_announced_to_who_did_not_read_its_last_message(pair: Pair) -> None:
    async with staged(pair) as stage:
        async with stage.held() as group:
            group.start_soon(
                partial(stage.asker.request, "reader", True, context=stage.context("First."))
            )
            await until(lambda: stage.report.prefetched_tokens)
        async with writing(stage, "reader"):
            await anyio.wait_all_tasks_blocked()
        assert stage.engine.begun == 1


async def test_what_was_announced_ends_with_who_announced_it(pair: Pair) -> None:
    async with staged(pair) as stage:
        stage.engine.open = anyio.Event()
        with anyio.CancelScope() as scope:
            async with writing(stage, "reader"):
                await until(lambda: stage.engine.begun)
                scope.cancel()
        await until(lambda: stage.engine.cancelled)
        await until(lambda: not stage.engine.stats().running)
        assert stage.engine.begun == 1
        assert not stage.host._entered().prefetcher._expected


@pytest.mark.parametrize("then", ["reader", ("reader",) * 17])
async def test_who_is_next_is_a_tuple_of_some_names(then: Any) -> None:
    generation = Generation(then=then)
    with pytest.raises(ConfigError, match="tuple of up to 16"):
        generation.ask("roster_first")


async def test_whoever_stops_following_stops_the_prefetch(pair: Pair) -> None:
    async with staged(pair) as stage:
        stage.engine.open = anyio.Event()
        await stage.host.spawn(Writer(), name="writer")
        scope = anyio.CancelScope()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:

                async def ask() -> None:
                    with scope:
                        payload = ("writer", DOCUMENT)
                        await stage.asker.request("reader", payload, context=stage.context())

                group.start_soon(ask)
                await until(lambda: stage.engine.begun)
                scope.cancel()
                await until(lambda: stage.engine.cancelled)
                await anyio.wait_all_tasks_blocked()
        # the message's own prefetch was under way; what the model was to read along waited for it
        assert stage.engine.begun == stage.engine.cancelled == 1


WORD = re.compile(r"\s*\S+|\s+")


@given(st.lists(st.text("ab \n", max_size=9), max_size=9), st.text("ab \n", max_size=9))
def test_what_is_settled_is_cut_as_in_the_whole_text(parts: list[str], rest: str) -> None:
    text = "".join(parts)
    settled = WORD.findall(settled_text(text))
    assert WORD.findall(text + rest)[: len(settled)] == settled
    assert text.startswith(settled_text(text))


def test_settled_text_keeps_all_but_the_last_words() -> None:
    assert settled_text("one two three four") == "one two"
    assert settled_text("one two three four ") == "one two"
    assert settled_text("one") == ""

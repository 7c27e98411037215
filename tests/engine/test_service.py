"""Many calls on one engine: each new prefix is computed once, and prefetches give way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import pytest

from agentbus.config import EngineSettings
from agentbus.context.layout import Prompt, Turn
from agentbus.engine import (
    EngineService,
    Finished,
    GenerateRequest,
    Piece,
    Scores,
    Usage,
    Vectors,
)
from agentbus.engine.fake import FakeEngine
from agentbus.engine.service import MOST_PREFETCHES
from agentbus.errors import EngineFailed
from agentbus.telemetry import Budget

pytestmark = pytest.mark.anyio

DOCUMENT = "The tide rises and falls twice a day. " * 40


class HeldEngine(FakeEngine):
    """Computes prompts when it is let: one permit each; and notes what was begun and cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = anyio.Semaphore(0)
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.news = anyio.Event()
        self.failing: set[str] = set()

    async def _hold(self, what: str) -> None:
        self.begun.append(what)
        self.news.set()
        self.news = anyio.Event()
        try:
            await self.permits.acquire()
        except BaseException:
            self.cancelled.append(what)
            raise
        if what in self.failing:
            raise EngineFailed("held", what)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        await self._hold(last(request.prompt))
        async with aclosing(super().generate(request)) as items:
            async for item in items:
                yield item

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        await self._hold(f"ahead: {last(prompt)}")
        return await super().prefill(prompt, tenant=tenant, owner=owner)

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        await self._hold(f"score: {last(prompt)}")
        return await super().score(prompt, continuations, tenant=tenant, budget=budget)

    async def embed(self, texts: Sequence[str], *, budget: Budget | None = None) -> Vectors:
        await self._hold("embed")
        return await super().embed(texts, budget=budget)

    async def saw(self, count: int) -> None:
        while len(self.begun) < count:
            await self.news.wait()


def last(prompt: Prompt | tuple[int, ...]) -> str:
    assert isinstance(prompt, Prompt)
    return prompt.turns[-1].text if prompt.turns else ""


def asked(text: str, document: str = DOCUMENT) -> GenerateRequest:
    turns = (Turn("user", document), Turn("user", text))
    return GenerateRequest(prompt=Prompt(turns, Turn("assistant", "", text)), max_tokens=4)


def shared(document: str = DOCUMENT) -> Prompt:
    return Prompt((Turn("user", document),), Turn("assistant", ""))


class Crowd:
    """Calls under way, and how they ended."""

    def __init__(self, service: EngineService) -> None:
        self.service = service
        self.usages: dict[str, Usage] = {}
        self.errors: list[str] = []
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def ask(self, text: str, document: str = DOCUMENT) -> None:
        with anyio.CancelScope() as self.scopes[text]:
            try:
                async with aclosing(self.service.generate(asked(text, document))) as items:
                    async for item in items:
                        if isinstance(item, Finished):
                            self.usages[text] = item.usage
            except EngineFailed:
                self.errors.append(text)

    @property
    def prefilled(self) -> int:
        return sum(usage.prefilled_tokens for usage in self.usages.values())


NAMES = [f"agent-{number}" for number in range(8)]


def sum_of_new(engine: FakeEngine, texts: list[str]) -> int:
    """Tokens that nobody could have reused: the document once, each one's ask and cue."""
    document = len(engine.tokenize(shared())) - 1
    prompts = [asked(text).prompt for text in texts]
    own = [len(engine.tokenize(p)) - document for p in prompts if isinstance(p, Prompt)]
    return document + sum(own)


async def test_eight_agents_that_need_one_document_compute_it_once() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES:
                group.start_soon(crowd.ask, name)
            await engine.saw(1)
            await anyio.wait_all_tasks_blocked()
            assert engine.begun == ["agent-0"]
            for _ in NAMES:
                engine.permits.release()
    assert crowd.prefilled <= sum_of_new(engine, NAMES)
    assert engine.stats().locked_blocks == 0


async def test_without_the_service_each_computes_all() -> None:
    engine = HeldEngine()
    crowd = Crowd(engine)  # type: ignore[arg-type]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES:
                group.start_soon(crowd.ask, name)
            await engine.saw(8)
            for _ in NAMES:
                engine.permits.release()
    assert crowd.prefilled > 7 * len(engine.tokenize(shared()))


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_if_the_first_one_ends_badly_the_next_takes_over(how: str) -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES:
                group.start_soon(crowd.ask, name)
            await engine.saw(1)
            await anyio.wait_all_tasks_blocked()
            if how == "fails":
                engine.failing.add("agent-0")
                engine.permits.release()
            else:
                crowd.scopes["agent-0"].cancel()
            await engine.saw(2)
            await anyio.wait_all_tasks_blocked()
            assert engine.begun == ["agent-0", "agent-1"]
            for _ in NAMES[1:]:
                engine.permits.release()
    assert crowd.errors == (["agent-0"] if how == "fails" else [])
    assert crowd.prefilled <= sum_of_new(engine, NAMES[1:])


async def test_who_waits_can_be_cancelled_alone() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES[:3]:
                group.start_soon(crowd.ask, name)
            await engine.saw(1)
            await anyio.wait_all_tasks_blocked()
            crowd.scopes["agent-1"].cancel()
            for _ in NAMES[:2]:
                engine.permits.release()
    assert sorted(crowd.usages) == ["agent-0", "agent-2"]


async def test_nobody_waits_longer_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbus.engine.service.LONGEST_WAIT_S", 0.02)
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES[:2]:
                group.start_soon(crowd.ask, name)
            await engine.saw(2)
            for _ in NAMES[:2]:
                engine.permits.release()
    assert len(crowd.usages) == 2
    assert crowd.usages["agent-1"].queue_s >= 0.015


async def test_nobody_waits_where_nothing_is_reused() -> None:
    engine = HeldEngine()
    engine._capabilities = replace(engine.capabilities, prefix_reuse=False)
    crowd = Crowd(EngineService(engine))
    assert await crowd.service.prefetch(shared()) == Usage()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in NAMES:
                group.start_soon(crowd.ask, name)
            await engine.saw(len(NAMES))
            for _ in NAMES:
                engine.permits.release()
    assert engine.begun == NAMES


async def test_others_are_not_held_up() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.ask, "one", DOCUMENT)
            group.start_soon(crowd.ask, "two", "Something else. " * 40)
            await engine.saw(2)
            engine.permits.release()
            engine.permits.release()
    assert len(crowd.usages) == 2


async def test_what_was_prefetched_is_used_and_counted() -> None:
    engine = FakeEngine()
    service = EngineService(engine)
    usage = await service.prefetch(shared())
    assert usage.prefilled_tokens == len(engine.tokenize(shared())) - 1
    assert (await service.prefetch(shared())).prefilled_tokens == 0
    crowd = Crowd(service)
    await crowd.ask("agent-0")
    assert crowd.usages["agent-0"].reused_tokens == usage.prefilled_tokens
    unused = await service.prefetch(shared("Nobody reads this. " * 20))
    stats = service.stats()
    assert stats.prefetched_tokens == usage.prefilled_tokens + unused.prefilled_tokens
    assert stats.prefetch_used_tokens == usage.prefilled_tokens


async def usage_of(service: EngineService, turns: list[str], owner: str, **more: Any) -> Usage:
    prompt = Prompt(tuple(Turn("user", text) for text in turns), Turn("assistant", ""))
    request = GenerateRequest(prompt=prompt, max_tokens=1, owner=owner, **more)
    async with aclosing(service.generate(request)) as items:
        async for item in items:
            if isinstance(item, Finished):
                return item.usage
    raise AssertionError("nothing came")


async def test_what_a_prompt_says_again_in_another_place_is_counted() -> None:
    service = EngineService(FakeEngine())
    role, other = "You write. " * 50, "It is noon. " * 50
    first = await usage_of(service, [role, other], "ann")
    longer = await usage_of(service, [role, other, "Go on."], "ann")
    assert first.lost_tokens == longer.lost_tokens == 0
    assert (await usage_of(service, [other, role], "bob")).lost_tokens == 0, "bob's first"
    moved = await usage_of(service, ["Now. " * 100, role, other], "ann")
    assert moved.prompt_tokens * 2 / 3 * 0.9 < moved.lost_tokens < moved.prefilled_tokens
    cached = await usage_of(service, [role, other, "Go on."], "ann")
    assert cached.lost_tokens == cached.prefilled_tokens == 1, "all else was found, after all"
    for more in ({"reuse": False}, {"tenant": "another"}):
        assert (await usage_of(service, [other, role], "ann", **more)).lost_tokens == 0


async def test_what_was_evicted_before_its_use_does_not_count_as_used() -> None:
    engine = FakeEngine(settings=EngineSettings(kv_tokens=512))
    crowd = Crowd(EngineService(engine))
    await crowd.service.prefetch(shared())
    await crowd.ask("other", "Something else. " * 200)
    await crowd.ask("agent-0")
    assert crowd.usages["agent-0"].reused_tokens < 120
    stats = crowd.service.stats()
    assert stats.prefetched_tokens > 300
    assert stats.prefetch_used_tokens == crowd.usages["agent-0"].reused_tokens


async def test_a_prefetch_gives_way_and_goes_on_afterwards() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    other = "Something else. " * 40
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.service.prefetch, shared())
            await engine.saw(1)
            group.start_soon(crowd.ask, "urgent", other)
            await engine.saw(2)
            await anyio.wait_all_tasks_blocked()
            assert engine.cancelled == [f"ahead: {DOCUMENT}"] and len(engine.begun) == 2
            engine.permits.release()
            await engine.saw(3)
            assert engine.begun[2] == f"ahead: {DOCUMENT}"
            engine.permits.release()
    assert crowd.service.stats().prefetched_tokens > 0


async def test_who_needs_a_prefetch_waits_for_it_and_it_gives_way_no_more() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.service.prefetch, shared())
            await engine.saw(1)
            group.start_soon(crowd.ask, "agent-0")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(crowd.ask, "urgent", "Something else. " * 40)
            await engine.saw(2)
            await anyio.wait_all_tasks_blocked()
            assert engine.cancelled == [] and engine.begun[1:] == ["urgent"]
            for _ in range(3):
                engine.permits.release()
    assert crowd.usages["agent-0"].reused_tokens > 100


async def test_a_prefetch_begins_only_when_no_prompt_is_being_read() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.ask, "urgent", "Something else. " * 40)
            await engine.saw(1)
            group.start_soon(crowd.service.prefetch, shared())
            await anyio.wait_all_tasks_blocked()
            assert engine.begun == ["urgent"]
            engine.permits.release()
            await engine.saw(2)
            engine.permits.release()


async def test_too_many_prefetches_are_not_begun() -> None:
    engine = HeldEngine()
    service = EngineService(engine)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(MOST_PREFETCHES):
                group.start_soon(service.prefetch, shared(f"{number} {DOCUMENT}"))
            await engine.saw(1)
            await anyio.wait_all_tasks_blocked()
            assert await service.prefetch(shared("one more")) == Usage()
            group.cancel_scope.cancel()
        assert len(engine.begun) == 1
        engine.permits.release()
        await service.prefetch(shared("one more"))


async def test_a_prefetch_gives_way_to_scores_and_vectors() -> None:
    engine = HeldEngine()
    service = EngineService(engine)
    other = asked("urgent", "Something else. " * 40).prompt
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(service.prefetch, shared())
            await engine.saw(1)
            group.start_soon(service.score, other, ["yes", "no"])
            await engine.saw(2)
            group.start_soon(service.embed, ["a text"])
            await engine.saw(3)
            await anyio.wait_all_tasks_blocked()
            assert engine.cancelled == [f"ahead: {DOCUMENT}"] and len(engine.begun) == 3
            engine.permits.release()
            await anyio.wait_all_tasks_blocked()
            assert len(engine.begun) == 3  # the other one is not through
            engine.permits.release()
            await engine.saw(4)
            engine.permits.release()
    assert service.stats().prefetched_tokens > 0


async def test_a_score_waits_for_its_prefix_and_nobody_waits_for_a_score() -> None:
    engine = HeldEngine()
    crowd = Crowd(EngineService(engine))
    found: list[Scores] = []

    other = "Something else. " * 40

    async def score(document: str) -> None:
        prompt = asked("judge", document).prompt
        found.append(await crowd.service.score(prompt, ["yes", "no"]))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.ask, "agent-0")
            await engine.saw(1)
            group.start_soon(score, DOCUMENT)
            await anyio.wait_all_tasks_blocked()
            assert engine.begun == ["agent-0"]
            engine.permits.release()
            await engine.saw(2)
            engine.permits.release()
            group.start_soon(score, other)
            await engine.saw(3)
            group.start_soon(crowd.ask, "agent-1", other)
            await engine.saw(4)
            assert engine.begun == ["agent-0", "score: judge", "score: judge", "agent-1"]
            for _ in range(2):
                engine.permits.release()
    assert found[0].usage.reused_tokens > 300


async def test_scores_use_what_was_prefetched() -> None:
    service = EngineService(FakeEngine())
    await service.prefetch(shared())
    await service.score(asked("judge").prompt, ["yes"])
    stats = service.stats()
    assert stats.prefetch_used_tokens == stats.prefetched_tokens > 300

"""What was recorded is decoded again, whatever the model would choose."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from agentbus.config import EngineSettings
from agentbus.context.layout import Prompt, Turn
from agentbus.demo.account import read_log
from agentbus.demo.live import AgentbusWay, stage
from agentbus.demo.replayed import Replayed
from agentbus.demo.roles import ROLES, Step, steps
from agentbus.demo.script import Conversation, Hop
from agentbus.engine.base import Engine, GenerateRequest, Piece
from agentbus.engine.fake import FakeEngine
from agentbus.errors import UnknownEngine

pytestmark = pytest.mark.anyio

ASKED = Prompt((Turn("user", "How many boats lie in the harbour?"),), Turn("assistant", ""))


def recorded(step: Step, ids: tuple[int, ...]) -> Hop:
    return Hop(step.index, step.source, step.target, step.ask, "", ids)


async def decoded(engine: Engine, tenant: str, label: str) -> tuple[int, ...]:
    request = GenerateRequest(prompt=ASKED, max_tokens=3, tenant=tenant, label=label)
    ids: tuple[int, ...] = ()
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if isinstance(item, Piece):
                ids += item.token_ids
    return ids


async def test_only_recorded_calls_of_the_tenant_decode_what_was_recorded() -> None:
    plain = FakeEngine()
    said = plain.tokenize(ASKED)[:2]
    engine = Replayed(plain, "way", {"7": said})
    own = await decoded(plain, "way", "7")
    assert len(own) == 3 and own[:2] != said
    assert await decoded(engine, "way", "7") == said
    assert await decoded(engine, "way", "8") == own
    assert await decoded(engine, "other", "7") == own


async def test_agentbus_way_decodes_a_record_without_being_asked_to(
    conversation: Conversation,
) -> None:
    first, second = steps()[:2]
    ids = {first.index: (5, 6, 7, 5), second.index: (9, 8)}
    hops = tuple(recorded(step, ids[step.index]) for step in (first, second))
    record = Conversation(ROLES, conversation.document, "Which?", hops)
    async with stage("fake:", EngineSettings(), recorded=record) as team:
        way = AgentbusWay(team, record)
        await way.warm_up()
        results = [await way.hop(index, lambda text: None) for index in range(2)]
        log = read_log(way.token_log, way.tenant)
    assert [result.decoded for result in results] == [4, 2]
    assert [entry.generated_ids for entry in log] == list(ids.values())


async def test_a_model_that_cannot_be_opened_is_told(conversation: Conversation) -> None:
    with pytest.raises(UnknownEngine):
        async with stage("nosuchkind:x", EngineSettings(), recorded=conversation):
            pytest.fail("there is no such engine")

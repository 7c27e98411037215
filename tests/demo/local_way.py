"""A stand-in for agentbus's own way: the roster-first layout on an engine in this process."""

from __future__ import annotations

import time
from contextlib import aclosing
from pathlib import Path

from agentbus.context.layout import Prompt, roster_first
from agentbus.context.segment import Context, TenantKey
from agentbus.demo.events import HopResult, Leg
from agentbus.demo.roles import Role
from agentbus.demo.script import Conversation, Hop
from agentbus.demo.ways import OnText
from agentbus.engine.base import Engine, Finished, GenerateRequest, Usage


def empty_context(roles: tuple[Role, ...], document: str, question: str) -> Context:
    context = TenantKey().empty()
    for role in roles:
        context = context.role(role.name, role.text)
    return context.document(document).user(question)


def as_context(conversation: Conversation, index: int) -> Context:
    """Return what hop `index` reads."""
    context = empty_context(conversation.roles, conversation.document, conversation.question)
    for hop in conversation.hops[:index]:
        context = context.ask(hop.ask, author=hop.source).message(hop.target, hop.text)
    now = conversation.hops[index]
    return context.ask(now.ask, author=now.source)


class LocalWay:
    """One engine, no bus."""

    name = "agentbus"
    transport = "none"
    tenant = "replay"

    def __init__(self, engine: Engine, conversation: Conversation, token_log: Path) -> None:
        self.token_log = token_log
        self._engine = engine
        self._conversation = conversation

    async def warm_up(self) -> None:
        """Nothing to warm up: the engine lives in this process."""

    async def hop(self, index: int, on_text: OnText) -> HopResult:
        hop = self._conversation.hops[index]
        start = time.perf_counter()
        prompt = roster_first(as_context(self._conversation, index), hop.target)
        request = GenerateRequest(
            prompt=prompt,
            max_tokens=len(hop.token_ids),
            ignore_end=True,
            forced=hop.token_ids,
            tenant=self.tenant,
        )
        text, first, usage = "", 0.0, Usage()
        async with aclosing(self._engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    usage = item.usage
                elif item.text:
                    first = first or time.perf_counter()
                    text += item.text
                    on_text(item.text)
        return HopResult(
            text=text,
            legs=(Leg("none", 1, 1), Leg("to the engine", 0, 0)),
            prompt_tokens=usage.prompt_tokens,
            reused=usage.reused_tokens,
            prefilled=usage.prefilled_tokens,
            decoded=usage.decoded_tokens,
            ttft_s=first - start,
            wall_s=time.perf_counter() - start,
        )


async def held(
    engine: Engine, roles: tuple[Role, ...], asks: list[str], *, document: str, max_tokens: int
) -> Conversation:
    """Hold a conversation on the engine and return its record."""
    context = empty_context(roles, document, "What now?")
    hops: list[Hop] = []
    for index, ask in enumerate(asks):
        target = roles[index % len(roles)].name
        source = hops[-1].target if hops else "user"
        context = context.ask(ask, author=source)
        text, ids = await _said(engine, roster_first(context, target), max_tokens)
        context = context.message(target, text)
        hops.append(Hop(index, source, target, ask, text, ids))
    return Conversation(roles, document, "What now?", tuple(hops))


async def _said(engine: Engine, prompt: Prompt, max_tokens: int) -> tuple[str, tuple[int, ...]]:
    request = GenerateRequest(prompt=prompt, max_tokens=max_tokens, ignore_end=True, tenant="live")
    text: str = ""
    ids: tuple[int, ...] = ()
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if not isinstance(item, Finished):
                text += item.text
                ids += item.token_ids
    return text, ids

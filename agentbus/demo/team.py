"""The team over agentbus: each member speaks, then hands on to the next.

A member answers with its text as it streams and, when it has spoken, with what that cost; the
request stays open until all who come after have spoken, so that an error anywhere reaches the
program that asked. What happens is published, for whoever watches.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from ..client import Agent, Call, ReplyStream, handler
from ..context import Context
from .events import Event, HopEnded, HopResult, HopStarted, HopText, Leg
from .roles import Step, steps
from .table import AGENTBUS

__all__ = ["Member", "Spoken", "Tell", "Turn", "make_hop", "topic_of", "turn_of"]

Tell = Callable[[Event], Awaitable[None]]


class Turn(NamedTuple):
    """It is your turn. `hand_on` asks the member to hand on to the next one afterwards."""

    run: str
    hop: int
    source: str
    ask: str
    max_tokens: int
    hand_on: bool


class Spoken(NamedTuple):
    """What a turn cost at the engine. The context then ends with what was said."""

    engine_sent: int
    engine_received: int
    prompt_tokens: int
    reused: int
    prefilled: int
    decoded: int


def topic_of(run: str) -> str:
    """Return the topic on which a run's events are published."""
    return f"demo.{run}"


def turn_of(step: Step, *, run: str, max_tokens: int, hand_on: bool) -> Turn:
    """Return the message that begins a step."""
    return Turn(
        run=run,
        hop=step.index,
        source=step.source,
        ask=step.ask,
        max_tokens=max_tokens,
        hand_on=hand_on,
    )


class Member(Agent):
    """A member of the demo's team. Its role stands in the context that all share."""

    concurrency = 16

    @handler
    async def speak(self, turn: Turn, call: Call) -> AsyncIterator[str | Spoken]:
        """Answer the ask, then hand on."""
        context = call.context or call.empty_context()
        call.context = context.ask(turn.ask, author=turn.source)
        answer = call.generate_stream(
            max_tokens=turn.max_tokens, ignore_end=True, salt=turn.run, label=str(turn.hop)
        )
        async with aclosing(answer) as parts:
            async for text in parts:
                yield text
        cost = call.cost
        yield Spoken(
            engine_sent=cost.sent_bytes,
            engine_received=cost.received_bytes,
            prompt_tokens=cost.prompt_tokens,
            reused=cost.reused_tokens,
            prefilled=cost.prefilled_tokens,
            decoded=cost.decoded_tokens,
        )
        plan = steps()
        if turn.hand_on and turn.hop + 1 < len(plan):
            call.context = await self._hand_on(plan[turn.hop + 1], turn, call)

    async def _hand_on(self, step: Step, turn: Turn, call: Call) -> Context | None:
        async def tell(event: Event) -> None:
            await call.publish(topic_of(turn.run), event)

        following = turn_of(step, run=turn.run, max_tokens=turn.max_tokens, hand_on=True)
        stream = call.stream(step.target, following, context=call.context)
        return (await make_hop(stream, following, step.target, tell))[1]


async def make_hop(
    stream: ReplyStream[str | Spoken], turn: Turn, target: str, tell: Tell
) -> tuple[HopResult, Context | None]:
    """Ask a member to speak, tell what happens, and wait until all is done.

    Returns what the hop cost and the context that came back.
    """
    said: list[str] = []
    begun = time.perf_counter()
    first = begun
    result = None
    async with stream as parts:
        transport = "Unix socket" if parts.sent_bytes else "in process"
        await tell(HopStarted(AGENTBUS, turn.hop, turn.source, target, transport))
        async for part in parts:
            if isinstance(part, Spoken):
                leg = Leg("to the agent", parts.sent_bytes, parts.received_bytes)
                result = _result(part, said, leg, first - begun, begun)
                await tell(HopEnded(AGENTBUS, turn.hop, result))
                continue
            first = first if said else time.perf_counter()
            said.append(part)
            await tell(HopText(AGENTBUS, turn.hop, part))
        context = parts.reply.context
    if result is None:
        raise RuntimeError("a member ended its turn without saying what it cost")
    agent, engine = result.legs
    whole = replace(agent, received_bytes=parts.received_bytes)
    return replace(result, legs=(whole, engine)), context


def _result(spoken: Spoken, said: list[str], agent: Leg, ttft: float, begun: float) -> HopResult:
    return HopResult(
        text="".join(said),
        legs=(agent, Leg("agent to engine", spoken.engine_sent, spoken.engine_received)),
        prompt_tokens=spoken.prompt_tokens,
        reused=spoken.reused,
        prefilled=spoken.prefilled,
        decoded=spoken.decoded,
        ttft_s=ttft,
        wall_s=time.perf_counter() - begun,
    )

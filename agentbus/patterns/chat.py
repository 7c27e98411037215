"""Group chat and debate: members speak in turn on one context, and each hears all before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..client import Reply, Requester
from ..context import Context
from ..errors import ConfigError
from .ask import Ask
from .gather import gather

__all__ = ["Debate", "Turn", "debate", "group_chat"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat: who spoke, and the reply with the context as it then was."""

    speaker: str
    reply: Reply[Any]


NextSpeaker = Callable[[Sequence[Turn]], str | None]
"""Chooses who speaks next, given all turns so far; None ends the chat."""


async def group_chat(
    asker: Requester,
    message: Any,
    *,
    context: Context,
    speakers: NextSpeaker,
    deadline: float | None = None,
) -> AsyncGenerator[Turn, None]:
    """Send `message` to one speaker after another, on a context that grows with each turn.

    `speakers` is called with the turns so far and names who speaks next; None ends the chat.
    A speaker's handler extends the context, by `call.generate` or itself; the next one gets it by
    reference. `deadline` is in seconds and holds for each turn. Errors as in `Requester.call`.
    """
    turns: list[Turn] = []
    while (speaker := speakers(tuple(turns))) is not None:
        reply = await asker.call(speaker, message, context=context, deadline=deadline)
        context = reply.context or context
        turns.append(Turn(speaker, reply))
        yield turns[-1]


@dataclass(frozen=True, slots=True)
class Debate:
    """What a debate came to. `context` holds all that was said, round by round."""

    verdict: Reply[Any]
    context: Context


async def debate(
    asker: Requester,
    message: Any,
    *,
    context: Context,
    debaters: Sequence[str],
    judge: str,
    rounds: int = 2,
    deadline: float | None = None,
) -> Debate:
    """Let debaters answer at once, round by round, each round knowing the last; a judge ends it.

    Debaters of one round do not hear each other, so no order favours anyone; what they said is
    joined in the order of `debaters`. After Y. Du et al., "Improving Factuality and Reasoning in
    Language Models through Multiagent Debate" (2023). `deadline` holds for each request.

    Raises:
        ConfigError: there are no debaters or no rounds.
        AgentbusError: a debater or the judge failed.
    """
    if not debaters or rounds < 1:
        raise ConfigError("debate", "takes one debater and one round at least")
    for _ in range(rounds):
        asks = [Ask(name, message, context) for name in debaters]
        gathered = await gather(asker, asks, quorum=len(asks), deadline=deadline)
        context = context.join(gathered.contexts)
    verdict = await asker.call(judge, message, context=context, deadline=deadline)
    return Debate(verdict, verdict.context or context)

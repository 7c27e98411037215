"""Many asked at once, and the answers in the order of the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from ..client import Reply, Requester
from ..context import Context
from ..errors import AgentbusError, ConfigError, QuorumMissed, RequestCancelled
from .ask import Ask

__all__ = ["Gathered", "gather"]


@dataclass(frozen=True, slots=True)
class Gathered:
    """How each question ended, in the order in which they were given."""

    outcomes: tuple[Reply[Any] | AgentbusError, ...]
    """A reply, or the error instead; `RequestCancelled` for whoever was not waited for."""

    @property
    def replies(self) -> list[Reply[Any]]:
        """The replies that came, in the order of the questions."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Reply)]

    @property
    def values(self) -> list[Any]:
        """The values that came, in the order of the questions."""
        return [reply.value for reply in self.replies]

    @property
    def contexts(self) -> list[Context]:
        """The contexts that came back, in the order of the questions: `context.join` takes them."""
        return [reply.context for reply in self.replies if reply.context is not None]


async def gather(
    asker: Requester,
    asks: Sequence[Ask],
    *,
    quorum: int | None = None,
    deadline: float | None = None,
) -> Gathered:
    """Ask all at once; return when `quorum` of them have answered, or all have ended.

    What is still under way at the quorum is cancelled. Without a quorum every end is waited for,
    and errors stand beside the replies. `deadline` is in seconds from now and holds for each. What
    is left of the asker's budget, if it has one, is shared out equally.

    Raises:
        QuorumMissed: so many failed that the quorum cannot be reached; its `outcomes` has what
            each question came to.
        ConfigError: the quorum is not between 1 and the number of questions.
    """
    if quorum is not None and not 1 <= quorum <= len(asks):
        raise ConfigError("quorum", f"must be between 1 and {len(asks)}, not {quorum}")
    left = asker.budget
    share = None if left is None or not asks else left.share(len(asks))
    outcomes: list[Reply[Any] | AgentbusError] = [RequestCancelled(ask.target) for ask in asks]
    answered = failed = 0

    async def ask(place: int) -> None:
        nonlocal answered, failed
        try:
            outcomes[place] = await asks[place].call(asker, deadline, share)
            answered += 1
        except AgentbusError as error:
            outcomes[place] = error
            failed += 1
        if quorum is not None and (answered >= quorum or len(asks) - failed < quorum):
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for place in range(len(asks)):
            group.start_soon(ask, place)
    if quorum is not None and answered < quorum:
        missed = QuorumMissed(quorum, answered, len(asks))
        missed.outcomes = tuple(outcomes)
        raise missed
    return Gathered(tuple(outcomes))

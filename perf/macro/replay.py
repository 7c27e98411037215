"""Replaying a log of model calls through the KV index, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.kv import BlockPool, EvictionPolicy, RadixIndex, Step

__all__ = ["LoggedCall", "replay"]


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call of a log. A token may stand for a block of them, where the log has only these."""

    session: str
    owner: str
    tokens: Sequence[int]
    step: Step = Step.UNKNOWN
    """How it ended."""
    namespace: bytes = b""


def replay(calls: Sequence[LoggedCall], pool: int, policy: EvictionPolicy) -> list[int]:
    """Make the calls one after the other in a pool of so many tokens; return what each reused.

    A block holds one token, so that nothing is lost to the rounding of blocks.
    """
    index = RadixIndex(BlockPool(pool), 1, policy)
    reused = []
    for call in calls:
        lease = index.begin(call.namespace, call.tokens, owner=f"{call.session}/{call.owner}")
        reused.append(lease.reused)
        index.commit(lease, call.tokens, step=call.step)
    return reused

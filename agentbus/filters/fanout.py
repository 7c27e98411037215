"""One text for several receivers: one shorter form for all of them, or each its own.

A form of its own may be shorter: it leaves out what this receiver was given before, or what its
ask is not about. But receivers that read the same prompt so far share its KV, and with a form of
its own each goes a separate way: the form, and all that will be said behind it, is computed and
held once for each. Where their prompts are not the same anyway (`role_first`, other engines),
there is nothing to share, and each does best with its own.

The choice is made when the first of them is given the text, and kept, as all deliveries are. Who
is expected later counts as if it were there: give it the tokens that forms of its own usually have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import MisuseError
from .worth import Costs, Outlook

__all__ = ["FanOut", "Receiver", "fan_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One who is given the text, now or later."""

    prompt: Hashable
    """Names its prompt up to the text, and the engine that reads it: receivers for whom that is
    equal share the KV. An engine's name with a delivered root does it."""
    before: int
    """Tokens of that prompt."""
    form: Hashable
    """Names the form that it would get as its own, such as its digest; equal forms behind equal
    prompts are shared, too."""
    tokens: int
    """Of that form."""

    def __post_init__(self) -> None:
        if self.before < 0 or self.tokens < 0:
            raise MisuseError(f"tokens are 0 or more: {self}")


@dataclass(frozen=True, slots=True)
class FanOut:
    """Whether all get one form, and why. Costs in the unit of the `Costs` given."""

    shared: bool
    shared_cost: float
    own_cost: float
    shared_computed: int
    """Tokens of the text and of what follows that are computed if all get one form."""
    own_computed: int
    """And if each gets its own."""
    why: str
    """One clause for a receipt."""


def fan_out(
    tokens: int,
    receivers: Sequence[Receiver],
    costs: Costs,
    outlook: Outlook,
    *,
    follow: int = 0,
    given: Collection[Hashable] = (),
) -> FanOut:
    """Return whether one form for all costs no more than a form for each.

    Args:
        tokens: of the form that all would get.
        outlook: of each receiver. A crowded pool counts, since separate ways are held separately.
        follow: tokens that receivers with equal prompts are expected to be given in common behind
            the text, such as each other's answers.
        given: the `prompt` of those who have had the shared form; with them it is computed.

    Raises:
        MisuseError: there are no receivers, or less than no tokens.
    """
    if not receivers or tokens < 0 or follow < 0:
        raise MisuseError("a text of 0 tokens or more is given to one receiver or more")
    shared = Counter(_Way(one.prompt, one.before, None, tokens) for one in receivers)
    own = Counter(_Way(one.prompt, one.before, one.form, one.tokens) for one in receivers)
    own_cost = sum(_cost(way, n, follow, costs, outlook) for way, n in own.items())
    shared_cost = sum(_cost(way, n, follow, costs, outlook) for way, n in shared.items())
    for way in shared:
        if way.prompt in given:
            shared_cost += costs.reading(way.stop, way.stop) - costs.reading(way.before, way.stop)
    computed = sum(follow + (way.prompt not in given) * way.tokens for way in shared)
    own_computed = sum(follow + way.tokens for way in own)
    is_shared = shared_cost <= own_cost or math.isclose(shared_cost, own_cost)
    why = (
        f"{computed:,} tokens to compute for {len(receivers)} receivers with one form,"
        f" {own_computed:,} with one for each"
    )
    return FanOut(is_shared, shared_cost, own_cost, computed, own_computed, why)


class _Way(NamedTuple):
    """What is computed and held once."""

    prompt: Hashable
    before: int
    form: Hashable
    tokens: int

    @property
    def stop(self) -> int:
        return self.before + self.tokens


def _cost(way: _Way, readers: int, follow: int, costs: Costs, outlook: Outlook) -> float:
    """Return what text and follow-up cost behind one prompt, over all its readers' calls.

    What stands before is read in either case, and left out.
    """
    size = way.tokens + follow
    warm = readers * costs.reused * size
    cold = costs.computing(way.before, way.stop + follow) + (readers - 1) * costs.reused * size
    mixed = (1 - outlook.cold) * warm + outlook.cold * cold
    crowding = outlook.crowding * costs.prefill * size
    answers = readers * outlook.decoded * costs.decode_behind * size
    return cold + max(0.0, outlook.calls - 1) * (mixed + crowding) + outlook.calls * answers

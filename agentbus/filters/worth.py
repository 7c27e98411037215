"""Whether to put shorter texts in a prompt pays, by what tokens cost the engine that reads it.

A cache holds a prompt's beginning; the rest is computed. Where a text in that beginning becomes
shorter, all behind it is computed again, and the calls to come have to make up for it. Where
nothing behind it is held, the tokens left out are saved at once: so it is at first delivery, and
once a cache has gone cold. Otherwise nobody knows how many calls will come: the price is paid once
the calls so far have missed as much. That is the rule of the ski rental (Karlin et al., Competitive
Snoopy Caching, 1988).

The costs may be an engine's measured seconds (`Speed`) or prices; the sums are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..config import Prices
from ..errors import MisuseError

__all__ = ["Change", "Costs", "Outlook", "Worth", "weigh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What tokens cost an engine, in one unit: seconds, or a price.

    As it stands, it counts the tokens that are computed: good enough where nothing was measured.

    Raises:
        MisuseError: a cost is negative or not finite, or computing a prompt is free.
    """

    prefill: float = 1.0
    """One token of a prompt that is computed, with nothing before it."""
    prefill_behind: float = 0.0
    """What each token before it adds to that, since it is attended to."""
    reused: float = 0.0
    """One token of a prompt that the cache holds."""
    decode: float = 0.0
    """One token of an answer, with nothing before it."""
    decode_behind: float = 0.0
    """What each token before it adds to that."""

    def __post_init__(self) -> None:
        _check(self)
        if not self.prefill:
            raise MisuseError("computing a prompt costs nothing: there is nothing to weigh")

    @staticmethod
    def of(prices: Prices) -> Costs:
        """Return the costs that an engine's prices are.

        Raises:
            MisuseError: prompts have no price.
        """
        prompt, reused, answer = prices.prompt, prices.reused, prices.answer
        return Costs(prefill=prompt / 1000, reused=reused / 1000, decode=answer / 1000)

    def computing(self, start: int, stop: int) -> float:
        """Return what it costs to compute a prompt's tokens from `start` up to `stop`."""
        attended = (stop - start) * (stop + start) / 2
        return (stop - start) * self.prefill + attended * self.prefill_behind

    def reading(self, held: int, tokens: int) -> float:
        """Return what a prompt of so many tokens costs, of which the first `held` are in the cache."""
        return held * self.reused + self.computing(held, tokens)

    def as_prefilled(self, *, reused: int = 0, decoded: int = 0) -> int:
        """Return how many computed tokens of a prompt cost as much as these, rounded up."""
        return math.ceil((reused * self.reused + decoded * self.decode) / self.prefill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Texts of a prompt that could be shorter, in tokens.

    Raises:
        MisuseError: there cannot be such a prompt.
    """

    before: int
    """In front of the first of these texts: they stay as they are."""
    behind: int
    """From the first of these texts to the prompt's end, as it is or would be."""
    saved: int
    """How many fewer they would be, net of the marks that say so."""
    held: int
    """Of the prompt as it is or would be, from its beginning, so many are in the cache."""

    def __post_init__(self) -> None:
        _check(self)
        if self.saved > self.behind or self.held > self.before + self.behind:
            raise MisuseError(f"there is no such prompt: {self}")

    @property
    def tokens(self) -> int:
        """Of the whole prompt, as it is."""
        return self.before + self.behind

    @property
    def lost(self) -> int:
        """Tokens in the cache that the changed prompt has no use for."""
        return max(0, self.held - self.before)

    @property
    def again(self) -> int:
        """Those of the changed prompt that are computed, though the cache holds them, about."""
        return max(0, self.lost - self.saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The model calls whose prompts begin with the one in question.

    Raises:
        MisuseError: a number is negative, or `cold` greater than 1.
    """

    calls: float = 1
    """How many are known to come, the next one included."""
    missed: float = 0
    """What calls have cost more so far since no change was made: `Worth.missed` of the last time."""
    decoded: float = 0
    """Tokens of an answer."""
    cold: float = 0
    """The share of the calls behind the next one that will find nothing of their prompt cached."""
    crowding: float = 0
    """How many tokens of other prompts are computed again, each call, since one token is held."""
    room: float = math.inf
    """Tokens of the longest prompt that the model's window has room for."""

    def __post_init__(self) -> None:
        _check(self, may_be_endless=("calls", "room"))
        if self.cold > 1:
            raise MisuseError(f"cold is a share, not {self.cold}")


@dataclass(frozen=True, slots=True)
class Worth:
    """Whether a change pays, and why. Costs in the unit of the `Costs` that it was weighed with."""

    pays: bool
    price: float
    """What the next call costs more with the change than without; negative if it costs less."""
    per_call: float
    """What each call behind that one costs less."""
    break_even: float
    """Among how many calls, the next one included, the price comes in again; 0 if there is no
    price, infinite if never."""
    missed: float
    """What to give as `Outlook.missed` when the next call comes."""
    why: str
    """One clause for a receipt."""


def weigh(change: Change, costs: Costs, outlook: Outlook) -> Worth:
    """Return whether a change pays: at once, within the calls known to come, or going by the past.

    A change without which the prompt would not fit in the window pays in any case. The prompt is
    taken to stay as long as it is: what longer ones would save is not counted.
    """
    held = min(change.held, change.before)
    shorter = change.tokens - change.saved
    answer = outlook.decoded * costs.decode_behind * change.saved
    price = costs.reading(held, shorter) - costs.reading(change.held, change.tokens) - answer
    warm = costs.reused * change.saved
    cold = costs.computing(0, change.tokens) - costs.computing(0, shorter)
    crowding = outlook.crowding * costs.prefill * change.saved
    per_call = (1 - outlook.cold) * warm + outlook.cold * cold + crowding + answer
    if price > 0:
        break_even = 1 + price / per_call if per_call else math.inf
    else:
        break_even = 0.0
    needed = shorter <= outlook.room < change.tokens
    is_due = outlook.calls > break_even or price <= outlook.missed
    pays = needed or (change.saved > 0 and is_due)
    missed = 0.0 if pays else outlook.missed + per_call
    why = _why(change, outlook, break_even, needed=needed, pays=pays)
    return Worth(pays, price, per_call, break_even, missed, why)


def _why(change: Change, outlook: Outlook, break_even: float, *, needed: bool, pays: bool) -> str:
    if not change.saved:
        return "it saves no tokens"
    fewer = f"{change.saved:,} tokens fewer"
    again = f"{change.again:,} to compute again"
    if needed:
        return f"{fewer}, without which {change.tokens:,} would not fit in {outlook.room:,.0f}"
    if not break_even:
        return f"{fewer} at once" if not change.lost else f"{fewer} at once, with {again}"
    if outlook.calls > break_even:
        return f"{fewer}, with {again}, which {outlook.calls:,g} calls make up for"
    if pays:
        return f"{fewer}, with {again}, as much as the calls so far have missed"
    if math.isinf(break_even):
        return f"{fewer}, with {again}, which nothing makes up for"
    return f"{fewer}, with {again}: it takes {break_even:,.0f} calls to make up for that"


def _check(numbers: Costs | Change | Outlook, may_be_endless: tuple[str, ...] = ()) -> None:
    for field in fields(numbers):
        value = getattr(numbers, field.name)
        if not (0 <= value < math.inf or (value == math.inf and field.name in may_be_endless)):
            raise MisuseError(f"{field.name} is 0 or more, not {value}")

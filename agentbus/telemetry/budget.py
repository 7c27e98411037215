"""What a request and all that it causes may spend on models: limits, and who accounts for them.

A handler's `Ledger` says what its request may spend. What it asks of others is a `Loan`: what is
lent is nobody else's until that request ends, and what was not spent then comes back. So requests
under way at once cannot overspend together, wherever they are handled. A request that ends without
a word of what it spent is taken to have spent all it was lent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["NANOS", "NOTHING", "NO_LIMIT", "Amount", "Budget", "Ledger", "Loan"]

NO_LIMIT = 2**62
"""An amount that is never used up; also the largest that a peer may name."""
NANOS = 1_000_000_000
"""Costs are counted in billionths of their unit: whole numbers add up without error."""
_MAX_TOKENS = 2**53
_MAX_COST = 1e9


class Amount(NamedTuple):
    """Tokens, and billionths of the unit of cost."""

    tokens: int
    nanos: int

    def plus(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(self.tokens + other.tokens, self.nanos + other.nanos)

    def minus(self, other: Amount) -> Amount:
        """Return what is left: never less than nothing, and without a limit always as much."""
        return Amount(*(_left(have, used) for have, used in zip(self, other, strict=True)))

    def at_most(self, other: Amount) -> Amount:
        """Return the lesser of each."""
        return Amount(min(self.tokens, other.tokens), min(self.nanos, other.nanos))


def _left(have: int, used: int) -> int:
    return have if have == NO_LIMIT else max(0, have - used)


NOTHING = Amount(0, 0)
_UNLIMITED = Amount(NO_LIMIT, NO_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent on model calls; None sets no limit.

    Raises:
        ConfigError: a limit is negative, not a number, or beyond all reason.
    """

    tokens: int | None = None
    """Tokens of prompts, whether reused or not, and of answers."""
    cost: float | None = None
    """In the unit of the engines' prices (`EngineSettings.prices`)."""

    def __post_init__(self) -> None:
        tokens, cost = self.tokens, self.cost
        if tokens is not None and not (type(tokens) is int and 0 <= tokens <= _MAX_TOKENS):
            raise ConfigError("budget", f"tokens must be a whole number from 0 on, not {tokens!r}")
        if cost is not None and not (
            type(cost) in (int, float) and math.isfinite(cost) and 0 <= cost <= _MAX_COST
        ):
            raise ConfigError("budget", f"cost must be between 0 and {_MAX_COST:.0f}, not {cost!r}")

    @property
    def amount(self) -> Amount:
        """The limits as they are counted and as they travel."""
        return Amount(
            NO_LIMIT if self.tokens is None else self.tokens,
            NO_LIMIT if self.cost is None else round(self.cost * NANOS),
        )

    @staticmethod
    def of(amount: Amount) -> Budget:
        """Return the budget that allows an amount."""
        tokens = amount.tokens if amount.tokens <= _MAX_TOKENS else None
        cost = amount.nanos / NANOS
        return Budget(tokens=tokens, cost=cost if cost <= _MAX_COST else None)

    def share(self, parts: int) -> Budget:
        """Return an equal share, for one of so many requests that are made at once."""
        return Budget(
            tokens=None if self.tokens is None else self.tokens // parts,
            cost=None if self.cost is None else self.cost / parts,
        )


class Ledger:
    """What may be spent on somebody's behalf, what was, and what is lent.

    `within` is a larger budget that all this is part of.
    """

    __slots__ = ("_lent", "_spent", "_within", "allowed")

    def __init__(self, allowed: Amount, within: Ledger | None = None) -> None:
        self.allowed = allowed
        self._within = within
        self._spent = self._lent = NOTHING

    @staticmethod
    def of(budget: Budget, within: Ledger | None = None) -> Ledger:
        """Return the ledger of a budget.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(budget, Budget):
            raise ConfigError("budget", f"must be a Budget(tokens=…, cost=…), not {budget!r}")
        return Ledger(budget.amount, within)

    @property
    def used(self) -> Amount:
        """What was spent, or is lent and may be."""
        return self._spent.plus(self._lent).at_most(_UNLIMITED)

    @property
    def left(self) -> Amount:
        """What may still be spent or lent."""
        left = self.allowed.minus(self.used)
        return left if self._within is None else left.at_most(self._within.left)

    def charge(self, amount: Amount) -> None:
        """Note what was spent here."""
        self._spent = self._spent.plus(amount)
        if self._within is not None:
            self._within.charge(amount)

    def lend(self, wanted: Budget | None = None) -> Loan:
        """Lend a request what it wants, as far as there is as much left: by default all of it."""
        left = self.left
        amount = left if wanted is None else left.at_most(wanted.amount)
        self._reserve(amount)
        return Loan(self, amount)

    def settle(self, lent: Amount, spent: Amount) -> None:
        """A loan has ended, of which so much was spent."""
        self._lent = Amount(self._lent.tokens - lent.tokens, self._lent.nanos - lent.nanos)
        self._spent = self._spent.plus(spent)
        if self._within is not None:
            self._within.settle(lent, spent)

    def _reserve(self, amount: Amount) -> None:
        self._lent = self._lent.plus(amount)
        if self._within is not None:
            self._within._reserve(amount)


class Loan:
    """What one request may spend, until it ends."""

    __slots__ = ("_before", "_ledger", "_open", "amount")

    def __init__(self, ledger: Ledger, amount: Amount) -> None:
        self._ledger = ledger
        self._before = NOTHING
        self._open = True
        self.amount = amount

    def rest(self, amount: Amount) -> Amount:
        """Return what another agent that is to answer may have, if it is offered `amount`."""
        return amount.at_most(self.amount.minus(self._before))

    def pass_on(self, amount: Amount) -> None:
        """Another agent answers, with `amount`: the rest counts as spent."""
        self._before = self.amount.minus(self.rest(amount))

    def close(self, spent: Amount | None) -> None:
        """The request has ended. None says that what it spent is not known."""
        if self._open:
            self._open = False
            total = self.amount if spent is None else self._before.plus(spent)
            self._ledger.settle(self.amount, total.at_most(self.amount))

"""Budgets as numbers: what is lent and spent never exceeds what is allowed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import ConfigError
from agentbus.telemetry import NO_LIMIT, NOTHING, Amount, Budget, Ledger, Loan


@pytest.mark.parametrize("tokens", [-1, True, 1.5, "5", 2**60])
def test_a_limit_of_tokens_is_a_whole_number(tokens: int) -> None:
    with pytest.raises(ConfigError, match="tokens"):
        Budget(tokens=tokens)


@pytest.mark.parametrize("cost", [-0.1, math.nan, math.inf, True, "1", 1e12])
def test_a_limit_of_cost_is_a_finite_number(cost: float) -> None:
    with pytest.raises(ConfigError, match="cost"):
        Budget(cost=cost)


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(tokens=0), Budget(tokens=7, cost=0.000_000_005), Budget(cost=2.5)]
)
def test_a_budget_is_an_amount_and_back(budget: Budget) -> None:
    assert Budget.of(budget.amount) == budget
    assert Budget().amount == Amount(NO_LIMIT, NO_LIMIT)


def test_shares_are_not_more_than_the_whole() -> None:
    assert Budget(tokens=10, cost=0.9).share(3) == Budget(tokens=3, cost=0.3)
    assert Budget().share(3) == Budget()


def test_what_was_not_spent_comes_back_with_the_end() -> None:
    ledger = Ledger(Budget(tokens=100).amount)
    loan = ledger.lend(Budget(tokens=60))
    assert ledger.left.tokens == 40
    assert ledger.lend(Budget(tokens=60)).amount.tokens == 40
    assert ledger.lend().amount.tokens == 0
    loan.close(Amount(25, 0))
    loan.close(Amount(25, 0))  # it ends once
    assert ledger.left.tokens == 35


@pytest.mark.parametrize(("spent", "left"), [(None, 0), (Amount(10**9, 0), 0), (NOTHING, 100)])
def test_an_unknown_end_costs_all_that_was_lent(spent: Amount | None, left: int) -> None:
    ledger = Ledger(Budget(tokens=100).amount)
    ledger.lend().close(spent)
    assert ledger.left.tokens == left


def test_who_hands_over_has_spent_the_rest() -> None:
    ledger = Ledger(Budget(tokens=100).amount)
    loan = ledger.lend()
    assert loan.rest(Amount(10**9, 0)) == Amount(100, 0)  # nobody offers what it has not
    loan.pass_on(Amount(70, NO_LIMIT))
    assert loan.rest(Amount(100, 0)) == Amount(70, 0)
    loan.pass_on(Amount(50, NO_LIMIT))
    loan.close(Amount(20, 0))
    assert ledger.left.tokens == 100 - 50 - 20


def test_a_smaller_budget_is_part_of_a_larger_one() -> None:
    whole = Ledger(Budget(tokens=100).amount)
    part = Ledger(Budget(tokens=80).amount, whole)
    whole.charge(Amount(50, 0))
    assert part.left.tokens == 50
    part.lend(Budget(tokens=30)).close(Amount(10, 0))
    part.charge(Amount(5, 0))
    assert (part.used.tokens, whole.left.tokens) == (15, 35)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.booleans()), max_size=60),
    st.integers(0, 100),
)
def test_nothing_is_given_twice(steps: list[tuple[int, int, bool]], allowed: int) -> None:
    ledger = Ledger(Amount(allowed, allowed))
    part = Ledger(Amount(50, 50), ledger)
    loans: list[Loan] = []
    spent = 0
    for action, number, of_part in steps:
        owner = part if of_part else ledger
        if action == 0:
            loans.append(owner.lend(Budget(tokens=number)))
        elif action == 1 and loans:
            loan = loans.pop(number % len(loans))
            used = min(number, loan.amount.tokens)
            loan.close(Amount(used, 0))
            spent += used
        elif action == 2:
            used = min(number, owner.left.tokens)
            owner.charge(Amount(used, 0))
            spent += used
        lent = sum(loan.amount.tokens for loan in loans)
        assert ledger.used.tokens == spent + lent <= allowed
        assert part.used.tokens <= 50

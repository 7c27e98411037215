"""How long an answer may be for a budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config import Prices
from agentbus.engine import GenerateRequest, within_budget
from agentbus.errors import BudgetExceeded, ConfigError
from agentbus.telemetry import NANOS, Budget

prices = st.floats(0, 100)


@given(
    prompt=st.integers(1, 10_000),
    wanted=st.integers(0, 10_000),
    tokens=st.none() | st.integers(0, 20_000),
    cost=st.none() | st.floats(0, 1000),
    price=st.builds(Prices, prompt=prices, reused=prices, answer=prices),
)
def test_the_answer_is_the_longest_that_is_paid_for(
    prompt: int, wanted: int, tokens: int | None, cost: float | None, price: Prices
) -> None:
    budget = Budget(tokens=tokens, cost=cost)
    request = GenerateRequest(prompt=(1,) * prompt, max_tokens=wanted, budget=budget)

    def fits(answer: int) -> bool:
        dear = (prompt * max(price.prompt, price.reused) + answer * price.answer) / 1000
        too_dear = cost is not None and math.ceil(dear * NANOS) > budget.amount.nanos
        return not too_dear and (tokens is None or prompt + answer <= tokens)

    try:
        cut = within_budget(request, prompt, price).max_tokens
    except BudgetExceeded as refused:
        assert not fits(min(1, wanted))
        assert refused.asked > refused.allowed
    else:
        assert fits(cut)
        # A sum of fractions may fall short by a hair, never go over.
        assert cut == wanted or not fits(cut + 2)


def test_without_a_budget_a_request_stays_as_it_is() -> None:
    request = GenerateRequest(prompt=(1, 2, 3))
    assert within_budget(request, 3, Prices(prompt=1)) is request


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_a_price_is_a_finite_number(price: float) -> None:
    for name in ("prompt", "reused", "answer"):
        with pytest.raises(ConfigError, match=f"prices.{name}"):
            Prices(**{name: price})

"""What the guard hears of, through the pipeline: deliveries, and what speaks against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest

from agentbus.config import FilterRule
from agentbus.context import Context, Ledger, TenantKey, reference
from agentbus.filters import (
    Balance,
    Edge,
    Guard,
    Lossy,
    Pipeline,
    Shortened,
    is_lossless,
    open_lossy,
    plan_of,
)
from agentbus.filters.guard import FEW
from agentbus.filters.plan import Use

TENANT = TenantKey(bytes(range(32)))
RULES = (FilterRule(use=("offload",)),)
PLAN = plan_of(RULES, "reader")
EDGE = Edge("shell", "reader", "half/1")


class Half:
    """Leaves the second half of all lines out."""

    name = "half/1"

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        lines = text.split("\n")
        kept = len(lines) // 2
        mark = f"[get {ref}]"
        return Shortened("\n".join([*lines[:kept], mark]), ((kept + 1, len(lines)),))


def open_half(name: str, use: Use) -> Lossy:
    return Half()


def output(number: int) -> str:
    return "\n".join(f"{number}: line {line} of the output" for line in range(20))


class Talk:
    """A conversation with a tool, delivered after each turn."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.pipeline = Pipeline(len, Ledger(), open_half, self.guard)
        self.context = TENANT.empty()

    def says(self, context: Context) -> str:
        self.context = context
        given = self.pipeline.deliver(context, PLAN, "reader")
        assert given.context.last is not None
        return given.context.last.text

    def runs(self, call: str, number: int) -> str:
        self.says(self.context.tool_call("reader", call))
        return self.says(self.context.tool_result("shell", output(number)))

    def gets(self) -> str:
        """Get what was left out of the last result."""
        last = self.context.last
        assert last is not None
        ref = reference(last, self.context)
        self.says(self.context.tool_call("reader", f"get {ref}"))
        answer = f"[{ref} lines 1-20 of 20]\n{last.text}"
        assert self.says(self.context.tool_result("context_get", answer)) == answer
        return answer

    @property
    def balance(self) -> Balance:
        return self.guard.balances()[EDGE][0]


def test_each_delivery_is_counted_once() -> None:
    talk = Talk()
    given = talk.runs("ls", 1)
    talk.says(talk.context.user("Go on."))
    assert talk.balance == Balance(deliveries=1, sent=len(output(1)), delivered=len(given))


def test_what_is_fetched_back_is_charged_to_the_edge() -> None:
    talk = Talk()
    talk.runs("ls", 1)
    answer = talk.gets()
    assert (talk.balance.retrievals, talk.balance.retrieved) == (1, len(answer))
    assert talk.balance.net < 0


def test_an_edge_that_loses_is_turned_off() -> None:
    talk = Talk()
    for number in range(FEW):
        assert len(talk.runs(f"ls {number}", number)) < len(output(number))
        talk.gets()
    assert "saved" in talk.guard.why_off(EDGE)
    assert talk.runs("ls again", 99) == output(99)
    receipt = talk.pipeline.deliver(talk.context, PLAN, "reader").receipts()[-1]
    assert receipt.decision.why == "half/1 did harm here, hence off"


def test_what_strip_does_is_turned_off_too() -> None:
    guard = Guard()
    one = Pipeline(len, Ledger(), open_lossy, guard)
    plan = plan_of((FilterRule(use=("strip", "fold")),), "reader")

    def shown(number: int) -> str:
        lines = (f"\x1b[31m{number}: line {line} of the output\x1b[0m  " for line in range(40))
        context = TENANT.empty().tool_result("shell", "\n".join(lines))
        return one.deliver(context, plan, "reader").context.segments()[0].text

    assert "left out" in shown(1)
    (edge,) = guard.balances()
    assert edge.filter == "strip/1 + fold/1"
    for _ in range(FEW):
        guard.delivered(edge, sent=10, delivered=9)
    guard.retrieved(edge, 10_000, turn=0)
    assert guard.why_off(edge)
    assert "left out" not in shown(2)
    assert "\x1b[31m" in shown(3)


@pytest.mark.parametrize("again", [10, 100])
def test_forms_of_which_nothing_is_lost_are_never_off(again: int) -> None:
    guard = Guard(keeps=is_lossless)
    one = Pipeline(len, Ledger(), open_lossy, guard)
    plan = plan_of((FilterRule(use=("lossless",)),), "reader")
    context = TENANT.empty()
    for _ in range(again):
        context = context.tool_call("reader", "status").tool_result("shell", output(1))
        one.deliver(context, plan, "reader")
    balances = guard.balances()
    assert sum(balance.repeats for balance, _ in balances.values()) > 0
    assert not any(why for _, why in balances.values())


def test_a_call_made_again_speaks_against_the_filter() -> None:
    talk = Talk()
    talk.runs("ls", 1)
    talk.runs("ls", 1)
    assert talk.balance.repeats == 1
    talk.runs("pwd", 2)
    assert talk.balance.repeats == 1


def test_a_reference_that_names_nothing_is_charged_to_nobody() -> None:
    talk = Talk()
    talk.runs("ls", 1)
    talk.says(talk.context.tool_result("context_get", "[ctx:00000000 lines 1-2 of 2]\nnothing"))
    talk.says(talk.context.tool_result("context_get", "no reference at all"))
    assert talk.balance.retrievals == 0


def test_what_extra_turns_cost_is_measured() -> None:
    talk = Talk()
    talk.runs("ls", 1)
    talk.pipeline.watch.costs = type(talk.pipeline.watch.costs)(prefill=1.0, decode=10.0)
    talk.runs("ls", 1)
    assert talk.balance.turns == 10 * len("ls")


def test_every_term_of_the_balance_is_counted() -> None:
    talk = Talk()
    talk.pipeline.watch.costs = type(talk.pipeline.watch.costs)(prefill=1.0, decode=10.0)
    talk.runs("ls", 1)
    talk.gets()
    talk.runs("ls", 1)
    never = [field.name for field in fields(Balance) if not getattr(talk.balance, field.name)]
    assert never == ["lost"]  # which epochs count: see test_epoch

"""The ledger of filters, where it turns them off, and how it is summed up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentbus.errors import MisuseError
from agentbus.filters import Balance, Edge, FilterRow, Guard, add_up, harm, report_rows
from agentbus.filters.guard import FEW, REPEATS_BORNE

EDGE = Edge("searcher", "writer", "offload/1")
OTHER = Edge("searcher", "critic", "offload/1")


def shorten(guard: Guard, times: int, edge: Edge = EDGE, saved: int = 100) -> None:
    for _ in range(times):
        guard.delivered(edge, sent=saved + 20, delivered=20)


def test_all_terms_are_netted() -> None:
    guard = Guard()
    shorten(guard, 3)
    guard.retrieved(EDGE, 40, turn=5)
    guard.repeated(EDGE, 90, turn=7)
    guard.lost(EDGE, 11)
    balance, why = guard.balances()[EDGE]
    assert balance == Balance(
        deliveries=3,
        sent=360,
        delivered=60,
        retrievals=1,
        retrieved=40,
        repeats=1,
        repeated=90,
        turns=12,
        lost=11,
    )
    assert balance.saved == 300
    assert balance.net == 300 - 40 - 90 - 12 - 11
    assert not why


def test_a_filter_that_saves_stays_on() -> None:
    guard = Guard()
    for _ in range(200):
        shorten(guard, 1)
        guard.retrieved(EDGE, 60, turn=20)  # each time, and still to the good
    assert not guard.why_off(EDGE)


def test_a_filter_that_costs_more_than_it_saves_is_turned_off_on_that_edge_alone() -> None:
    guard = Guard()
    shorten(guard, 3, OTHER)
    for count in range(FEW):
        assert not guard.why_off(EDGE), count
        guard.retrieved(EDGE, 90, turn=20)
        shorten(guard, 1)
    assert guard.why_off(EDGE) == "after 8 deliveries it has saved -80 tokens in the end"
    assert not guard.why_off(OTHER)
    assert not guard.why_off(EDGE._replace(filter="offload/2"))
    assert not guard.why_off(EDGE._replace(filter="extract/2"))


def test_harm_that_comes_late_is_seen_when_it_comes() -> None:
    guard = Guard()
    shorten(guard, 20)
    guard.lost(EDGE, 1_999)
    assert not guard.why_off(EDGE)
    guard.lost(EDGE, 1)
    assert guard.why_off(EDGE)


def test_what_is_off_stays_off_and_is_still_counted() -> None:
    guard = Guard()
    shorten(guard, FEW)
    guard.lost(EDGE, 10_000)
    why = guard.why_off(EDGE)
    guard.delivered(EDGE, sent=1_000_000, delivered=0)
    assert guard.why_off(EDGE) == why != ""
    assert guard.balances()[EDGE][0].net > 900_000


@given(some.integers(FEW, 10**5), some.integers(0, 10**5))
def test_calls_made_again_too_often_are_harm_whatever_was_saved(count: int, repeats: int) -> None:
    """Wilson's bound is over a share if a test for that share rejects it, which needs no bound."""
    balance = Balance(deliveries=count, sent=10**9, repeats=repeats)
    seen = min(1, repeats / count)
    allowed = REPEATS_BORNE + 1.6449 * math.sqrt(REPEATS_BORNE * (1 - REPEATS_BORNE) / count)
    if abs(seen - allowed) > 1e-9:
        assert bool(harm(balance)) == (seen > allowed)


def test_the_reason_says_what_was_seen() -> None:
    often = Balance(deliveries=8, sent=10**9, repeats=3)
    assert harm(often) == "after 8 deliveries, 3 tool calls were made again"
    assert not harm(Balance(deliveries=8, sent=10**9, repeats=2))


def test_few_deliveries_prove_nothing() -> None:
    assert not harm(Balance(deliveries=FEW - 1, lost=10**6, repeats=FEW - 1))
    assert not harm(Balance(lost=10**6))


@pytest.mark.parametrize(
    "note",
    [
        lambda guard: guard.delivered(EDGE, sent=-1, delivered=0),
        lambda guard: guard.lost(EDGE, -1),
        lambda guard: guard.retrieved(EDGE, 1, turn=-1),
        lambda guard: guard.repeated(EDGE, -1, turn=0),
    ],
)
def test_nothing_is_counted_backwards(note: Callable[[Guard], None]) -> None:
    guard = Guard()
    shorten(guard, 1)
    before = guard.balances()
    with pytest.raises(MisuseError):
        note(guard)
    assert guard.balances() == before


def test_new_edges_do_not_turn_a_filter_on_again() -> None:
    guard = Guard(4)
    shorten(guard, FEW)
    guard.lost(EDGE, 10_000)
    for number in range(100):
        shorten(guard, 1, EDGE._replace(sender=f"agent{number}"))
    assert guard.why_off(EDGE)
    assert len(guard.balances()) == 4
    assert guard.forgotten.deliveries == 97


def test_a_late_event_does_not_make_a_demoted_edge_forgettable() -> None:
    guard = Guard(4)
    shorten(guard, FEW)
    guard.lost(EDGE, 10_000)
    guard.retrieved(EDGE, 10, turn=1)
    for number in range(100):
        shorten(guard, 1, EDGE._replace(sender=f"agent{number}"))
    assert guard.why_off(EDGE)


def test_demoted_edges_leave_room_for_others() -> None:
    guard = Guard(4)
    for number in range(100):
        edge = EDGE._replace(sender=f"agent{number}")
        shorten(guard, FEW, edge)
        guard.lost(edge, 10_000)
    shorten(guard, 1)
    assert EDGE in guard.balances()
    assert len(guard.balances()) <= 4


def test_a_demoted_edge_in_use_is_remembered_longest() -> None:
    guard = Guard(4)
    for number in range(9):
        edge = EDGE._replace(sender=f"agent{number}")
        shorten(guard, FEW, edge)
        guard.lost(edge, 10_000)
        assert guard.why_off(EDGE._replace(sender="agent0"))


def test_a_guard_has_room() -> None:
    with pytest.raises(MisuseError):
        Guard(1)


class Ledger(RuleBasedStateMachine):
    """Any events, on more edges than there is room for: nothing is lost from the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.guard, self.again = Guard(4), Guard(4)
        self.net = self.deliveries = 0

    edges = some.builds(Edge, some.sampled_from("abc"), some.sampled_from("xy"), some.just("f/1"))
    numbers = some.integers(0, 300)

    @rule(edge=edges, sent=numbers, delivered=numbers)
    def deliver(self, edge: Edge, sent: int, delivered: int) -> None:
        for guard in (self.guard, self.again):
            guard.delivered(edge, sent=sent, delivered=delivered)
        self.net += sent - delivered
        self.deliveries += 1

    @rule(
        edge=edges, tokens=numbers, turn=numbers, name=some.sampled_from(["retrieved", "repeated"])
    )
    def provoke(self, edge: Edge, tokens: int, turn: int, name: str) -> None:
        for guard in (self.guard, self.again):
            getattr(guard, name)(edge, tokens, turn=turn)
        self.net -= tokens + turn

    @rule(edge=edges, tokens=numbers)
    def lose(self, edge: Edge, tokens: int) -> None:
        was_off = self.guard.why_off(edge)
        self.again.why_off(edge)
        for guard in (self.guard, self.again):
            guard.lost(edge, tokens)
        self.net -= tokens
        assert not was_off or self.guard.why_off(edge) == was_off

    @invariant()
    def holds(self) -> None:
        report = add_up(report_rows([self.guard]))
        assert report.total.net == self.net
        assert report.total.deliveries == self.deliveries
        balances = self.guard.balances()
        assert len(balances) <= 4
        assert balances == self.again.balances()  # the same events, the same state
        for balance, why in balances.values():
            assert why or not harm(balance)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)


def test_rows_of_several_processes_become_one_table() -> None:
    one, two = Guard(), Guard()
    shorten(one, 2)
    shorten(two, 3)
    shorten(two, FEW, OTHER)
    two.lost(OTHER, 5_000)
    report = add_up([*report_rows([one]), *report_rows([two])])
    assert [(row.receiver, row.balance.deliveries) for row in report.rows] == [
        ("writer", 5),
        ("critic", 8),
    ]
    assert report.rows[1].why_off and not report.rows[0].why_off
    assert report.total.net == 500 + 800 - 5_000
    assert report.total == report.rows[0].balance + report.rows[1].balance


def test_a_filter_that_is_off_in_one_process_is_shown_as_off() -> None:
    rows = [
        FilterRow(*EDGE, Balance()),
        FilterRow(*EDGE, Balance(), "why"),
        FilterRow(*EDGE, Balance()),
    ]
    assert [row.why_off for row in add_up(rows).rows] == ["why"]


def test_what_was_forgotten_has_a_row() -> None:
    guard = Guard(2)
    for number in range(5):
        shorten(guard, 1, EDGE._replace(sender=str(number)))
    rows = report_rows([guard, Guard()])
    assert rows[-1] == FilterRow("", "", "", guard.forgotten)
    assert len(rows) == 3
    assert add_up(rows).total.deliveries == 5

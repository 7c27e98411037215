"""One form for all receivers or one for each: against a count of what each way has computed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentbus.errors import MisuseError
from agentbus.filters import Costs, Outlook, Receiver, fan_out

COUNTED = Costs()
"""What is computed, and nothing else."""
tokens = some.integers(0, 5_000)


@some.composite
def teams(draw: some.DrawFn) -> list[Receiver]:
    before = draw(some.lists(tokens, min_size=4, max_size=4))
    forms = draw(some.lists(tokens, min_size=4, max_size=4))
    pairs = some.tuples(some.integers(0, 3), some.integers(0, 3))
    chosen = draw(some.lists(pairs, min_size=1, max_size=8))
    return [Receiver(prompt=p, before=before[p], form=f, tokens=forms[f]) for p, f in chosen]


def together(count: int, own: int) -> list[Receiver]:
    """Return receivers that read the same prompt so far."""
    return [Receiver(prompt="team", before=1_000, form=n, tokens=own) for n in range(count)]


def apart(count: int, own: int) -> list[Receiver]:
    return [replace(one, prompt=n) for n, one in enumerate(together(count, own))]


def test_who_shares_a_prompt_gets_one_form_unless_its_own_is_much_shorter() -> None:
    shared = fan_out(1_000, together(5, 300), COUNTED, Outlook())
    assert shared.shared
    assert (shared.shared_computed, shared.own_computed) == (1_000, 1_500)
    assert shared.why == (
        "1,000 tokens to compute for 5 receivers with one form, 1,500 with one for each"
    )
    assert not fan_out(1_000, together(5, 100), COUNTED, Outlook()).shared


def test_what_is_said_behind_it_is_computed_once_for_each_own_form() -> None:
    found = fan_out(1_000, together(5, 100), COUNTED, Outlook(), follow=400)
    assert found.shared
    assert (found.shared_computed, found.own_computed) == (1_400, 2_500)


def test_who_shares_nothing_gets_its_own() -> None:
    assert not fan_out(1_000, apart(5, 999), COUNTED, Outlook(), follow=10_000).shared


def test_one_receiver_gets_the_shorter_form() -> None:
    assert not fan_out(1_000, together(1, 999), COUNTED, Outlook(), follow=10_000).shared
    assert fan_out(1_000, together(1, 1_001), COUNTED, Outlook()).shared


def test_who_comes_later_reads_what_is_computed() -> None:
    late = together(1, 100)
    assert not fan_out(1_000, late, COUNTED, Outlook()).shared
    assert fan_out(1_000, late, COUNTED, Outlook(), given={"team"}).shared
    assert not fan_out(1_000, late, COUNTED, Outlook(), given={"others"}).shared


def test_long_answers_and_many_calls_speak_for_shorter_forms() -> None:
    costs = Costs(prefill=1 / 3000, decode_behind=1e-6)
    assert fan_out(1_000, together(5, 300), costs, Outlook(decoded=20)).shared
    assert not fan_out(1_000, together(5, 300), costs, Outlook(decoded=200)).shared
    assert not fan_out(1_000, together(5, 300), costs, Outlook(decoded=20, calls=10)).shared


def test_a_crowded_pool_speaks_for_one_copy() -> None:
    costs = Costs(prefill=1 / 3000, decode_behind=1e-6)
    outlook = Outlook(decoded=40, calls=10)
    assert not fan_out(1_000, together(5, 300), costs, outlook).shared
    assert fan_out(1_000, together(5, 300), costs, replace(outlook, crowding=1)).shared


@given(tokens, tokens, tokens, some.integers(1, 6), some.integers(1, 6), some.sampled_from([0, 1]))
def test_costs_are_those_of_the_calls_one_by_one(
    size: int, own: int, follow: int, readers: int, calls: int, cold: int
) -> None:
    costs = Costs(prefill_behind=1e-4, reused=0.1, decode_behind=1e-3)
    outlook = Outlook(calls=calls, cold=cold, decoded=7)
    found = fan_out(size, together(readers, own), costs, outlook, follow=follow)

    def cost(tokens: int, copies: int) -> float:
        """Play all readers' calls; each of the copies is computed by its first reader."""
        total, end = 0.0, 1_000 + tokens + follow
        for call in range(calls):
            computed = copies if cold or not call else 0
            total += computed * costs.computing(1_000, end)
            total += (readers - computed) * costs.reused * (tokens + follow)
            total += readers * 7 * costs.decode_behind * (tokens + follow)
        return total

    assert found.shared_cost == pytest.approx(cost(size, 1))
    assert found.own_cost == pytest.approx(cost(own, readers))


@given(some.integers(0, 5_000), teams(), tokens, some.sets(some.integers(0, 3)))
def test_it_is_what_a_cache_would_compute(
    shared: int, team: list[Receiver], follow: int, given_to: set[int]
) -> None:
    found = fan_out(shared, team, COUNTED, Outlook(), follow=follow, given=given_to)

    def computed(form: bool) -> int:
        held: set[Hashable] = set() if form else {(prompt, "all") for prompt in given_to}
        seen: set[Hashable] = set()
        total = 0
        for one in team:
            key = (one.prompt, one.form if form else "all")
            if key not in held:
                total += one.tokens if form else shared
            held.add(key)
            if key not in seen:
                total += follow
            seen.add(key)
        return total

    assert found.shared_computed == found.shared_cost == computed(False)
    assert found.own_computed == found.own_cost == computed(True)
    assert found.shared == (found.shared_cost <= found.own_cost)


@given(teams(), tokens, tokens, some.floats(0, 1), some.floats(1, 50), some.floats(0, 100))
def test_equal_forms_cost_the_same(
    team: list[Receiver], size: int, follow: int, cold: float, calls: float, decoded: float
) -> None:
    """Whatever the costs: if all their own forms are the shared one, there is nothing to choose."""
    same = [replace(one, form="all", tokens=size) for one in team]
    costs = Costs(prefill=0.01, prefill_behind=1e-6, reused=1e-3, decode_behind=1e-5)
    outlook = Outlook(cold=cold, calls=calls, decoded=decoded, crowding=0.5)
    found = fan_out(size, same, costs, outlook, follow=follow)
    assert found.shared
    assert found.shared_cost == pytest.approx(found.own_cost)


@given(teams(), tokens, tokens)
def test_the_order_of_receivers_does_not_matter(
    team: list[Receiver], size: int, follow: int
) -> None:
    costs = Costs(reused=0.1)
    found = fan_out(size, team, costs, Outlook(calls=3), follow=follow)
    other = fan_out(size, team[::-1], costs, Outlook(calls=3), follow=follow)
    assert (found.shared_cost, found.own_cost) == pytest.approx((other.shared_cost, other.own_cost))
    assert found.why == other.why


def test_a_text_goes_to_somebody() -> None:
    with pytest.raises(MisuseError):
        fan_out(10, [], COUNTED, Outlook())
    with pytest.raises(MisuseError):
        fan_out(-1, together(1, 1), COUNTED, Outlook())
    with pytest.raises(MisuseError):
        Receiver(prompt="", before=0, form="", tokens=-1)

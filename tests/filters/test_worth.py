"""Whether a change of a prompt pays: against the prices and times that it comes down to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentbus.config import Prices
from agentbus.errors import MisuseError
from agentbus.filters import Change, Costs, Outlook, Speed, Worth, weigh
from agentbus.telemetry import ModelCost

ENGINE = Costs(prefill=1 / 3000, decode=1 / 125)
"""Of a small model on a CPU, about, in seconds; attention is not known."""
ATTENTIVE = replace(ENGINE, prefill_behind=1e-8, decode_behind=1e-6)
counts = some.integers(0, 100_000)
small = some.floats(0, 1e-3)


@some.composite
def all_costs(draw: some.DrawFn) -> Costs:
    prefill = draw(some.floats(1e-6, 10))
    return Costs(
        prefill=prefill,
        prefill_behind=draw(some.floats(0, 1e-4)),
        reused=draw(some.floats(0, 1)) * prefill,
        decode=draw(some.floats(0, 10)),
        decode_behind=draw(some.floats(0, 1e-3)),
    )


@some.composite
def changes(draw: some.DrawFn) -> Change:
    before, behind = draw(counts), draw(some.integers(1, 100_000))
    saved, held = draw(some.integers(0, behind)), draw(some.integers(0, before + behind))
    return Change(before=before, behind=behind, saved=saved, held=held)


@some.composite
def outlooks(draw: some.DrawFn) -> Outlook:
    return Outlook(
        calls=draw(some.floats(1, 1000)),
        missed=draw(some.floats(0, 1000)),
        decoded=draw(some.floats(0, 1000)),
        cold=draw(some.floats(0, 1)),
        crowding=draw(some.floats(0, 2)),
    )


def warm(before: int, behind: int, saved: int) -> Change:
    return Change(before=before, behind=behind, saved=saved, held=before + behind)


@pytest.mark.parametrize(("computed", "saved"), [(10_000, 1_000), (500, 500), (7, 30)])
def test_at_a_providers_prices_it_takes_eleven_and_a_half_calls_a_token(
    computed: int, saved: int
) -> None:
    """With S tokens to compute again and d saved, at 1.25 to write and 0.1 to read: 11.5·S/d."""
    costs = Costs(prefill=1.25, reused=0.1)
    found = weigh(warm(2_000, computed + saved, saved), costs, Outlook())
    assert found.break_even == pytest.approx(11.5 * computed / saved)


def test_prices_are_costs() -> None:
    costs = Costs.of(Prices(prompt=3.0, reused=0.3, answer=15.0))
    assert costs == Costs(prefill=0.003, reused=0.0003, decode=0.015)
    assert costs.as_prefilled(reused=1000, decoded=10) == 150
    with pytest.raises(MisuseError, match="costs nothing"):
        Costs.of(Prices())


@given(changes(), all_costs(), outlooks())
def test_at_first_delivery_fewer_tokens_always_pay(
    change: Change, costs: Costs, outlook: Outlook
) -> None:
    first = replace(change, held=min(change.held, change.before))
    found = weigh(first, costs, replace(outlook, missed=0))
    assert found.pays == (first.saved > 0)
    assert first.lost == first.again == 0
    assert found.price <= 0


@given(changes(), some.floats(1, 1e9))
def test_what_an_engine_holds_stays_if_only_prefill_is_known_to_cost(
    change: Change, calls: float
) -> None:
    """An answer that its writer's engine holds is left alone, however long the talk will be."""
    held = replace(change, held=change.tokens)
    found = weigh(held, ENGINE, Outlook(calls=calls, decoded=500))
    assert not found.pays or held.again == 0


def cost_of_calls(change: Change, costs: Costs, outlook: Outlook, *, is_changed: bool) -> float:
    """Play the calls one by one."""
    tokens = change.tokens - change.saved * is_changed
    held = min(change.held, change.before) if is_changed else change.held
    total = 0.0
    for call in range(int(outlook.calls)):
        total += costs.reading(held, tokens)
        total += outlook.decoded * (costs.decode + costs.decode_behind * tokens)
        total += outlook.crowding * costs.prefill * tokens * (call > 0)
        held = 0 if call + 1 < outlook.cold * outlook.calls else tokens
    return total


@given(
    changes(),
    all_costs(),
    some.integers(1, 30),
    some.sampled_from([0, 1]),
    some.floats(0, 500),
    some.floats(0, 2),
)
def test_it_pays_if_the_calls_cost_less_in_the_end(
    change: Change, costs: Costs, calls: int, cold: int, decoded: float, crowding: float
) -> None:
    outlook = Outlook(calls=calls, cold=cold, decoded=decoded, crowding=crowding)
    found = weigh(change, costs, outlook)
    without = cost_of_calls(change, costs, outlook, is_changed=False)
    with_it = cost_of_calls(change, costs, outlook, is_changed=True)
    gain = without - with_it
    expected = (calls - 1) * found.per_call - found.price
    assert expected == pytest.approx(gain, rel=1e-6, abs=1e-9 * without)
    if abs(gain) > 1e-6 * without:
        assert found.pays == (gain > 0)


@given(changes(), all_costs(), outlooks())
def test_more_calls_or_a_colder_cache_never_speak_against_it(
    change: Change, costs: Costs, outlook: Outlook
) -> None:
    found = weigh(change, costs, outlook)
    longer = weigh(change, costs, replace(outlook, calls=outlook.calls * 2))
    colder = weigh(replace(change, held=change.held // 2), costs, outlook)
    assert longer.pays >= found.pays
    assert colder.price <= found.price + 1e-9 * abs(found.price)
    assert found.break_even >= 0 and found.per_call >= 0 and found.why
    ways = [weigh(change, costs, replace(outlook, cold=cold)).per_call for cold in (0, 1)]
    mixed = (1 - outlook.cold) * ways[0] + outlook.cold * ways[1]
    assert found.per_call == pytest.approx(mixed)


def test_the_price_is_paid_once_as_much_was_missed() -> None:
    """The ski rental: what was missed is the price, but for one call."""
    change = warm(1_000, 8_000, 3_000)
    spent, outlook = 0.0, Outlook(decoded=200)
    calls = 0
    while not (found := weigh(change, ATTENTIVE, outlook)).pays and calls < 100:
        assert found.missed == pytest.approx(outlook.missed + found.per_call)
        spent += found.per_call
        outlook = replace(outlook, missed=found.missed)
        calls += 1
    assert found.missed == 0
    assert 1 < calls < 100
    assert found.price <= spent <= found.price + found.per_call


def test_what_would_not_fit_otherwise_pays_at_any_price() -> None:
    change = warm(1_000, 8_000, 3_000)
    assert weigh(change, ENGINE, Outlook(room=8_999)).pays
    assert not weigh(change, ENGINE, Outlook(room=9_000)).pays  # it fits as it is
    assert weigh(change, ENGINE, Outlook(room=6_000)).pays
    assert not weigh(change, ENGINE, Outlook(room=5_999)).pays  # it does not fit in any case


def why(change: Change, costs: Costs = ATTENTIVE, **outlook: float) -> str:
    return weigh(change, costs, Outlook(decoded=200, **outlook)).why


def test_receipts_say_why() -> None:
    change = warm(1_000, 8_000, 3_000)
    fewer = "3,000 tokens fewer"
    again = "with 5,000 to compute again"
    assert why(replace(change, saved=0)) == "it saves no tokens"
    assert why(replace(change, held=1_000)) == f"{fewer} at once"
    assert why(change, ENGINE) == f"{fewer}, {again}, which nothing makes up for"
    assert why(change) == f"{fewer}, {again}: it takes 3 calls to make up for that"
    assert why(change, calls=4) == f"{fewer}, {again}, which 4 calls make up for"
    assert why(change, missed=9) == f"{fewer}, {again}, as much as the calls so far have missed"
    assert why(change, room=8_500) == f"{fewer}, without which 9,000 would not fit in 8,500"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Costs(prefill=0),
        lambda: Costs(reused=-1),
        lambda: Costs(decode=math.nan),
        lambda: Costs(decode_behind=math.inf),
        lambda: Change(before=0, behind=5, saved=6, held=0),
        lambda: Change(before=1, behind=5, saved=0, held=7),
        lambda: Change(before=-1, behind=5, saved=0, held=0),
        lambda: Outlook(calls=-1),
        lambda: Outlook(calls=math.nan),
        lambda: Outlook(cold=1.5),
        lambda: Outlook(decoded=math.inf),
    ],
)
def test_what_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(MisuseError):
        make()  # type: ignore[operator]


def call(prompt: int, computed: int, decoded: int, costs: Costs) -> ModelCost:
    """Return what an engine of exactly these costs says of a call."""
    decode_s = sum(costs.decode + costs.decode_behind * (prompt + n + 0.5) for n in range(decoded))
    return ModelCost(
        calls=1,
        prompt_tokens=prompt,
        prefilled_tokens=computed,
        prefill_s=costs.computing(prompt - computed, prompt),
        decoded_tokens=decoded,
        decode_s=decode_s,
    )


@given(some.lists(some.tuples(counts, counts, some.integers(0, 300)), min_size=2, max_size=20))
def test_an_engines_speed_is_found(calls: list[tuple[int, int, int]]) -> None:
    speed = Speed()
    for held, computed, decoded in calls:
        speed.note(call(held + computed, computed, decoded, ATTENTIVE))
    found = speed.costs()
    if not any(computed for _, computed, _ in calls):
        assert found is None
        return
    assert found is not None and found.reused == 0
    for held, computed, decoded in calls:
        asked = call(held + computed, computed, decoded, ATTENTIVE)
        again = call(held + computed, computed, decoded, found)
        if found.prefill_behind:
            assert again.prefill_s == pytest.approx(asked.prefill_s, rel=1e-3)
        if found.decode_behind:
            assert again.decode_s == pytest.approx(asked.decode_s, rel=1e-3)


def test_calls_of_one_length_give_a_rate_alone() -> None:
    speed = Speed()
    assert speed.costs() is None
    for _ in range(3):
        speed.note(call(1000, 1000, 10, ENGINE))
    found = speed.costs()
    assert found is not None
    assert (found.prefill_behind, found.decode_behind) == (0, 0)
    assert found.prefill == pytest.approx(1 / 3000) and found.decode == pytest.approx(1 / 125)


def test_a_clock_that_says_nonsense_gives_no_negative_costs() -> None:
    speed = Speed()
    for prompt, seconds in ((1000, 5.0), (4000, 0.1), (2000, 3.0)):
        speed.note(
            ModelCost(calls=1, prompt_tokens=prompt, prefilled_tokens=prompt, prefill_s=seconds)
        )
    found = speed.costs()
    assert found is not None and found.prefill > 0 and found.prefill_behind == 0


def test_a_result_is_a_value() -> None:
    change = warm(10, 10, 5)
    assert weigh(change, ENGINE, Outlook()) == weigh(change, ENGINE, Outlook())
    assert isinstance(weigh(change, ENGINE, Outlook()), Worth)

"""Which prompt waits for which, decided without a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.context.layout import Prompt, Turn
from agentbus.engine.flights import LEAST_SHARED, Chain, SingleFlight, chain_of

CUE = Turn("assistant", "", "a")
DOCUMENT = "The tide rises and falls twice a day. " * 10


def prompt(*texts: str, cue: Turn = CUE) -> Prompt:
    return Prompt(tuple(Turn("user", text) for text in texts), cue)


def chain(*texts: str, tenant: str = "") -> Chain:
    return chain_of(prompt(*texts), tenant)


def test_a_chain_names_each_prefix() -> None:
    short, long = chain("a", "bc"), chain("a", "bc", "d")
    assert long[:2] == short
    assert [link.end for link in long] == [1, 3, 4]
    assert len({link.key for link in (*long, *chain("bc"), *chain("a", tenant="x"))}) == 5


def test_a_cue_counts_once_it_has_text() -> None:
    written = Turn("assistant", " It", "a")
    assert chain_of(prompt("a", cue=Turn("assistant", "", "b")), "") == chain("a")
    assert chain_of(prompt("a", cue=written), "") == chain_of(
        Prompt((Turn("user", "a"), written), CUE), ""
    )


def test_ids_are_known_by_blocks() -> None:
    one, other = chain_of(range(200), ""), chain_of([*range(128), 7, 7], "")
    assert [a == b for a, b in zip(one, other, strict=False)] == [True, True, False]


def test_who_shares_something_new_waits_until_it_has_landed() -> None:
    flights = SingleFlight()
    flight = flights.begin(chain(DOCUMENT, "ask a"))
    assert flights.awaited(chain(DOCUMENT, "ask b")) is flight
    assert flights.awaited(chain(DOCUMENT, "ask b", tenant="other")) is None
    assert flights.awaited(chain("ask b", DOCUMENT)) is None
    flights.land(flight)
    assert flights.awaited(chain(DOCUMENT, "ask b")) is None
    assert flights.knows(chain(DOCUMENT)) and not flights.knows(chain(DOCUMENT, "ask b"))


def test_after_a_failure_the_next_one_takes_over() -> None:
    flights = SingleFlight()
    flights.fail(flights.begin(chain(DOCUMENT)))
    assert flights.awaited(chain(DOCUMENT)) is None and not flights.knows(chain(DOCUMENT))
    second = flights.begin(chain(DOCUMENT, "ask"))
    assert flights.awaited(chain(DOCUMENT)) is second


def test_nobody_waits_for_what_is_known_or_short() -> None:
    flights = SingleFlight()
    flights.land(flights.begin(chain(DOCUMENT)))
    flights.begin(chain(DOCUMENT, "x" * (LEAST_SHARED - 1), "ask a"))
    assert flights.awaited(chain(DOCUMENT, "ask b")) is None
    assert flights.awaited(chain(DOCUMENT, "x" * (LEAST_SHARED - 1), "ask b")) is None


def test_nobody_waits_for_one_that_has_more_to_do_for_itself() -> None:
    flights = SingleFlight()
    flights.begin(chain(DOCUMENT, DOCUMENT + "longer"))
    assert flights.awaited(chain(DOCUMENT, "ask")) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=30))
def test_no_flight_is_left_behind(steps: list[tuple[int, int, bool]]) -> None:
    flights = SingleFlight()
    flying = []
    for first, second, lands in steps:
        flying.append(flights.begin(chain(f"{first}" * 100, f"{second}" * 100)))
        if len(flying) > 3:
            flight = flying.pop(0)
            (flights.land if lands else flights.fail)(flight)
    for flight in flying:
        flights.fail(flight)
    for first in range(4):
        assert flights.awaited(chain(f"{first}" * 100, "other" * 100)) is None

"""What waiting times teach about who comes back."""

from __future__ import annotations

import pytest

from agentbus.kv.returns import Returns

N = b"model"


def taught(gaps: list[int], *, never: int = 0) -> tuple[Returns, int]:
    returns, now = Returns(), 0
    for number in range(never):
        returns.wait((N, f"gone{number}"), now)
    for gap in gaps:
        returns.wait((N, "agent"), now)
        now += gap
        returns.come((N, "agent"), now)
    return returns, now


def test_who_waited_long_is_worth_less_where_waits_are_short() -> None:
    returns, now = taught([1, 2, 1, 3] * 30)
    worths = [returns.worth(age, now) for age in (1, 8, 64, 1024)]
    assert worths == sorted(worths, reverse=True)
    assert worths[0] > 10 * worths[2]


def test_after_a_pause_of_known_length_worth_rises_towards_its_end() -> None:
    returns, now = taught([40] * 60)
    assert returns.worth(32, now) > 2 * returns.worth(1, now)
    assert returns.worth(32, now) > 2 * returns.worth(200, now)


def test_who_never_comes_counts_as_long_as_it_waits() -> None:
    many, now = taught([2] * 40)
    few, _ = taught([2] * 40, never=60)
    assert few.worth(4, now) < many.worth(4, now) / 2


def test_who_is_forgotten_does_not_count() -> None:
    returns, now = taught([2] * 40, never=60)
    for number in range(60):
        returns.forget((N, f"gone{number}"))
    assert returns.worth(4, now) == taught([2] * 40)[0].worth(4, now)


def test_it_learns_as_time_goes() -> None:
    returns, now = taught([1] * 20)
    before = returns.worth(1, now)
    for number in range(40):
        returns.wait((N, f"slow{number}"), now)
    assert returns.worth(1, now + 500) < before


def test_without_any_past_there_is_a_guess_that_falls_with_age() -> None:
    returns = Returns()
    assert 1 > returns.worth(1, 0) > returns.worth(100, 0) > returns.worth(1 << 40, 0) > 0


def test_a_return_nobody_waited_for_teaches_nothing() -> None:
    returns = Returns()
    before = returns.worth(1, 0)
    returns.come((N, "agent"), 5)
    assert returns.worth(1, 5) == pytest.approx(before)

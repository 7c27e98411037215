from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.client.deadlines import DeadlineHeap


def test_expires_in_order_and_only_what_is_due() -> None:
    heap = DeadlineHeap()
    fired: list[int] = []
    for when in (3, 1, 2):
        heap.add(when, lambda when=when: fired.append(when))  # type: ignore[misc]
    heap.expire(2)
    assert fired == [1, 2]
    assert heap.next() == 3


def test_cancelled_deadlines_do_not_pile_up() -> None:
    heap = DeadlineHeap()
    for n in range(10_000):
        heap.cancel(heap.add(1e9 + n, lambda: None))
    assert len(heap._entries) < 200
    assert len(heap) == 0
    assert heap.next() is None


def test_an_action_may_add_and_cancel() -> None:
    heap = DeadlineHeap()
    fired: list[str] = []
    later = heap.add(2, lambda: fired.append("later"))

    def first() -> None:
        fired.append("first")
        heap.cancel(later)
        heap.add(1.5, lambda: fired.append("added"))

    heap.add(1, first)
    heap.expire(3)
    assert fired == ["first", "added"]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans())), st.integers(0, 50))
def test_agrees_with_a_list(entries: list[tuple[int, bool]], now: int) -> None:
    heap = DeadlineHeap()
    fired: list[int] = []
    for number, (when, cancelled) in enumerate(entries):
        deadline = heap.add(when, lambda number=number: fired.append(number))  # type: ignore[misc]
        if cancelled:
            heap.cancel(deadline)
    heap.expire(now)
    due = [n for n, (when, cancelled) in enumerate(entries) if when <= now and not cancelled]
    assert sorted(fired) == due
    assert [entries[n][0] for n in fired] == sorted(entries[n][0] for n in due)

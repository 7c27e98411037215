"""Work is given where there is room for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.broker.groups import Group
from agentbus.errors import MailboxFull, NoResponder


def test_the_member_with_the_most_room_is_chosen() -> None:
    group = Group("jobs", 10)
    group.join("small", 1)
    group.join("large", 3)
    assert [group.offer(n) for n in range(5)] == ["large", "large", "small", "large", None]


def test_equal_members_take_turns() -> None:
    group = Group("jobs", 10)
    for name in "abc":
        group.join(name, 1)
    order = []
    for number in range(7):
        chosen = group.offer(number)
        assert chosen is not None
        order.append(chosen)
        assert group.finished(chosen) is None
    assert "".join(order) == "abcabca"


def test_what_waits_is_given_in_order_also_to_a_new_member() -> None:
    group = Group("jobs", 10)
    group.join("a", 1)
    assert [group.offer(n) for n in range(4)] == ["a", None, None, None]
    assert group.finished("a") == (1, "a")
    assert group.join("b", 1) == [(2, "b")]
    assert group.offer(4) is None
    assert group.finished("b") == (3, "b")
    assert group.finished("gone") is None


def test_too_much_is_refused() -> None:
    group = Group("jobs", 1)
    with pytest.raises(NoResponder):
        group.offer(0)
    group.join("a", 1)
    group.offer(1)
    group.offer(2)
    with pytest.raises(MailboxFull):
        group.offer(3)


class Model:
    """A group and what it should have done."""

    def __init__(self) -> None:
        self.group = Group("jobs", 1000)
        self.slots: dict[str, int] = {}
        self.running: dict[str, list[object]] = {}
        self.waiting: list[object] = []
        self.offered = 0

    def join(self, name: str, slots: int) -> None:
        if name not in self.slots:
            self.slots[name], self.running[name] = slots, []
            self._given(self.group.join(name, slots))

    def leave(self, name: str, _: int) -> None:
        if name in self.slots:
            del self.slots[name], self.running[name]
            orphans = self.group.leave(name)
            assert orphans == ([] if self.slots else self.waiting)
            self.waiting = self.waiting if self.slots else []

    def offer(self, _: str, __: int) -> None:
        if self.slots:
            self.offered += 1
            self.waiting.append(self.offered)
            chosen = self.group.offer(self.offered)
            if chosen is not None:
                self._given([(self.offered, chosen)])

    def finish(self, _: str, which: int) -> None:
        busy = [name for name, requests in self.running.items() if requests]
        if busy:
            process = busy[which % len(busy)]
            self.running[process].pop()
            given = self.group.finished(process)
            self._given([given] if given else [])

    def _given(self, given: list[tuple[object, str]]) -> None:
        for request, process in given:
            assert self.waiting.pop(0) == request
            self.running[process].append(request)

    def check(self) -> None:
        for name, requests in self.running.items():
            assert len(requests) <= self.slots[name]
            assert not self.waiting or len(requests) == self.slots[name]


_steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "offer", "offer", "finish"]),
        st.sampled_from("abc"),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(_steps)
@pytest.mark.promise("group.room", "group.waits")
def test_each_request_goes_to_one_member_or_is_refused(steps: list[tuple[str, str, int]]) -> None:
    """No member is given more than it has room for, and nothing waits while one has room."""
    model = Model()
    for action, name, value in steps:
        getattr(model, action)(name, value)
        model.check()

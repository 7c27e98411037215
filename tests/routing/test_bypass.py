"""The broker's book of who publishes past it."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentbus.routing import COVER_SECONDS, MAX_DIRECT, MAX_WAYS, Bypasses, Left, Uncovered

PUBLISHERS = st.sampled_from("pq")
LISTENERS = st.sampled_from("stu")


def to(*listeners: str) -> Collection[str]:
    return frozenset(listeners)


def test_who_is_passed_by_has_a_turn_of_its_own() -> None:
    book: Bypasses[str] = Bypasses()
    assert set(book.passed("p", "news")) == set()
    first, second = book.pass_by("p", "news", "s"), book.pass_by("p", "news", "t")
    assert 0 < first < second
    assert set(book.passed("p", "news")) == {"s", "t"}
    assert set(book.passed("q", "news")) == set(book.passed("p", "other")) == set()


def test_a_cover_needs_all_who_listen_to_be_passed_by() -> None:
    book: Bypasses[str] = Bypasses()
    assert book.cover("p", "news", to(), 0.0) == 0
    book.pass_by("p", "news", "s")
    assert book.cover("p", "news", to("s", "t"), 0.0) == 0
    first = book.cover("p", "news", to("s"), 0.0)
    assert 0 < first < book.cover("p", "news", to("s"), 0.5)


def test_who_subscribes_uncovers_what_still_holds() -> None:
    book: Bypasses[str] = Bypasses()
    book.pass_by("p", "news", "s")
    number = book.cover("p", "news", to("s"), 10.0)
    assert book.changed(lambda *_: to("s"), 10.5) == ([], [])
    taken = Uncovered("p", "news", number, 10.0 + COVER_SECONDS)
    assert book.changed(lambda *_: to("s", "t"), 10.5) == ([taken], [])
    assert book.changed(lambda *_: to("s", "t"), 10.5) == ([], []), "once is enough"
    book.cover("p", "news", to("s"), 20.0)
    assert book.changed(lambda *_: to("s", "t"), 20.0 + COVER_SECONDS) == ([], []), "it has ended"


def test_who_leaves_is_passed_by_until_the_publisher_knows() -> None:
    book: Bypasses[str] = Bypasses()
    turn = book.pass_by("p", "news", "s")
    told = [Left("p", "news", "s", turn)]
    assert book.changed(lambda *_: to(), 0.0) == ([], told)
    assert book.changed(lambda *_: to(), 0.0) == ([], []), "once is enough"
    assert book.changed(lambda *_: to("s"), 0.0) == ([], [])
    assert set(book.passed("p", "news")) == {"s"}
    assert book.changed(lambda *_: to(), 0.0) == ([], told), "it left again"
    book.readmit("p", "news", ["s"])
    assert len(book) == 0
    assert book.pass_by("p", "news", "s") > turn


def test_a_cover_outlives_the_last_listener() -> None:
    """Its publisher still thinks that all hear it, and who comes now is to have it told."""
    book: Bypasses[str] = Bypasses()
    book.pass_by("p", "news", "s")
    number = book.cover("p", "news", to("s"), 0.0)
    assert book.forget("s") == [Left("p", "news", "s", 1)]
    book.changed(lambda *_: to(), 0.1)
    taken = Uncovered("p", "news", number, COVER_SECONDS)
    assert book.changed(lambda *_: to("t"), 0.2) == ([taken], [])
    assert len(book) == 0


def test_a_publisher_that_has_listeners_readmitted_has_no_cover() -> None:
    book: Bypasses[str] = Bypasses()
    book.pass_by("p", "news", "s")
    book.pass_by("p", "news", "t")
    book.cover("p", "news", to("s", "t"), 0.0)
    book.readmit("p", "news", ["s"])
    assert set(book.passed("p", "news")) == {"t"}
    assert book.changed(lambda *_: to("s", "t"), 0.1) == ([], [])
    book.readmit("p", "news", ["t"])
    book.readmit("p", "other", ["t"])
    assert len(book) == 0


def test_a_publisher_that_went_away_is_forgotten() -> None:
    book: Bypasses[str] = Bypasses()
    book.pass_by("p", "news", "s")
    book.pass_by("q", "news", "s")
    assert book.forget("p") == []
    assert not book.passed("p", "news")
    assert set(book.passed("q", "news")) == {"s"}


def test_there_is_room_for_so_many() -> None:
    book: Bypasses[str] = Bypasses()
    turns = [book.pass_by("p", "news", str(number)) for number in range(MAX_DIRECT + 1)]
    assert turns[-1] == 0
    assert all(turns[:-1])
    ways = [book.pass_by("p", str(number), "s") for number in range(MAX_WAYS)]
    assert ways[-1] == 0
    assert all(ways[:-1])
    assert book.pass_by("p", "0", "t"), "a way that is there has room"


class AtEachMoment(RuleBasedStateMachine):
    """A listener is passed by, or its publisher knows that the broker needs the message."""

    def __init__(self) -> None:
        super().__init__()
        self.book: Bypasses[str] = Bypasses()
        self.listening: set[str] = set()
        self.covers: dict[str, tuple[int, float]] = {}
        """What publishers think: the number of their cover, and its end."""
        self.now = 0.0

    @rule(publisher=PUBLISHERS, listener=LISTENERS)
    def pass_by(self, publisher: str, listener: str) -> None:
        if listener in self.listening:
            self.book.pass_by(publisher, "news", listener)

    @rule(publisher=PUBLISHERS, listener=LISTENERS)
    def readmit(self, publisher: str, listener: str) -> None:
        self.covers[publisher] = (0, 0.0)
        self.book.readmit(publisher, "news", [listener])

    @rule(publisher=PUBLISHERS)
    def cover(self, publisher: str) -> None:
        if number := self.book.cover(publisher, "news", self.listening, self.now):
            self.covers[publisher] = (number, self.now + COVER_SECONDS)

    @rule(listener=LISTENERS)
    def come_or_go(self, listener: str) -> None:
        self.listening ^= {listener}
        uncovered, left = self.book.changed(lambda *_: self.listening, self.now)
        for taken in uncovered:
            if taken.cover >= self.covers[taken.publisher][0]:
                self.covers[taken.publisher] = (0, 0.0)
        assert not {one.listener for one in left} & self.listening
        assert {one.listener for one in left} <= {listener}, "each is told once"

    @rule()
    def wait(self) -> None:
        self.now += COVER_SECONDS / 3

    @invariant()
    def nobody_is_left_out(self) -> None:
        for publisher, (_, until) in self.covers.items():
            passed = set(self.book.passed(publisher, "news"))
            assert until <= self.now or self.listening <= passed


TestAtEachMoment = AtEachMoment.TestCase

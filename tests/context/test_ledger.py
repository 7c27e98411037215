"""The ledger of what was given: what it keeps, what makes room, and that it says what it holds."""

from __future__ import annotations

from agentbus.config import FilterRule
from agentbus.context import Context, Given, Ledger, TenantKey
from agentbus.filters import Outlook, Pipeline, open_lossy, plan_of
from agentbus.filters.plan import view_of

TENANT = TenantKey(bytes(range(32)))
PLAN = plan_of((FilterRule(use=("dedupe", "mask")),), "reader")
ROOM = 1_000_000


def text(name: str) -> str:
    return "\n".join(f"{name}, line {line} of a text" for line in range(100))


def talk(name: str, length: int = 3) -> Context:
    context = TENANT.empty()
    for number in range(length):
        context = context.user(text(f"{name} {number}"))
    return context


class Reader:
    """A pipeline that remembers little."""

    def __init__(self, room: int = ROOM) -> None:
        self.ledger = Ledger(room)
        self.pipeline = Pipeline(len, self.ledger, open_lossy)

    def reads(self, context: Context) -> Given:
        return self.pipeline.deliver(context, PLAN, "reader")

    def holds(self, context: Context) -> bool:
        return self.ledger.given(context.root, view_of(PLAN)) is not None


def test_what_is_kept_takes_no_more_memory_than_there_is_room() -> None:
    reader = Reader()
    talks = [talk(str(number)) for number in range(50)]
    for turn in range(20):
        talks = [one.user(f"Go on, {turn}.") for one in talks]
        for one in talks:
            reader.reads(one)
            assert reader.ledger.size <= ROOM
    kept = [reader.reads(one) for one in talks if reader.holds(one)]
    reachable = {id(node) for given in kept for node in given.chain()}
    assert 0 < len(reachable) <= len(reader.ledger) + len(kept)


def test_the_conversation_that_was_longest_unused_makes_room_from_its_end() -> None:
    reader = Reader()
    old, new = talk("old"), talk("new")
    reader.reads(old)
    reader.reads(new)
    reader.reads(old.user("Go on."))
    kept, number = 7, 0
    while len(reader.ledger) == kept + number:
        number += 1
        reader.reads(talk(f"other {number}", 1))
    assert reader.holds(old.user("Go on.")), "it was used later"
    assert new.parent is not None
    assert reader.holds(new.parent)
    assert not reader.holds(new)


def test_a_context_that_is_larger_than_the_room_is_kept_while_it_is_the_last() -> None:
    reader = Reader(room=1)
    reader.reads(talk("a"))
    context = talk("b", 20)
    reader.reads(context)
    assert len(reader.ledger) == context.length
    assert not reader.holds(talk("a"))
    assert reader.reads(context) is reader.reads(context)


def test_what_branches_share_stays_as_long_as_one_of_them() -> None:
    reader = Reader()
    trunk = talk("trunk")
    first = trunk.user("first")
    reader.reads(first)
    for number in range(400):
        reader.reads(trunk.user(f"way {number}" * 100))
    assert not reader.holds(first)
    assert reader.holds(trunk)


def test_what_an_epoch_gives_counts() -> None:
    reader = Reader(1 << 28)
    context = TENANT.empty()
    for number in range(30):
        context = context.tool_result("shell", text(str(number)))
        reader.reads(context)
    before = reader.ledger.size
    context = context.user("Go on.")
    reader.pipeline.outlook = Outlook(room=sum(len(one.text) for one in context.segments()) - 1)
    given = reader.reads(context)
    masked = sum("left out" in segment.text for segment in given.context.segments())
    assert masked == 20
    behind = sum(len(segment.text) for segment in given.context.segments()[20:])
    assert reader.ledger.size - before > behind

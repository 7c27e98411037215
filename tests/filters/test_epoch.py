"""Old results give way to marks when that pays; until then, and after it, prompts only grow."""

from __future__ import annotations

import math

from agentbus.config import FilterRule
from agentbus.context import Context, Given, Ledger, TenantKey, reference
from agentbus.filters import Edge, Outlook, Pipeline, open_lossy, plan_of
from agentbus.filters.mask import KEPT_RESULTS, MASK

TENANT = TenantKey(bytes(range(32)))
PLAN = plan_of((FilterRule(use=("dedupe", "mask")),), "reader")
ROOM = 16_000
"""Characters, which are tokens here."""


def output(number: int) -> str:
    return "\n".join(f"output {number}, line {line} of many" for line in range(40))


def talk(results: int, context: Context | None = None) -> Context:
    context = context or TENANT.empty().user("Find the file.")
    for number in range(results):
        context = context.tool_call("reader", f"look {number}").tool_result("shell", output(number))
    return context


def texts(given: Given) -> list[str]:
    return [segment.text for segment in given.context.segments()]


def pipeline(room: float = ROOM, *, fails: str = "") -> Pipeline:
    must_stay = (lambda text: fails in text) if fails else (lambda _: False)
    one = Pipeline(len, Ledger(), open_lossy, must_stay=must_stay)
    one.outlook = Outlook(room=room)
    return one


def test_results_are_masked_in_one_batch_when_the_window_is_full() -> None:
    one = pipeline()
    epochs = 0
    before: list[str] = []
    for count in range(1, 40):
        context = talk(count)
        now = texts(one.deliver(context, PLAN, "reader"))
        assert sum(map(len, now)) <= ROOM
        masked = sum("left out here" in text for text in now)
        assert count - masked >= min(count, KEPT_RESULTS)
        if now[: len(before)] != before:
            epochs += 1
            assert masked > 1
        before = now
    assert 1 <= epochs <= 8, "masks come in batches"


def test_marks_name_the_originals() -> None:
    one = pipeline(room=1)
    context = talk(KEPT_RESULTS + 5)
    given = one.deliver(context, PLAN, "reader")
    segments = context.segments()
    marks = [place for place, text in enumerate(texts(given)) if "left out here" in text]
    assert len(marks) == 5
    for place in marks:
        ref = reference(segments[place], context)
        assert ref in texts(given)[place]
        assert context.fetch(ref).text == segments[place].text
    assert texts(given)[-1] == output(KEPT_RESULTS + 4)


def test_while_the_cache_is_warm_and_there_is_room_nothing_is_masked() -> None:
    one = pipeline(room=math.inf)
    before: list[str] = []
    for count in range(1, 30):
        now = texts(one.deliver(talk(count), PLAN, "reader"))
        assert now[: len(before)] == before
        before = now
    assert not any("left out here" in text for text in before)


def test_an_engine_that_holds_nothing_is_spared_at_once() -> None:
    one = pipeline(room=math.inf)
    one.reuses = False
    one.deliver(talk(KEPT_RESULTS), PLAN, "reader")
    given = one.deliver(talk(KEPT_RESULTS + 3), PLAN, "reader")
    assert sum("left out here" in text for text in texts(given)) == 3


def test_nothing_refers_to_what_is_masked() -> None:
    one = pipeline(room=1)
    context = talk(KEPT_RESULTS + 2).user("Say the first again.").tool_result("shell", output(0))
    given = one.deliver(context, PLAN, "reader")
    shown = texts(given)
    assert "left out here" in shown[2]
    assert shown[-1] == output(0), "its earlier copy is not in the prompt any more"


def test_results_with_errors_stay() -> None:
    one = pipeline(room=1, fails="output 1,")
    given = one.deliver(talk(KEPT_RESULTS + 4), PLAN, "reader")
    assert output(1) in texts(given)
    assert sum("left out here" in text for text in texts(given)) == 3


def test_other_senders_results_stay() -> None:
    plan = plan_of((FilterRule(use=("mask",), senders=("other",)),), "reader")
    given = pipeline(room=1).deliver(talk(KEPT_RESULTS + 4), plan, "reader")
    assert not any("left out here" in text for text in texts(given))


def test_a_fork_from_before_goes_on_as_it_was() -> None:
    one = pipeline()
    early = talk(5)
    before = texts(one.deliver(early, PLAN, "reader"))
    masked = one.deliver(talk(40), PLAN, "reader")
    assert "left out here" in texts(masked)[2]
    forked = texts(one.deliver(early.user("Stop."), PLAN, "reader"))
    assert forked[: len(before)] == before


def test_the_ledger_says_what_an_epoch_lost() -> None:
    one = pipeline()
    for count in range(1, 20):
        one.deliver(talk(count), PLAN, "reader")
    balance, why = one.watch.guard.balances()[Edge("shell", "reader", MASK)]
    assert why == ""
    assert balance.deliveries >= 1
    assert balance.lost > 0

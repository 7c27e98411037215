"""Old results give way to marks when that pays; until then, and after it, prompts only grow."""

from __future__ import annotations

import math

from agentbus.config import FilterRule
from agentbus.context import Context, Given, Ledger, TenantKey, reference
from agentbus.filters import Costs, Edge, Outlook, Pipeline, open_lossy, plan_of
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


def watching(polls: int) -> Context:
    """Return a conversation in which a tool says the same again and again."""
    context = TENANT.empty().user("Watch it.")
    for number in range(polls):
        context = context.tool_call("reader", f"poll {number}").tool_result("shell", output(0))
    return context


def test_no_epoch_begins_that_would_save_nothing_in_the_end() -> None:
    one = pipeline(room=math.inf)
    one.reuses = False
    before: list[str] = []
    for polls in range(1, 3 * KEPT_RESULTS):
        now = texts(one.deliver(watching(polls), PLAN, "reader"))
        assert now[: len(before)] == before, "the later ones refer to the first"
        before = now
    assert MASK not in {edge.filter for edge in one.watch.guard.balances()}


def test_what_was_in_vain_is_tried_again_once_there_is_more_to_save() -> None:
    one = pipeline(room=math.inf)
    one.reuses = False
    context = watching(KEPT_RESULTS + 2)
    masked = []
    for number in range(1, KEPT_RESULTS + 2):
        one.deliver(context, PLAN, "reader")
        context = context.tool_result("shell", output(number))
        given = one.deliver(context, PLAN, "reader")
        masked.append(sum("left out here" in text for text in texts(given)))
    assert masked == [0] * KEPT_RESULTS + [2]


def test_what_the_model_has_written_stays_in_an_epoch() -> None:
    one = pipeline(room=50_000)
    context = TENANT.empty().user("Go on.")
    for number in range(30):
        answered = context.message("reader", f"{number}\n{output(0)}")
        one.written_here(context, PLAN, "reader", answered)
        context = answered.tool_result("shell", output(number))
        given = one.deliver(context, PLAN, "reader")
        for said, shown in zip(context.segments(), texts(given), strict=True):
            assert said.author != "reader" or said.text == shown
    assert any("left out here" in text for text in texts(given))


def test_saved_tokens_are_what_the_prompt_lacks_in_an_epoch_too() -> None:
    one = pipeline()
    context = TENANT.empty().user("Go on.")
    saved = 0
    for number in range(30):
        twice = f"{output(number)}\n{output(number)}"
        context = context.tool_call("reader", f"look {number}").tool_result("shell", twice)
        given = one.deliver(context, PLAN, "reader")
        lacks = sum(len(s.text) for s in context.segments()) - sum(map(len, texts(given)))
        assert given.saved_tokens == lacks
        saved = lacks
    balances = one.watch.guard.balances()
    mask, _ = balances[Edge("shell", "reader", MASK)]
    dedupe, _ = balances[Edge("shell", "reader", "dedupe/1")]
    assert mask.deliveries > 0
    assert mask.saved + dedupe.saved == saved


def test_masks_that_do_harm_are_off_but_where_the_window_is_full() -> None:
    one = pipeline(room=math.inf)
    one.reuses = False
    edge = Edge("shell", "reader", MASK)
    one.watch.guard.delivered(edge, sent=800, delivered=700)
    for _ in range(7):
        one.watch.guard.delivered(edge, sent=8, delivered=7)
    one.watch.guard.retrieved(edge, 8000, turn=0)
    assert one.watch.guard.why_off(edge)
    context = talk(KEPT_RESULTS + 5)
    assert not any("left out here" in text for text in texts(one.deliver(context, PLAN, "reader")))
    one.outlook = Outlook(room=ROOM)
    context = talk(20)
    assert any("left out here" in text for text in texts(one.deliver(context, PLAN, "reader")))


def test_what_is_old_is_looked_at_once() -> None:
    looked: list[str] = []

    def looks(text: str) -> bool:
        looked.append(text)
        return False

    one = Pipeline(len, Ledger(), open_lossy, must_stay=looks)
    context = TENANT.empty()
    for number in range(40):
        context = context.tool_result("shell", output(number))
        one.deliver(context, PLAN, "reader")
    assert len(looked) == len(set(looked)) == 40 - KEPT_RESULTS


def test_conversations_of_one_role_are_told_apart() -> None:
    one = pipeline(room=math.inf)
    one.watch.costs = Costs(prefill=1.0, reused=0.1)
    role = TENANT.empty().role("reader", "You look for files.", private=True)
    for number in range(40):
        # What one conversation has missed does not begin an epoch in another one.
        begun = role.user(f"Find file {number}.")
        for results in (0, 4, 8, KEPT_RESULTS + 2):
            given = one.deliver(talk(results, begun), PLAN, "reader")
        assert not any("left out here" in text for text in texts(given))

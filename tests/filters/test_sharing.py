"""A text behind which several things are asked, where it is shortened for what is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentbus.config import FilterRule
from agentbus.context import Context, Given, Ledger, TenantKey
from agentbus.filters import Lossy, Pipeline, Shortened, plan_of
from agentbus.filters.plan import Use

from .books import Memory

TENANT = TenantKey(bytes(range(32)))
PLAN = plan_of((FilterRule(use=("extract",)),), "reader")
DOCUMENT = "\n".join(f"Sentence {number} says something of {number}." for number in range(60))


class Third:
    """Leaves the query and a third of the text."""

    name = "extract/2"

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        if not query or len(text) < 200:
            return None
        return Shortened(f"{query}: {text[: len(text) // 3]}", ((1, 2),))


def open_third(name: str, use: Use) -> Lossy:
    return Third()


def pipeline(book: Memory | None = None) -> Pipeline:
    return Pipeline(len, Ledger(book=book), open_third)


def document(given: Given) -> str:
    return given.context.segments()[1].text


def base() -> Context:
    return TENANT.empty().user("Here is a document.").document(DOCUMENT)


def test_each_ask_gets_a_form_of_its_own() -> None:
    one = pipeline()
    for question in ("How deep?", "How wide?"):
        given = one.deliver(base().ask(question), PLAN, "reader")
        assert document(given).startswith(question)


def test_equal_asks_share_a_form() -> None:
    one = pipeline()
    first = one.deliver(base().ask("How deep?"), PLAN, "ann")
    second = one.deliver(base().ask("How deep?"), PLAN, "bob")
    assert second.context.root == first.context.root


def test_the_whole_text_is_shared_once_own_forms_have_cost_as_much() -> None:
    one = pipeline()
    shown = [
        document(one.deliver(base().ask(f"Question {number}?"), PLAN, "reader"))
        for number in range(8)
    ]
    own = [text != DOCUMENT for text in shown]
    assert own[:2] == [True, True]
    assert own == sorted(own, reverse=True) and own[-1] is False
    spent = sum(len(text) for text in shown if text != DOCUMENT)
    assert spent <= len(DOCUMENT)


def test_once_the_whole_text_is_shared_nothing_is_decided_any_more() -> None:
    one = pipeline()
    for number in range(8):
        one.deliver(base().ask(f"Question {number}?"), PLAN, "reader")
    last = one.deliver(base().ask("And now?"), PLAN, "reader")
    again = one.deliver(base().ask("And then?"), PLAN, "reader")
    assert document(again) == DOCUMENT
    assert again.parent is last.parent


def test_what_was_delivered_for_an_ask_stays_after_a_restart() -> None:
    book = Memory()
    before = [
        document(pipeline(book).deliver(base().ask("How deep?"), PLAN, "reader")),
        document(pipeline(book).deliver(base(), PLAN, "reader")),
    ]
    assert before[0] != before[1]
    one = pipeline(book)
    assert document(one.deliver(base().ask("How deep?"), PLAN, "reader")) == before[0]
    assert document(one.deliver(base().ask("How wide?"), PLAN, "reader")) == before[1]


def test_what_was_delivered_for_an_ask_stays() -> None:
    one = pipeline()
    asked = base().ask("How deep?")
    before = document(one.deliver(asked, PLAN, "reader"))
    for number in range(8):
        one.deliver(base().ask(f"Question {number}?"), PLAN, "reader")
    on = asked.message("reader", "Very.").ask("How wide?")
    assert document(one.deliver(on, PLAN, "reader")) == before
    assert document(one.deliver(asked, PLAN, "reader")) == before


def test_what_is_read_ahead_of_the_ask_decides_nothing() -> None:
    one = pipeline()
    context = base().document(DOCUMENT).note("Seen.")
    settled = one.settled(context, PLAN)
    assert settled == TENANT.empty().user("Here is a document.")
    one.deliver(settled, PLAN, "reader")
    asked = context.ask("How deep?")
    assert one.settled(asked, PLAN) is asked
    assert document(one.deliver(asked, PLAN, "reader")).startswith("How deep?")
    lossless = plan_of((FilterRule(use=("lossless",)),), "reader")
    assert one.settled(context, lossless) is context


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_delivered_before_it_was_asked_about_stays(restart: bool) -> None:
    book = Memory()
    one = pipeline(book)
    before = one.deliver(base(), PLAN, "reader").context.segments()
    assert before[1].text.startswith("Here is a document.: ")
    assert one.settled(base().note("Seen."), PLAN) == base().note("Seen.")
    if restart:
        one = pipeline(book)
    for question in ("How deep?", "How wide?"):
        asked = one.deliver(base().ask(question), PLAN, "reader").context.segments()
        assert asked[:2] == before
    assert one.settled(base(), PLAN) == base()


def test_an_answer_settles_what_was_asked() -> None:
    context = base().tool_call("reader", "look").tool_result("shell", "It is.").ask("How wide?")
    given = pipeline().deliver(context, PLAN, "reader")
    assert document(given).startswith("Here is a document.: ")

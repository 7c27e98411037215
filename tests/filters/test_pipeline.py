"""Contexts on their way to a model: what was delivered stays, is read back, and never grows."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator

import pytest

from agentbus.config import FilterName, FilterRule
from agentbus.context import (
    LAYOUTS,
    Book,
    Context,
    Decision,
    Given,
    Ledger,
    SegmentKind,
    TenantKey,
    find_layout,
)
from agentbus.errors import InvalidMessage
from agentbus.filters import Outlook, Pipeline, Plan, check_plan, open_lossy, plan_of, read_back
from agentbus.filters.lossy import Shortened
from agentbus.filters.named import LOSSLESS, REFERENCES
from agentbus.filters.plan import Rules, Use, view_of

from .books import Memory

TENANT = TenantKey(bytes(range(32)))
ALL = (FilterRule(use=("lossless",)),)
PLAN = plan_of(ALL, "reader")


def pipeline(book: Book | None = None, *, room: int = 1 << 28) -> Pipeline:
    return Pipeline(len, Ledger(room, book), open_lossy)


def records(count: int, at: int = 0) -> str:
    rows = [{"id": f"f-{at + i}", "city": "Rome", "price": 12.50 + i} for i in range(count)]
    return json.dumps(rows, indent=2)


def source(lines: int, changed: int = -1) -> str:
    return "".join(
        f"    value_{i} = compute({'again' if i == changed else i}, depth={i * 7})\n"
        for i in range(lines)
    )


def conversation(seed: int, length: int = 30) -> Context:
    """Return a conversation whose texts come again, whole and changed."""
    chance = random.Random(seed)
    context = TENANT.empty().role("writer", "You write.").user("Let us begin.")
    for _ in range(length):
        text = chance.choice(
            [
                records(chance.randrange(1, 12), chance.randrange(4)),
                source(chance.randrange(1, 60), chance.randrange(60)),
                "\n".join(f"2024-01-0{i % 9 + 1} INFO job {i} done" for i in range(30)),
                "Thanks!",
                "[#12 again]\n[lines 1-3 of this text again]",
            ]
        )
        add = chance.choice([context.user, context.ask, context.document])
        said = chance.random()
        if said < 0.4:
            context = context.tool_result("db", text)
        elif said < 0.6:
            context = context.message("writer", text)
        elif said < 0.7:
            context = context.tool_call("writer", text)
        else:
            context = add(text)
    return context


def chain(context: Context) -> list[Context]:
    nodes = list(context.ancestors())
    nodes.reverse()
    return nodes


def texts(given: Given) -> list[str]:
    return [segment.text for segment in given.context.segments()]


@pytest.mark.parametrize("seed", range(8))
def test_a_prompt_only_grows_at_its_end(seed: int) -> None:
    one = pipeline()
    before: list[str] = []
    for node in chain(conversation(seed)):
        now = texts(one.deliver(node, PLAN, "reader"))
        assert now[: len(before)] == before
        assert len(now) == node.length
        before = now
    assert texts(one.deliver(conversation(seed), PLAN, "reader")) == before


@pytest.mark.parametrize("seed", range(8))
def test_what_is_delivered_reads_back_and_never_grows(seed: int) -> None:
    one = pipeline()
    changed = 0
    for node in chain(conversation(seed))[1:]:
        given = one.deliver(node, PLAN, "reader")
        assert node.last is not None
        assert given.parent is not None
        assert given.receipt is not None
        decision = given.receipt.decision
        if decision.text is None:
            assert texts(given)[-1] == node.last.text
            continue
        assert decision.delivered_tokens == len(texts(given)[-1])
        assert decision.sent_tokens == len(node.last.text) > decision.delivered_tokens
        changed += 1
        read, exact = read_back(
            decision.text,
            decision.filters,
            LOSSLESS,
            tuple(REFERENCES.values()),
            given.parent.earlier,
        )
        if exact == "bytes":
            assert read == node.last.text
        else:
            assert json.loads(read) == json.loads(node.last.text)
    assert changed > 5, "the conversation tries nothing"


def test_kinds_that_no_filter_touches() -> None:
    same = records(5)
    context = TENANT.empty().role("a", same).role("b", same, private=True).tool_call("a", same)
    context = context.note(same).tool_result("db", same)
    *untouched, result = texts(pipeline().deliver(context, PLAN, "reader"))
    assert untouched == [same] * 4
    assert len(result) < len(same)


def test_nothing_refers_to_what_the_reader_was_not_shown() -> None:
    once = source(40)
    referring = plan_of((FilterRule(use=("dedupe", "diff")),), "a")
    for hidden in (
        TENANT.empty().role("b", once, private=True),
        TENANT.empty().note(once),
        TENANT.empty().role("b", once),
    ):
        assert texts(pipeline().deliver(hidden.user(once), referring, "a"))[-1] == once
    shown = TENANT.empty().document(once)
    assert len(texts(pipeline().deliver(shown.user(once), referring, "a"))[-1]) < 100


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_referred_to_stands_in_the_prompt_to_the_character(layout: str) -> None:
    code = source(40)
    plan = plan_of((FilterRule(use=("dedupe", "diff")),), "a")
    for said in (
        TENANT.empty().message("bob", code),
        TENANT.empty().ask(code, author="bob"),
        TENANT.empty().tool_result("shell", code),
    ):
        given = pipeline().deliver(said.user(code), plan, "a")
        before, after = find_layout(layout).render(given.context, "a").turns[-2:]
        first, rest = code.split("\n", 1)
        assert len(after.text) < 150, "it says that the rest stands there"
        assert rest in before.text
        assert f"\n{first}\n" in before.text or first in after.text


def test_another_pipeline_decides_the_same() -> None:
    context = conversation(3)
    whole = pipeline().deliver(context, PLAN, "reader")
    little = pipeline(room=1)
    for node in chain(context):
        little.deliver(node, PLAN, "reader")
    assert little.deliver(context, PLAN, "someone").context.root == whole.context.root


def test_a_book_keeps_what_was_delivered_whatever_filters_say_later() -> None:
    context = conversation(5)
    book = Memory()
    first = pipeline(book).deliver(context, PLAN, "reader")
    changed = {key: kept for key, kept in book.rows.items() if kept.text is not None}
    assert changed
    key = list(changed)[-1]
    book.rows[key] = Decision("what an older version wrote", "json-old/0", "", 50, 27)
    again = pipeline(book).deliver(context, PLAN, "reader")
    differing = [a for a, b in zip(texts(first), texts(again), strict=True) if a != b]
    assert differing == [changed[key].text]


def test_a_decision_from_a_book_holds_only_behind_what_it_was_made_behind() -> None:
    once = source(40)
    context = TENANT.empty().document(once).user("Again:").document(once)
    book = Memory()
    assert len(texts(pipeline(book).deliver(context, PLAN, "reader"))[-1]) < 100
    key = next(iter(book.rows))
    book.rows[key] = Decision("what an older version wrote", "fold/0", "", 50, 27)
    again = texts(pipeline(book).deliver(context, PLAN, "reader"))
    alone = pipeline().deliver(TENANT.empty().document(once), PLAN, "reader")
    assert again == ["what an older version wrote", "Again:", *texts(alone)]
    del book.rows[key]
    assert len(texts(pipeline(book).deliver(context, PLAN, "reader"))[-1]) < 100


def test_forks_go_on_from_what_they_share() -> None:
    one = pipeline()
    shared = TENANT.empty().document(source(50))
    trunk = one.deliver(shared, PLAN, "reader")
    branches = [
        one.deliver(shared.user(source(50, changed)), PLAN, "reader") for changed in (3, 40)
    ]
    for branch, changed in zip(branches, (3, 40), strict=True):
        assert branch.parent is trunk
        receipt = branch.receipt
        assert receipt is not None
        assert receipt.decision.text is not None
        read, _ = read_back(
            receipt.decision.text,
            receipt.decision.filters,
            LOSSLESS,
            tuple(REFERENCES.values()),
            trunk.earlier,
        )
        assert read == source(50, changed)


def test_what_the_model_has_written_stays_as_it_is() -> None:
    one = pipeline()
    asked = TENANT.empty().document(source(50)).ask("Say it again.")
    one.deliver(asked, PLAN, "writer")
    answered = asked.message("writer", source(50))
    one.written_here(asked, PLAN, "writer", answered)
    given = one.deliver(answered, PLAN, "reader")
    assert texts(given)[-1] == source(50)
    assert len(texts(pipeline().deliver(answered, PLAN, "reader"))[-1]) < 100


def test_prompts_only_grow_whatever_made_room() -> None:
    one = pipeline(room=1)
    plan = plan_of((FilterRule(use=("lossless", "strip", "extract")),), "writer")
    talks = [TENANT.empty().user(f"Let us begin {number}.") for number in range(3)]
    before: list[list[str]] = [[] for _ in talks]
    chance = random.Random(7)
    prose = " ".join(f"The {n}th flight to Rome is at {n * 7}." for n in range(60))
    for _ in range(25):
        for number, context in enumerate(talks):
            text = chance.choice([source(30, chance.randrange(30)), records(6), prose])
            added = chance.choice([context.document, context.ask, context.user])(text)
            given = one.deliver(added, plan, "writer")
            assert texts(given)[: len(before[number])] == before[number]
            talks[number] = added.message("writer", f"{text}\nSo be it.")
            one.written_here(added, plan, "writer", talks[number])
            before[number] = [*texts(given), f"{text}\nSo be it."]


def test_what_made_room_is_counted_once() -> None:
    one = pipeline(room=1)
    context = TENANT.empty().tool_call("reader", "look").tool_result("db", records(9))
    again = context.tool_call("reader", "look").tool_result("db", records(9))
    for _ in range(3):
        for some in (context, again, TENANT.empty().user("Something else.")):
            one.deliver(some, PLAN, "reader")
    balances = one.watch.guard.balances()
    assert sum(balance.deliveries for balance, _ in balances.values()) == 2
    assert sum(balance.repeats for balance, _ in balances.values()) == 1


def test_saved_tokens_are_what_the_prompt_lacks() -> None:
    context = conversation(2)
    given = pipeline().deliver(context, PLAN, "reader")
    lacks = sum(len(s.text) for s in context.segments()) - sum(map(len, texts(given)))
    assert given.saved_tokens == lacks == sum(r.saved_tokens for r in given.receipts())
    assert given.left_out_tokens == 0


def test_the_delivered_root_names_the_result() -> None:
    plain = TENANT.empty().user("Thanks!")
    assert pipeline().deliver(plain, PLAN, "reader").context.root == plain.root
    changed = TENANT.empty().user(records(9))
    delivered = pipeline().deliver(changed, PLAN, "reader").context
    assert delivered.root != changed.root
    assert delivered.root == TENANT.empty().user(texts_of(delivered)[0]).root


def texts_of(context: Context) -> list[str]:
    return [segment.text for segment in context.segments()]


def fits(rules: Iterator[FilterRule] | tuple[FilterRule, ...], reader: str, kind: str) -> Use:
    segment = TENANT.segment(SegmentKind(kind), "search.web", "text")
    return Rules(plan_of(rules, reader)).use_for(segment)


def test_the_first_rule_that_fits_holds() -> None:
    rules = (
        FilterRule(use=("json",), senders=("search.*",), kinds=("tool_result",)),
        FilterRule(use=(), readers=("judge",)),
        FilterRule(use=("lossless", "offload"), senders=("other", "search.>")),
    )
    assert fits(rules, "writer", "tool_result").use == ("json",)
    assert fits(rules, "judge", "document").use == ()
    assert fits(rules, "writer", "document").use == ("json", "fold", "dedupe", "diff", "offload")
    assert fits(rules, "writer", "message").use == ("json", "fold", "dedupe", "diff")
    assert fits(rules, "writer", "tool_call").use == ()
    assert fits((), "writer", "document").use == ()


def test_views_differ_where_plans_do() -> None:
    writer = plan_of((FilterRule(use=("json",), readers=("w",)),), "w")
    assert view_of(()) == view_of(plan_of((FilterRule(use=()),), "w")) == b""
    assert len({view_of(writer), view_of(PLAN), b""}) == 3
    assert view_of(writer) == view_of(plan_of((FilterRule(use=("json",)),), "other"))


@pytest.mark.parametrize(
    "plan",
    [
        (Use((), (), ("gzip",), 0.3),),
        (Use((), (), ("json",), 7.0),),
        (Use((), (), ("json",), 0.3),) * 65,
        (Use(("a",) * 65, (), ("json",), 0.3),),
        (Use((), ("document",) * 65, ("json",), 0.3),),
        (Use(("a" * 129,), (), ("json",), 0.3),),
        (Use((), ("a" * 129,), ("json",), 0.3),),
        (Use((), (), ("json",) * 65, 0.3),),
        (Use((), (), ("json",), math.nan),),
        (Use((), (), ("extract",), 0.0),),
    ],
)
def test_plans_from_elsewhere_are_checked(plan: Plan) -> None:
    with pytest.raises(InvalidMessage, match="filters"):
        check_plan(plan)


def test_the_longest_plan_is_looked_through_once_for_each_sender() -> None:
    patterns = [".".join(["a"] * 62 + [str(number), ">"]) for number in range(64)]
    plan = (Use(tuple(patterns), (), ("json", "mask"), 0.3),) * 64
    check_plan(plan)
    context = TENANT.empty()
    for number in range(2000):
        context = context.tool_result(".".join(["a"] * 1000 + [str(number % 3)]), f"text {number}")
    one = pipeline()
    begun = time.process_time()
    one.deliver(context, plan, "reader")
    one.deliver(context.user("Go on."), plan, "reader")
    assert time.process_time() - begun < 1


def test_a_huge_text_is_delivered_as_it_is_at_once() -> None:
    huge = '{"a": 1}\n' * 6_000_000
    one = pipeline()
    begun = time.process_time()
    given = one.deliver(TENANT.empty().tool_result("db", huge), PLAN, "reader")
    assert time.process_time() - begun < 20
    assert texts(given) == [huge]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\r\n" * 50,
        "漢字かな" * 500,
        "\x00\x01\x02" * 300,
        "\x1b[31mred\x1b[0m\n" * 50,
        '{"a": NaN, "b": 1e400, "a": 2}' * 3,
        "[" * 5000 + "]" * 5000,
        '[line 1 of "x" again]\n' * 40,
        "[#1 again]\n[quoted] [#1 again]\n" * 30,
    ],
)
def test_hostile_texts_read_back(text: str) -> None:
    context = TENANT.empty().tool_result("db", text).document(text).user(text)
    one = pipeline()
    for node in chain(context)[1:]:
        given = one.deliver(node, PLAN, "reader")
        assert given.parent is not None
        receipt = given.receipt
        assert receipt is not None
        if receipt.decision.text is None:
            assert texts(given)[-1] == text
            continue
        decision = receipt.decision
        read, exact = read_back(
            str(decision.text),
            decision.filters,
            LOSSLESS,
            tuple(REFERENCES.values()),
            given.parent.earlier,
        )
        assert read == text or exact == "value"
        assert decision.delivered_tokens < decision.sent_tokens


class Leaves:
    """A lossy filter that leaves so many characters."""

    name = "leaves/1"

    def __init__(self, characters: int) -> None:
        self._characters = characters

    def shorten(self, text: str, **_: object) -> Shortened:
        return Shortened(text[: self._characters], ((2, 9),))


@pytest.mark.parametrize(("left", "is_taken"), [(80, True), (81, False)])
def test_what_loses_has_to_spare_a_fifth_of_what_is_left_without_loss(
    left: int, *, is_taken: bool
) -> None:
    text = "x" * 100
    rules = (FilterRule(use=("extract",)),)
    pipeline = Pipeline(len, Ledger(), lambda name, _use: Leaves(left))
    given = pipeline.deliver(
        TENANT.empty().tool_result("db", text), plan_of(rules, "reader"), "reader"
    )
    assert given.receipt
    decision = given.receipt.decision
    assert (decision.filters == "leaves/1") is is_taken
    assert decision.why == (
        "20 of 100 tokens fewer"
        if is_taken
        else "leaves/1 would spare too little to lose something"
    )


@pytest.mark.parametrize("use", ["strip", "offload", "extract", "mask"])
def test_a_context_of_many_short_texts_takes_linear_time(use: FilterName) -> None:
    plan = plan_of((FilterRule(use=(use,), kinds=("document", "tool_result")),), "reader")

    def seconds(count: int) -> float:
        context = TENANT.empty()
        for number in range(count):
            context = context.tool_result("db", f"row {number}\nof many")
        delivering = pipeline()
        delivering.outlook = Outlook(room=100)
        began = time.process_time()
        delivering.deliver(context, plan, "reader")
        return time.process_time() - began

    assert seconds(8000) < 8 * seconds(2000) + 0.3


@pytest.mark.parametrize("use", ["lossless", "yaml", "strip", "offload", "extract", "mask"])
@pytest.mark.parametrize("unit", ["x", "Error: x\n" * 3000 + "The dog ran home.\n" * 3000])
def test_no_tokenizer_is_given_a_huge_text(unit: str, use: FilterName) -> None:
    sizes = [0]

    def count(text: str) -> int:
        sizes.append(len(text))
        return len(text) // 4

    text = unit * (5_000_000 // len(unit))
    context = TENANT.empty().tool_result("db", text).ask("Where is the dog of x?")
    plan = plan_of((FilterRule(use=(use,)),), "reader")
    Pipeline(count, Ledger(), open_lossy).deliver(context, plan, "reader")
    assert max(sizes) <= 1 << 20

"""Generated conversations of all sorts of texts, through all forms, and through lossy filters."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from agentbus.config import FilterName, FilterRule
from agentbus.context import Context, Given, Ledger, TenantKey, reference
from agentbus.filters import Outlook, Pipeline, is_lossless, open_lossy, plan_of, read_back
from agentbus.filters.choose import JOINT
from agentbus.filters.named import FORMS, REFERENCES
from perf.macro.json_values import same_values

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "3000"))
"""How many texts; a stress run takes 200,000."""
PLAN = plan_of((FilterRule(use=("json", "fold", "yaml", "dedupe", "diff")),), "reader")
EVERY = tuple(form for forms in FORMS.values() for form in forms)

NUMBERS = (
    *("0", "-0", "-0.0", "1", "1.0", "1.10", "1e5", "1E+400", "-1e-400", "0.1e1", "NaN"),
    *("-Infinity", "123456789012345678901234567890", "0.12345678901234567890123456789"),
)
STRINGS = (
    *(
        "",
        " ",
        "a",
        "1",
        "1.0",
        "true",
        "null",
        "a,b",
        "a:b",
        "{x}",
        "[1]",
        "- a",
        "# a",
        "é",
        "漢字",
    ),
    *(r"\n", r"\"", r"\\", r"\ud800", r"\u00e9", r"\/", r"\t", "x" * 60, " a", "a ", "~"),
    *("[line 1 of this text again]", "[quoted] [line ]", "yes", "@a", "a=b", "|", "a|b", "A: b"),
)
LINES = (
    *("", " ", "\r", "end\r", "\x00\x01", "\x0c", "\u2028", "漢字を読む。", "é" * 30),
    *("L" * 120, "[", "[quoted] a", "+[line ]", "\\", "- ", "A: {} x", "Lines start: {} ...", "="),
    *("[lines 1-3 of this text again]", '["return None" again, except:]', "[after line 3:]"),
    *("(the line above 3 more times)", "[Folded, nothing is lost.]", "[lines 1-2 left out here]"),
    *("    return None", "def f(x):", "}", "import pygame", "x = 1  # 2", "\x1b[31mred\x1b[0m"),
)


def number_of(draw: random.Random) -> str:
    return draw.choice(NUMBERS) if draw.random() < 0.5 else str(draw.randrange(1000))


def value(draw: random.Random, depth: int) -> str:
    """Return JSON as others write it: any white space, keys twice, all sorts of numbers."""
    kind = draw.random()
    if depth == 0 or kind < 0.5:
        scalars = (number_of(draw), f'"{draw.choice(STRINGS)}"', "true", "false", "null")
        return draw.choices(scalars, (3, 5, 1, 1, 1))[0]
    comma, colon = draw.choice([(",", ":"), (", ", ": "), (" ,\n  ", " :\t")])
    if kind < 0.7:
        return f"[{comma.join(value(draw, depth - 1) for _ in range(draw.randrange(5)))}]"
    keys = draw.choices(("id", "name", "a", "b c", "1", "", "é", '\\"', "a.b"), k=draw.randrange(5))
    return "{" + comma.join(f'"{key}"{colon}{value(draw, depth - 1)}' for key in keys) + "}"


def rows(draw: random.Random) -> str:
    keys = draw.sample(("id", "name", "zip", "at", "b c", "note"), draw.randint(1, 4))
    made = []
    for _ in range(draw.randint(2, 12)):
        kept = keys if draw.random() < 0.9 else keys[1:]
        made.append("{" + ", ".join(f'"{key}": {value(draw, 1)}' for key in kept) + "}")
    return draw.choice(
        ["[" + ",\n ".join(made) + "]", "\n".join(made), '{"of": [' + ",".join(made) + "]}"]
    )


def log(draw: random.Random) -> str:
    said = [
        f"worker {draw.choice('abc')} has {{}} of {{}}",
        "GET /{} took {} ms",
        draw.choice(LINES),
    ]
    lines = []
    for number in range(draw.randint(3, 40)):
        line = draw.choice(said).replace("{}", str(draw.randrange(100)))
        lines.append(
            f"2024-05-06 10:{number:02}:01 host INFO {line}" if draw.random() < 0.9 else line
        )
    return "\n".join(lines)


def lines(draw: random.Random) -> str:
    ends = ("\n", "\n", "\n", "\r\n", "\n\n")
    return "".join(draw.choice(LINES) + draw.choice(ends) for _ in range(draw.randrange(14)))


def characters(draw: random.Random) -> str:
    return "".join(draw.choices('{}[]":,\\ \n\r\tab1.-e0\x00é漢', k=draw.randrange(60)))


def changed(draw: random.Random, text: str) -> str:
    """Return a text that has to do with one that was given: whole, cut, edited, or as a patch."""
    parts = text.split("\n")
    at = draw.randrange(len(parts))
    ways = (
        parts,
        parts[at:],
        [*parts[:at], draw.choice(LINES), *parts[at + 1 :]],
        [*parts[:at], *parts[at + 2 :]],
        [f"+{line}" for line in parts],
        [*parts, *parts[:at]],
    )
    return "\n".join(draw.choice(ways))


def texts(draw: random.Random) -> Iterator[str]:
    given: list[str] = []
    while True:
        made = draw.choices((rows, log, lines, characters, None), (3, 3, 4, 1, 1))[0]
        text = made(draw) if made else value(draw, 4)
        if given and draw.random() < 0.5:
            text = changed(draw, draw.choice(given))
        if draw.random() < 0.1:
            text += "\n" + lines(draw)
        given.append(text)
        yield text


def is_the_same(text: str, given: Given, before: Given) -> bool:
    assert given.receipt
    decision = given.receipt.decision
    if decision.text is None:
        return given.context.last is not None and given.context.last.text == text
    read, exact = read_back(
        decision.text, decision.filters, EVERY, tuple(REFERENCES.values()), before.earlier
    )
    return read == text if exact == "bytes" else same_values(read, text)


def test_generated_conversations_read_back() -> None:
    draw = random.Random(11)
    used: Counter[str] = Counter()
    for _ in range(CASES // 10):
        pipeline = Pipeline(len, Ledger(), open_lossy)
        context: Context = TenantKey(bytes(range(32))).empty()
        before = pipeline.deliver(context, PLAN, "reader")
        for text, _ in zip(texts(draw), range(10), strict=False):
            context = draw.choice([context.user, context.document])(text)
            given = pipeline.deliver(context, PLAN, "reader")
            assert given.receipt
            decision = given.receipt.decision
            used.update(name.split("/")[0] for name in decision.filters.split(JOINT))
            assert is_the_same(text, given, before), (text, decision)
            assert decision.delivered_tokens <= decision.sent_tokens
            assert given.context.parent == before.context
            before = given
    least = {"json-compact", "json-plain", "json-lines", "fold", "dedupe", "diff"}
    assert all(used[name] > CASES / 1000 for name in least), used


def is_intact(context: Context, given: Given, before: Given) -> bool:
    """Say whether a text reads back, or what is left of it names it, once that was read back."""
    assert given.receipt and context.last
    decision = given.receipt.decision
    if not decision.left_out:
        return is_the_same(context.last.text, given, before)
    assert decision.text and decision.delivered_tokens < decision.sent_tokens
    last = context.last.text.count("\n") + 1
    assert all(1 <= first <= end <= last for first, end in decision.left_out)
    forms = JOINT.join(name for name in decision.filters.split(JOINT) if is_lossless(name))
    read, _ = read_back(decision.text, forms, EVERY, tuple(REFERENCES.values()), before.earlier)
    ref = reference(context.last, context)
    return ref in read and context.fetch(ref).text == context.last.text


def test_generated_conversations_have_what_is_left_out_by_reference() -> None:
    draw = random.Random(12)
    used: Counter[str] = Counter()
    for _ in range(CASES // 30):
        names: list[FilterName] = ["lossless", "yaml", "strip", "offload", "extract", "mask"]
        rule = FilterRule(use=tuple(draw.sample(names, 4)), keep=draw.choice([0.1, 0.3, 0.8]))
        plan = plan_of((rule,), "reader")
        pipeline = Pipeline(len, Ledger(draw.choice([1, 1 << 26])), open_lossy)
        pipeline.outlook = Outlook(room=draw.choice([5000, math.inf]))
        context: Context = TenantKey(bytes(range(32))).empty().ask("What of Rome, worker a?")
        for text, _ in zip(texts(draw), range(30), strict=False):
            text = f"{text}\n\x1b[1mIt is in Rome.\x1b[0m  \n" * draw.choice([1, 1, 9])
            is_result = draw.random() < 0.5
            context = context.tool_result("db", text) if is_result else context.document(text)
            given = pipeline.deliver(context, plan, "reader")
            assert given.context.root == pipeline.deliver(context, plan, "reader").context.root
        nodes = list(context.ancestors())[-2::-1]
        chain = list(given.chain())[::-1]
        for node, (before, after) in zip(nodes, pairwise(chain), strict=True):
            assert is_intact(node, after, before), after.receipt
            assert after.receipt
            used.update(name.split("/")[0] for name in after.receipt.decision.filters.split(JOINT))
    assert all(used[name] for name in ("strip", "offload", "extract", "mask", "dedupe")), used

"""Segments and contexts as values: names, kinds, and what a segment refers to."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from blake3 import blake3

from agentbus.context import DIGEST_SIZE, SegmentKind, TenantKey
from agentbus.errors import InvalidMessage, ToolSchemaError

TENANT = TenantKey(b"t" * 32)
EMPTY = TENANT.empty()


def test_a_context_is_shown_by_its_root_as_commands_print_it() -> None:
    context = EMPTY.user("Tides?")
    assert repr(context) == f"Context({context.root.hex()[:12]}…, length=1)"


def test_half_a_character_is_refused() -> None:
    context = TenantKey().empty()
    with pytest.raises(InvalidMessage, match="half a character"):
        context.user("\ud83d")
    with pytest.raises(InvalidMessage, match="half a character"):
        context.message("\ud83d", "text")
    assert context.user("\N{GRINNING FACE}").length == 1


@pytest.mark.parametrize("wrong", [3, b"text", None, ["text"]])
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    for add in (EMPTY.user, EMPTY.document, lambda text: EMPTY.message(text, "text")):
        with pytest.raises(InvalidMessage, match=f"not of {type(wrong).__name__}"):
            add(wrong)


def test_a_segment_that_refers_to_nothing_keeps_its_three_field_name() -> None:
    segment = TENANT.segment(SegmentKind.USER, "user", "hello")
    canonical = msgpack.packb(["user", "user", "hello"])
    assert segment.digest == blake3(canonical, key=TENANT.key).digest()
    assert segment.refers == b""
    assert TENANT.segment(SegmentKind.USER, "user", "hello", refers=b"") == segment


def test_what_a_segment_refers_to_is_part_of_its_name() -> None:
    names = {
        TENANT.segment(SegmentKind.USER, "user", "hello", refers=refers).digest
        for refers in (b"", b"a" * DIGEST_SIZE, b"b" * DIGEST_SIZE)
    }
    assert len(names) == 3


@pytest.mark.parametrize("size", [1, DIGEST_SIZE - 1, DIGEST_SIZE + 1])
def test_a_reference_is_as_long_as_a_digest(size: int) -> None:
    with pytest.raises(InvalidMessage, match="name nothing"):
        TENANT.segment(SegmentKind.USER, "user", "hello", refers=b"r" * size)


@pytest.mark.parametrize("tools", ["not json", '{"name": "find"}', [{"name": "a b"}], "[NaN]"])
def test_tools_that_are_none_are_refused(tools: Any) -> None:
    with pytest.raises(ToolSchemaError):
        EMPTY.tools(tools)
    old = EMPTY.tools([{"name": "find"}]).user("Go.")
    with pytest.raises(ToolSchemaError):
        old.supersede(old.segments()[0], tools)


def test_tools_that_mean_the_same_are_the_same_context() -> None:
    schema = {"required": ["day", "at"], "type": "object"}
    function = {"name": "tide", "parameters": schema}
    other = '[{"function": {"parameters": {"type": "object", "required": ["at", "day"]},"name": "tide"}}]'
    assert EMPTY.tools([function]) == EMPTY.tools(other)
    assert EMPTY.tools(EMPTY.tools([function]).segments()[0].text) == EMPTY.tools([function])
    head = EMPTY.tools("[]").user("Go.")
    renewed = head.supersede(head.segments()[0], other)
    assert renewed.segments()[-1].text == EMPTY.tools([function]).segments()[0].text


def test_each_kind_has_a_way_to_say_it() -> None:
    talk = EMPTY.role("writer", "r").document("d").user("u").ask("a").message("writer", "m")
    talk = talk.tools("[]", agent="writer").tool_call("writer", "c").tool_result("find", "f")
    talk = talk.role("writer", "r", private=True).note("n")
    talk = talk.summary("s", of=talk)
    assert {segment.kind for segment in talk.segments()} == set(SegmentKind)
    assert talk.last is not None and talk.parent is not None
    assert talk.last.refers == talk.parent.root

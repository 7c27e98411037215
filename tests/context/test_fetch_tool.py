"""The tool by which a model gets text back: one schema, distrust of requests, bounded answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import (
    ANSWER_BYTES,
    CONTEXT_TOOL_NAMES,
    CONTEXT_TOOLS,
    LAYOUTS,
    Context,
    Fetched,
    FetchStatus,
    Searched,
    TenantKey,
    canonical_tools,
    context_tools,
    reference,
)
from agentbus.context.excerpt import excerpt, search_lines
from agentbus.context.fetch_tool import (
    GetRequest,
    SearchRequest,
    read_request,
    write_fetched,
    write_searched,
)
from agentbus.engine.tools import tool_parameters

EMPTY = TenantKey(b"t" * 32).empty()
REF = "ctx:ab12cd34"
GOES_ON = re.compile(r"\[goes on: get ctx:ab12cd34 (lines|characters)=(\d+-\d+)\]")
HEAD = re.compile(r"\[ctx:ab12cd34 (lines|characters) \d+-\d+ of \d+\]")


def get(**arguments: object) -> GetRequest | SearchRequest | str:
    return read_request("context_get", {"ref": REF, **arguments})


def answered(text: str, **arguments: object) -> str:
    """Return what a model is answered about a text."""
    request = get(**arguments)
    assert isinstance(request, GetRequest)
    return write_fetched(request, excerpt(text, request.lines, request.characters))


def found(text: str, query: str) -> str:
    return write_searched(SearchRequest(REF, query), search_lines(text, query))


# --- the schema


def test_the_schema_is_one_text_in_its_canonical_form() -> None:
    assert canonical_tools(CONTEXT_TOOLS) == CONTEXT_TOOLS
    assert canonical_tools(context_tools()) == CONTEXT_TOOLS
    assert set(tool_parameters(context_tools())) == CONTEXT_TOOL_NAMES
    context_tools()[0]["function"]["name"] = "other"  # a copy, which is the caller's own
    assert canonical_tools(context_tools()) == CONTEXT_TOOLS


def test_the_tool_is_the_same_bytes_in_every_prompt() -> None:
    other = {"name": "aardvark", "parameters": {"type": "object"}}
    tools = CONTEXT_TOOLS.removeprefix("[").removesuffix("]")
    contexts = [
        EMPTY.tools(CONTEXT_TOOLS),
        EMPTY.role("a", "A").tools(context_tools()).user("x"),
        EMPTY.tools([other]).tools(CONTEXT_TOOLS),
        EMPTY.tools([*context_tools(), other]),
    ]
    for context in contexts:
        for layout in LAYOUTS.values():
            turns = layout.render(context.user("Go."), "a").turns
            assert sum(turn.text.count(tools) for turn in turns) == 1


# --- requests


def test_requests_are_read() -> None:
    assert get() == GetRequest(REF, None, None)
    assert get(lines="41-180") == GetRequest(REF, (41, 180), None)
    assert get(lines="7", characters=None) == GetRequest(REF, (7, 7), None)
    assert get(lines=7, characters="") == GetRequest(REF, (7, 7), None)
    assert get(characters="2001-98000") == GetRequest(REF, None, (2001, 98000))
    search = read_request("context_search", {"ref": REF, "query": "disk full"})
    assert search == SearchRequest(REF, "disk full")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("context_get", {}, "ref is missing"),
        ("context_get", {"ref": 12}, "ref is missing"),
        ("context_get", {"ref": "ctx:ab12cd34 lines=1-2"}, "ref is missing"),
        ("context_get", {"ref": ["ctx:ab12cd34"]}, "ref is missing"),
        ("context_get", {"ref": "\ud800"}, "ref is missing"),
        ("context_get", {"ref": REF, "line": "1-2"}, "takes ref, lines, characters"),
        ("context_get", {"ref": REF, "\ud800": 1}, "takes ref, lines, characters"),
        ("context_get", {"ref": REF, "lines": "2-1"}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": "0-1"}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": 0}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": -3}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": 10**5000}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": "9" * 5000}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": "١-٢"}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": "1-2\n"}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": [1, 2]}, "lines are written as"),
        ("context_get", {"ref": REF, "lines": {"a": 1}}, "lines are written as"),
        ("context_get", {"ref": REF, "characters": 1.5}, "characters are written as"),
        ("context_search", {"ref": REF}, "query takes 1 to 16 words"),
        ("context_search", {"ref": REF, "query": "  "}, "query takes 1 to 16 words"),
        ("context_search", {"ref": REF, "query": "a " * 17}, "query takes 1 to 16 words"),
        ("context_search", {"ref": REF, "query": ["a"]}, "query takes 1 to 16 words"),
        ("context_search", {"ref": REF, "query": "a", "lines": "1"}, "takes ref, query"),
        ("context_search", {"query": "a"}, "ref is missing"),
    ],
)
def test_a_malformed_request_is_answered_in_plain_words(
    name: str, arguments: Mapping[str, object], says: str
) -> None:
    answer = read_request(name, arguments)
    assert isinstance(answer, str)
    assert says in answer
    assert EMPTY.tool_result(name, answer).length == 1  # text that a context takes
    assert len(answer) < 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CONTEXT_TOOL_NAMES)),
    st.dictionaries(st.sampled_from(["ref", "lines", "characters", "query", "x"]), JSON)
    | st.fixed_dictionaries({"ref": st.just(REF), "lines": JSON, "query": JSON}),
)
def test_whatever_is_asked_there_is_an_answer(name: str, arguments: dict[str, object]) -> None:
    request = read_request(name, arguments)
    if isinstance(request, GetRequest):
        assert write_fetched(request, excerpt("a\nb", request.lines, request.characters))
    elif isinstance(request, SearchRequest):
        assert write_searched(request, search_lines("a\nb", request.query))
    else:
        assert EMPTY.tool_result(name, request).length == 1


# --- answers


def test_what_is_short_is_given_whole() -> None:
    text = "one\r\ntwo\nthree"
    assert answered(text) == f"[{REF} lines 1-3 of 3]\none\r\ntwo\nthree"
    assert answered(text, lines="2-9") == f"[{REF} lines 2-3 of 3]\ntwo\nthree"
    assert answered(text, characters="6-8") == f"[{REF} characters 6-8 of 14]\ntwo"
    assert answered("") == f"[{REF} lines 1-1 of 1]\n"


def test_beyond_the_end_the_size_is_said() -> None:
    says = f"[{REF} has 2 lines and 3 characters: nothing stands there]"
    assert answered("a\nb", lines="3-4") == answered("a\nb", characters="9-9") == says


def test_what_is_long_is_given_in_parts_and_says_how_to_go_on() -> None:
    text = "\n".join(f"{number:06}" for number in range(10_000))
    first = answered(text, lines="41-5000")
    assert first.startswith(f"[{REF} lines 41-1183 of 10000]\n000040\n")
    assert first.endswith(f"\n001182\n[goes on: get {REF} lines=1184-5000]")
    assert answered(text, lines="1184-1185") == f"[{REF} lines 1184-1185 of 10000]\n001183\n001184"


def test_a_line_that_just_fits_is_given_as_a_line() -> None:
    full = "x" * ANSWER_BYTES
    given = answered(f"{full}\nrest")
    assert given == f"[{REF} lines 1-1 of 2]\n{full}\n[goes on: get {REF} lines=2-2]"
    given = answered(f"{full}x\nrest")
    end = f"[goes on: get {REF} characters={ANSWER_BYTES + 1}-{ANSWER_BYTES + 6}]"
    head = f"[{REF} characters 1-{ANSWER_BYTES} of {ANSWER_BYTES + 6}]"
    assert given == f"{head}\n{full}\n{end}"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["", "short", "ä" * 3000, "𝔘" * 2001, "x" * 7999, "y" * 20_001]),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
def test_going_on_gives_all_of_it(lines: list[str], by_characters: bool) -> None:
    text = "\n".join(lines)
    asked = {"characters": f"1-{len(text)}"} if by_characters and text else {}
    got, answers = "", 0
    while True:
        answer = answered(text, **asked)
        answers += 1
        head, _, body = answer.partition("\n")
        opened = HEAD.fullmatch(head)
        assert opened
        given, _, tail = body.rpartition("\n")
        more = GOES_ON.fullmatch(tail) or GOES_ON.fullmatch(body)
        part = given if more else body
        assert len(part.encode()) <= ANSWER_BYTES
        assert len(answer.encode()) <= ANSWER_BYTES + 200
        got += part
        if not more:
            break
        if opened[1] == "lines":
            got += "\n"  # what stands between this part and the next
        asked = {more[1]: more[2]}
    assert got == text
    assert answers <= 2 + len(text.encode()) // (ANSWER_BYTES // 4) + text.count("\n")


def test_ten_megabytes_do_not_flood_a_window() -> None:
    for text in ("x" * 10_000_000, "line\n" * 2_000_000, "𝔘" * 2_500_000):
        assert len(answered(text).encode()) < ANSWER_BYTES + 200
        assert len(found(text.replace("x", "line x ", 1), "LINE").encode()) < ANSWER_BYTES + 200


def test_lines_are_found_with_their_numbers() -> None:
    text = "all is well\nError: disk full\nan error on DISK 2"
    assert found(text, "error disk") == (
        f"[lines of {REF} that hold all of these words]\n2: Error: disk full\n3: an error on DISK 2"
    )
    assert found(text, "tide") == f"[no line of {REF} holds all of these words; try fewer]"
    many = found("hit\n" * 21, "hit")
    assert many.splitlines()[20:] == ["20: hit", "[there are more: add a word]"]


def test_long_lines_are_found_around_the_words() -> None:
    text = "short\n" + "x" * 5000 + "needle" + "y" * 5000 + "\nneedle" + "z" * 300
    _, long, last = found(text, "NEEDLE").splitlines()
    assert long == "2 (characters 4967-5166): " + "x" * 40 + "needle" + "y" * 154
    assert answered(text, characters="4967-5166").endswith("\n" + "x" * 40 + "needle" + "y" * 154)
    assert last == f"3 (characters 10014-10213): needle{'z' * 194}"
    wide = "\n".join("𝔘" * 199 + "!" for _ in range(20))
    assert found(wide, "!").splitlines()[-1] == "[there are more: add a word]"
    assert len(found(wide, "!").splitlines()) == 2 + 9


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (FetchStatus.EXPIRED, "nothing that is kept has the reference ctx:ab12cd34"),
        (FetchStatus.NEVER, "nothing in this conversation has the reference ctx:ab12cd34"),
        (FetchStatus.FORBIDDEN, "ctx:ab12cd34 is not for you to read"),
    ],
)
def test_each_status_has_its_words(status: FetchStatus, says: str) -> None:
    assert says in write_fetched(GetRequest(REF, None, None), Fetched(status))
    assert says in write_searched(SearchRequest(REF, "x"), Searched(status))


def test_an_answer_is_the_same_text_in_each_prompt() -> None:
    """What was asked for comes as it is, whatever it holds."""
    text = '[lines 1-2 left out here]\n<tool_call>\n{"name": "x"}\n\x00\u2028'
    context: Context = EMPTY.document(text)
    ref = reference(context.segments()[0], context)
    request = read_request("context_get", json.loads(json.dumps({"ref": ref})))
    assert isinstance(request, GetRequest)
    assert write_fetched(request, context.fetch(ref)).endswith("\n" + text)

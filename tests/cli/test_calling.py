"""Which of an agent's handlers a JSON value is for, and what of the answer is printed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agentbus import Agent, Bus, Call, handler
from agentbus.cli.calling import choose_handler, run_call
from agentbus.cli.keys import Join
from agentbus.client.agent import handlers_of
from agentbus.errors import ConfigError, NoHandler
from agentbus.ops.describe import describe_handlers


class Point(BaseModel):
    x: int
    y: int = 0


class Line(BaseModel):
    x: int
    z: int


class Node(BaseModel):
    children: list[Node] = []


class Drawer(Agent):
    @handler
    async def point(self, what: Point | Line, call: Call) -> None:
        pass

    @handler
    async def text(self, what: str, call: Call) -> None:
        pass

    @handler
    async def many(self, what: list[int], call: Call) -> None:
        pass

    @handler
    async def yes(self, what: bool, call: Call) -> None:
        pass


HANDLERS = describe_handlers(tuple(handlers_of(Drawer).values()))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"x": 1}, "Point"),
        ({"x": 1, "y": 2}, "Point"),
        ({"x": "not a number, which the agent says"}, "Point"),
        ({"x": 1, "z": 2}, "Line"),
        ("hello", "str"),
        ([1], "list"),
        (True, "bool"),
    ],
)
def test_the_only_one_that_fits(value: Any, name: str) -> None:
    assert choose_handler("drawer", HANDLERS, value, "").accepts == name


@pytest.mark.parametrize("value", [{}, {"q": 1}, {"x": 1, "y": 2, "z": 3}, 1, 1.5, None])
def test_a_value_that_fits_nothing_is_told_what_would(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"fits nothing .* Point \{x, y\?\}; Line \{x, z\}; "
    ) as e:
        choose_handler("drawer", sorted(HANDLERS, key=lambda h: -len(h.schema)), value, "")
    assert "'drawer'" in str(e.value)


def test_a_type_that_is_named() -> None:
    assert choose_handler("drawer", HANDLERS, {"x": 1, "z": 1}, "Point").accepts == "Point"
    with pytest.raises(NoHandler, match=r"Circle; it handles .*Point, Line"):
        choose_handler("drawer", HANDLERS, 1, "Circle")


def test_several_that_fit_are_named() -> None:
    both = [h for h in HANDLERS if h.accepts in ("Point", "str")]
    twice = [*both, both[0]]
    value = {"x": 1} if both[0].accepts == "Point" else "text"
    with pytest.raises(ConfigError, match="fits several types of 'drawer'; name one: "):
        choose_handler("drawer", twice, value, "")


def test_a_type_whose_schema_refers_to_itself_may_fit_anything() -> None:
    class Tree(Agent):
        @handler
        async def node(self, what: Node, call: Call) -> None:
            pass

    handlers = describe_handlers(tuple(handlers_of(Tree).values()))
    assert choose_handler("tree", handlers, {"children": []}, "").accepts == "Node"


@pytest.mark.parametrize("schema", ["", "no JSON", "[]", '{"type": ["string", "null"]}'])
def test_a_schema_that_says_nothing_may_fit_anything(schema: str) -> None:
    handlers = [replace(HANDLERS[0], accepts="Odd", schema=schema)]
    assert choose_handler("odd", handlers, {"x": 1}, "").accepts == "Odd"


class Echo(Agent):
    @handler
    async def echo(self, text: str, call: Call) -> str:
        return text


@pytest.mark.anyio
@pytest.mark.parametrize("terminal", [True, False])
async def test_an_answer_is_no_command_to_a_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def join(command: str) -> AsyncIterator[Bus]:
        async with Bus.open() as bus:
            await bus.spawn(Echo, name="echo")
            yield bus

    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    text, kind = r'"\u001b[2J\ta\n"', "builtins:str"
    await run_call(cast(Join, join), "echo", text, kind=kind, deadline=5, stream=False, json=False)
    assert capsys.readouterr().out == ("\u241b" if terminal else "\x1b") + "[2J\ta\n\n"

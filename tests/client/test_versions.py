"""Older and newer versions of a message, and different types of one name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from agentbus import Agent, Call, handler
from agentbus.client.payload import payload_type
from agentbus.client.types import TypeTable
from agentbus.errors import InvalidMessage

from .conftest import Pair

pytestmark = pytest.mark.anyio


def version(**fields: Any) -> type[BaseModel]:
    """A version of one message, as another release of a program has it."""
    namespace = {
        "__annotations__": {name: kind for name, (kind, _) in fields.items()},
        "__module__": __name__,
        **{name: default for name, (_, default) in fields.items() if default is not ...},
    }
    return type("Order", (BaseModel,), namespace)


Old = version(item=(str, ...))
New = version(item=(str, ...), count=(int, 1))
Breaking = version(item=(str, ...), customer=(str, ...))


class OldTaker(Agent):
    @handler
    async def take(self, order: Old, call: Call) -> str:  # type: ignore[valid-type]
        return repr(order)


class NewTaker(Agent):
    @handler
    async def take(self, order: New, call: Call) -> str:  # type: ignore[valid-type]
        return repr(order)


class BreakingTaker(Agent):
    @handler
    async def take(self, order: Breaking, call: Call) -> str:  # type: ignore[valid-type]
        return repr(order)


def test_versions_and_namesakes_have_names_of_their_own() -> None:
    schemas = {payload_type(kind).schema for kind in (Old, New, Breaking)}
    assert len(schemas) == 3
    assert {payload_type(kind).name for kind in (Old, New, Breaking)} == {"Order"}
    assert payload_type(Old).schema == payload_type(version(item=(str, ...))).schema
    assert payload_type(str).schema == "str"
    assert all(len(schema) == len("Order") + 5 for schema in schemas)


@pytest.mark.promise("own.version")
async def test_a_receiver_reads_what_it_can(pair: Pair) -> None:
    async with pair.with_agent(NewTaker()) as bus:
        assert await bus.request("echo", Old(item="pen")) == "Order(item='pen', count=1)"
    async with pair.with_agent(OldTaker()) as bus:
        assert await bus.request("echo", New(item="pen", count=2)) == "Order(item='pen')"


@pytest.mark.promise("own.version")
async def test_what_it_cannot_read_is_a_typed_error(pair: Pair) -> None:
    async with pair.with_agent(BreakingTaker()) as bus:
        with pytest.raises(InvalidMessage, match="customer"):
            await bus.request("echo", Old(item="pen"))


async def test_namesakes_are_told_apart_by_their_form() -> None:
    table = TypeTable()
    assert table.find(payload_type(New).schema).kind is New
    assert table.find(payload_type(Old).schema).kind is Old
    with pytest.raises(InvalidMessage, match="several types"):
        table.find("Order#none")
    with pytest.raises(InvalidMessage, match="no type"):
        table.find("Nothing#none")
    table.declare(payload_type(Breaking))
    assert table.find("Order#none").kind is Breaking

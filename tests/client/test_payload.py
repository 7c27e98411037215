from __future__ import annotations

import datetime
import decimal
import uuid
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, field_validator

from agentbus.client.payload import payload_type
from agentbus.errors import InvalidMessage


class Open(BaseModel):
    words: list[str]
    raw: bytes = b""


class Flat(BaseModel):
    number: int
    text: str


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    number: int
    pair: tuple[str, int] = ("a", 1)


class FrozenOutside(BaseModel):
    model_config = ConfigDict(frozen=True)
    words: list[str]


@dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclass
class Rich:
    when: datetime.datetime
    who: uuid.UUID
    much: decimal.Decimal


@pytest.mark.parametrize(
    "value",
    [
        Open(words=["a"], raw=b"\x00\xff"),
        Flat(number=-3, text="é"),
        Frozen(number=1),
        Point(0.5, float("inf")),
        Rich(
            datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
            uuid.UUID(int=7),
            decimal.Decimal("0.10"),
        ),
        "text",
        b"bytes",
        7,
        None,
        [1, "two", None],
        {"a": [1.5]},
    ],
    ids=lambda v: type(v).__name__,
)
def test_round_trip(value: Any) -> None:
    kind = payload_type(type(value))
    assert kind.decode(kind.encode(value)) == value


def test_mutable_objects_are_copied_and_immutable_ones_shared() -> None:
    mutable: list[Any] = [Open(words=["a"]), Flat(number=1, text=""), FrozenOutside(words=["a"])]
    for value in (*mutable, [1], {}):
        received = payload_type(type(value)).receive(value)
        assert received == value
        assert received is not value
    for shared in (Frozen(number=1), Point(1, 2), "s", b"b", 3, None):
        assert payload_type(type(shared)).receive(shared) is shared


@pytest.mark.promise("own.copy")
def test_nothing_mutable_is_shared_below_the_surface() -> None:
    value = FrozenOutside(words=["a"])
    received = payload_type(FrozenOutside).receive(value)
    received.words.append("b")
    assert value.words == ["a"]


def test_what_is_wrong_is_named_and_how_much_more() -> None:
    with pytest.raises(InvalidMessage, match=r"^Flat: number: .* valid integer$"):
        payload_type(Flat).decode((msgpack.packb({"number": [], "text": "x"}),))
    with pytest.raises(InvalidMessage, match=r"^Flat: number: .* \(and 1 more\)$"):
        payload_type(Flat).decode((msgpack.packb({}),))


def test_another_type_is_converted_as_the_wire_would() -> None:
    assert payload_type(Flat).receive({"number": "5", "text": "x"}) == Flat(number=5, text="x")
    with pytest.raises(InvalidMessage, match="number"):
        payload_type(Flat).receive(Point(1, 2))


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x93\x01", msgpack.packb({"number": 1})])
def test_bad_bytes_are_a_typed_error(frame: bytes) -> None:
    with pytest.raises(InvalidMessage):
        payload_type(Flat).decode((frame,))


def test_what_cannot_be_sent_says_so() -> None:
    with pytest.raises(InvalidMessage, match="cannot be sent"):
        payload_type(type(lambda: None))
    with pytest.raises(InvalidMessage, match="cannot be written"):
        payload_type(int).encode(2**80)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_a_typed_error(frame: bytes) -> None:
    for kind in (Open, Flat, Point):
        try:
            payload_type(kind).decode((frame,))
        except InvalidMessage:
            continue


class Stubborn(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        return {1: 1}[number]


def test_what_a_validator_raises_is_the_messages_fault() -> None:
    kind = payload_type(Stubborn)
    with pytest.raises(InvalidMessage, match="KeyError"):
        kind.decode((msgpack.packb({"number": 2}),))


class Partial(BaseModel):
    tags: list[str] = []
    note: str = ""


def test_a_copy_is_as_pydantic_would_make_it() -> None:
    sent = Partial(tags=["a"])
    received = payload_type(Partial).receive(sent)
    assert received == sent
    assert received.tags is not sent.tags
    assert received.model_fields_set == {"tags"}
    received.note = "changed"
    assert sent.note == ""
    assert sent.model_fields_set == {"tags"}
    assert received.model_copy(deep=True) == received

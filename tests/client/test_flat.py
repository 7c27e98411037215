"""Models written without pydantic's serializer are written as it would."""

from __future__ import annotations

from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.client.flat import flat_dump, is_atom
from agentbus.client.payload import payload_type
from agentbus.errors import InvalidMessage
from agentbus.wire import join_batch


class Flat(pydantic.BaseModel):
    text: str
    count: int = 3
    share: float | None = None
    flags: list[bool] = []
    words: dict[str, list[int]] = pydantic.Field(default_factory=dict, max_length=9)


class Cached(pydantic.BaseModel):
    text: str

    @cached_property
    def size(self) -> int:
        return len(self.text)


class Renamed(pydantic.BaseModel):
    text: str = pydantic.Field(serialization_alias="body")


class Hidden(pydantic.BaseModel):
    text: str
    secret: str = pydantic.Field("s", exclude=True)


class Written(pydantic.BaseModel):
    text: str

    @pydantic.field_serializer("text")
    def shout(self, text: str) -> str:
        return text.upper()


class Whole(pydantic.BaseModel):
    text: str

    @pydantic.model_serializer
    def whole(self) -> dict[str, Any]:
        return {"all": self.text}


class Computed(pydantic.BaseModel):
    text: str

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return len(self.text)


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    text: str


class Nested(pydantic.BaseModel):
    text: str
    flat: Flat = Flat(text="inner")


class Dated(pydantic.BaseModel):
    text: str
    day: date = date(2026, 1, 2)


class Chosen(pydantic.BaseModel):
    text: Literal["a"]


class Root(pydantic.RootModel[list[str]]):
    pass


def is_flat(kind: type) -> bool:
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
    dump = adapter.serializer.to_python
    return flat_dump(adapter, dump) is not dump


@given(
    st.builds(
        Flat,
        text=st.text(),
        count=st.integers(-(2**63), 2**63 - 1),
        share=st.none() | st.floats(allow_nan=False),
        flags=st.lists(st.booleans()),
        words=st.dictionaries(st.text(), st.lists(st.integers(0, 9)), max_size=9),
    )
)
def test_a_flat_model_is_written_as_pydantic_would(value: Flat) -> None:
    kind = payload_type(Flat)
    assert is_flat(Flat)
    assert kind._dump(value) is value.__dict__
    assert kind._dump(value) == value.model_dump()
    assert kind.decode(kind.encode(value)) == value


@pytest.mark.parametrize(
    "kind",
    [Renamed, Hidden, Written, Whole, Computed, Open, Nested, Dated, Chosen, Root, dict, bytes],
)
def test_what_says_more_about_its_form_is_left_to_pydantic(kind: type) -> None:
    assert not is_flat(kind)


@given(
    st.text()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
def test_a_plain_value_is_written_as_it_is_and_read_if_it_is_of_the_type(value: object) -> None:
    kind = payload_type(type(value))
    assert is_atom(pydantic.TypeAdapter(type(value)))
    batch = join_batch([frame for (frame,) in (kind.encode(each) for each in (value, value))])
    assert kind.decode_batch((batch,)) == [value, value]


def test_a_batch_of_plain_values_is_checked() -> None:
    with pytest.raises(InvalidMessage, match="str"):
        payload_type(str).decode_batch((join_batch([msgpack.packb("a"), msgpack.packb([1])]),))
    assert payload_type(float).decode_batch((join_batch([msgpack.packb(1)]),)) == [1.0]
    assert not is_atom(pydantic.TypeAdapter(Annotated[str, pydantic.Field(max_length=3)]))


def test_what_is_cached_beside_the_fields_is_not_sent() -> None:
    value = Cached(text="four")
    assert value.size == 4
    assert payload_type(Cached)._dump(value) == {"text": "four"}


def test_a_field_that_was_left_out_is_not_made_up() -> None:
    value = Flat.model_construct(text="t", _fields_set=set())
    del value.__dict__["share"]
    assert payload_type(Flat)._dump(value) == value.model_dump()


def test_what_is_no_plain_value_after_all_is_written_as_before() -> None:
    value = Flat(text="t")
    value.words = {"day": [date(2026, 1, 2)]}  # type: ignore[list-item]
    with pytest.raises(Exception, match="valid integer"):
        payload_type(Flat).decode(payload_type(Flat).encode(value))

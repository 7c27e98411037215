"""Arrays, tensors and large bytes in payloads: what they are after a trip, and whose memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from agentbus.client.payload import payload_type
from agentbus.client.types import TypeTable
from agentbus.config import Limits
from agentbus.errors import InvalidMessage
from agentbus.messages import Envelope, Kind
from agentbus.wire import Decoder, buffers, encode

ARRAYS = [name for name in buffers._ITEM_BYTES if name != "bfloat16"]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (0, 4), (2, 3), (2, 1, 5)]
LARGE = 64 * 1024


class Batch(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str
    array: np.ndarray[Any, Any]
    tensors: dict[str, list[torch.Tensor]] = {}
    raw: bytes = b""
    rest: Any = None


@dataclass
class Sample:
    pair: tuple[np.ndarray[Any, Any], torch.Tensor]
    view: memoryview


def round_trip(value: Any) -> Any:
    kind = payload_type(type(value))
    return kind.decode(kind.encode(value))


def same_array(one: Any, other: Any) -> bool:
    return (
        type(one) is type(other) is np.ndarray
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.tobytes() == other.tobytes()
    )


def same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ARRAYS)
def test_arrays_of_all_kinds(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    received = round_trip(array)
    assert same_array(received, array)
    assert not received.flags.writeable


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", buffers._ITEM_BYTES)
def test_tensors_of_all_kinds(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape, dtype=int))
    tensor = torch.arange(count).to(getattr(torch, dtype)).reshape(shape)
    received = round_trip(tensor)
    assert same_tensor(received, tensor)
    assert not received.requires_grad


@given(st.data())
def test_any_strides(data: st.DataObject) -> None:
    base = np.arange(4 * 6 * 5, dtype=data.draw(st.sampled_from(["<i4", ">i4", "<f2"])))
    array = base.reshape(4, 6, 5).transpose(data.draw(st.permutations(range(3))))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1])] * 3))
    array = array[tuple(slice(None, None, step) for step in steps)]
    assert np.array_equal(round_trip(array), array)
    if min(steps) > 0 and base.dtype.isnative:
        tensor = torch.from_numpy(array)
        assert same_tensor(round_trip(tensor), tensor)


def test_nested_in_models_and_dataclasses() -> None:
    raw = bytes(LARGE)
    batch = Batch(
        name="n",
        array=np.arange(6.0).reshape(2, 3),
        tensors={"a": [torch.ones(2), torch.zeros(0)]},
        raw=raw,
        rest=[
            np.array([1, 2], np.int8),
            {"b": bytearray(b"xy")},
            (memoryview(b"zw"), raw),
            7,
            None,
            "s",
        ],
    )
    kind = payload_type(Batch)
    frames = kind.encode(batch)
    assert len(frames) == 9
    assert len(frames[0]) < 512
    received = kind.decode(frames)
    assert same_array(received.array, batch.array)
    assert same_tensor(received.tensors["a"][0], torch.ones(2))
    assert received.raw == raw
    small, dictionary, inner, *scalars = received.rest
    assert same_array(small, np.array([1, 2], np.int8))
    assert (type(dictionary["b"]), dictionary["b"]) == (bytearray, b"xy")
    assert (type(inner[0]), bytes(inner[0]), inner[1]) == (memoryview, b"zw", raw)
    assert scalars == [7, None, "s"]
    sample = Sample((np.ones(1), torch.ones(1)), memoryview(b"v"))
    again = round_trip(sample)
    assert same_array(again.pair[0], sample.pair[0])
    assert again.view.readonly


def test_frames_view_the_senders_memory_and_received_arrays_the_frames() -> None:
    array = np.arange(1000)
    kind = payload_type(np.ndarray)
    frames = kind.encode(array)
    assert np.shares_memory(np.frombuffer(frames[1], dtype=np.int64), array)
    assert np.shares_memory(kind.decode(frames), array)
    tensor = torch.arange(1000)
    kind = payload_type(torch.Tensor)
    assert kind.decode(kind.encode(tensor)).data_ptr() == tensor.data_ptr()


def test_small_messages_have_one_frame_and_its_old_form() -> None:
    for value in ([1, "a", {"b": None}], b"x" * (LARGE - 1), {"k": b"v"}):
        assert payload_type(type(value)).encode(value) == (msgpack.packb(value),)


def test_an_unaligned_frame_is_copied_where_it_must_be() -> None:
    memory = bytearray(8 * 4 + 1)
    frame = memoryview(memory)[1:].toreadonly()
    for kind, aligned in ((np.ndarray, np.zeros(4)), (torch.Tensor, torch.zeros(4).double())):
        payload = payload_type(kind)
        received = payload.decode((payload.encode(aligned)[0], frame))
        assert received.sum() == 0
        address = received.ctypes.data if kind is np.ndarray else received.data_ptr()
        assert address % 8 == 0


@pytest.mark.filterwarnings("error")
def test_a_received_tensor_can_be_written_and_harms_no_constant() -> None:
    for size in (1, LARGE):
        tensor = torch.ones(size, dtype=torch.uint8)
        kind = payload_type(torch.Tensor)
        frames = kind.encode(tensor)
        received = kind.decode((frames[0], bytes(frames[1])))
        received += 1
        assert int(received[0]) == 2
    assert bytes([1])[0] == 1


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(2, dtype="datetime64[s]"),
        np.ma.masked_array([1], [True]),
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
    ],
    ids=["objects", "texts", "records", "times", "masked", "nowhere", "sparse"],
)
def test_what_is_not_dense_and_plain_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMessage, match="be sent"):
        payload_type(list).encode([value])


def test_parameters_and_lazy_conjugates_travel_as_what_they_say() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    conjugate = torch.tensor([1 + 2j]).conj()
    received = round_trip([parameter, conjugate])
    assert same_tensor(received[0], torch.ones(2))
    assert complex(received[1][0]) == 1 - 2j


def reference(*fields: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(1, msgpack.packb(fields)))
    return packed


@pytest.mark.parametrize(
    "frames",
    [
        (reference(1, "numpy", "int8", (3,)), b"1234"),
        (reference(1, "numpy", "int8", (2, 2)), b"1234", b"left over"),
        (reference(2, "numpy", "int8", (4,)), b"1234"),
        (reference(0, "numpy", "int8", (4,)), b"1234"),
        (reference(1, "numpy", "bfloat16", (2,)), b"1234"),
        (reference(1, "numpy", "object", (4,)), b"1234"),
        (reference(1, "numpy", "int8", (-1, -4)), b"1234"),
        (reference(1, "numpy", "int8", (True,)), b"1"),
        (reference(1, "numpy", "int8", (0, 2**62, 2**62)), b""),
        (reference(1, "torch", "int8", (0, 2**62, 2**62)), b""),
        (reference(1, "numpy", "int8", (1,) * 33), b"1"),
        (reference(1, "torch", "int8", (5,)), b"1234"),
        (reference(1, "torch", "__class__", (4,)), b"1234"),
        (reference(1, "pickle", "int8", (4,)), b"1234"),
        (reference(1, "numpy", "int8"), b"1234"),
        (reference("1", "numpy", "int8", (4,)), b"1234"),
        (msgpack.packb(msgpack.ExtType(1, b"\xc1")), b"1234"),
        (msgpack.packb(msgpack.ExtType(2, b"")), b"1234"),
        (b"\x92" + 2 * reference(1, "numpy", "int8", (4,)), b"1234"),
        (b"\xc1", b"1234"),
    ],
    ids=repr,
)
def test_forged_references_are_typed_errors(frames: tuple[bytes, ...]) -> None:
    for kind in (np.ndarray, torch.Tensor, list):
        with pytest.raises(InvalidMessage):
            payload_type(kind).decode(frames)


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=3))
def test_random_frames_are_a_value_or_a_typed_error(frames: list[bytes]) -> None:
    for first in (frames[0], msgpack.packb(msgpack.ExtType(1, frames[0]))):
        try:
            payload_type(list).decode((first, *frames[1:]))
        except InvalidMessage:
            continue


def test_many_buffers_fit_one_message() -> None:
    arrays = [np.full(10, number) for number in range(200)]
    envelope = Envelope(Kind.REQUEST, 1, payloads=payload_type(list).encode(arrays))
    limits = Limits()
    (received,) = Decoder(limits).feed(b"".join(encode(envelope, limits)))
    decoded = payload_type(list).decode(received.payloads)
    assert all(same_array(*pair) for pair in zip(decoded, arrays, strict=True))


def test_within_a_process_buffers_are_copied() -> None:
    batch = Batch(name="n", array=np.zeros(2), tensors={"a": [torch.zeros(2)]})
    received = payload_type(Batch).receive(batch)
    received.array[0] = received.tensors["a"][0][0] = 1
    assert batch.array[0] == batch.tensors["a"][0][0] == 0
    converted = payload_type(Batch).receive({"name": "n", "array": batch.array})
    assert not np.shares_memory(converted.array, batch.array)
    memory = bytearray(b"ab")
    view = payload_type(memoryview).receive(memoryview(memory))
    memory[0] = 0
    assert bytes(view) == b"ab"


def test_what_cannot_be_copied_is_a_typed_error() -> None:
    with pytest.raises(InvalidMessage, match="cannot be copied"):
        payload_type(list).receive([torch.ones(1, requires_grad=True) * 2])


def test_types_by_name() -> None:
    types = TypeTable()
    assert types.find("ndarray").kind is np.ndarray
    assert types.find("Tensor").kind is torch.Tensor
    assert types.find("memoryview").kind is memoryview


@dataclass
class Unsendable:
    array: np.ndarray[Any, Any]
    other: Limits
    lock: subprocess.Popen[bytes]


def test_other_foreign_types_are_still_refused_early() -> None:
    with pytest.raises(InvalidMessage, match="cannot be sent"):
        payload_type(Unsendable)


def test_the_libraries_are_not_imported_until_an_array_comes() -> None:
    frames = payload_type(np.ndarray).encode(np.array([1, 2], np.int8))
    code = f"""
import sys, agentbus
from agentbus.client.payload import payload_type
payload_type(dict).decode(payload_type(dict).encode({{"a": bytes(70000), "b": {{1}}}}))
assert "numpy" not in sys.modules and "torch" not in sys.modules
frames = ({frames[0]!r}, b"12")
assert payload_type(list).decode((b"\\x91" + frames[0], frames[1]))[0].tolist() == [49, 50]
for name in [n for n in sys.modules if n.partition(".")[0] == "numpy"]: del sys.modules[name]
sys.modules["numpy"] = None
try: payload_type(list).decode(frames)
except agentbus.errors.InvalidMessage as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "numpy: is not installed in the process that received it\n"

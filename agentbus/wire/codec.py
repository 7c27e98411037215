"""Envelopes to bytes and back. Owns the layout of a frame; what may follow what is `session`'s.

    frame  = size:u32  header_size:u16  header  context  payload*       (numbers big-endian)
    header = msgpack [kind, id, source, target, schema, credit, remaining_us, hops_left, trace,
                      context_size, [payload_size*], budget?]

`budget`, [tokens, billionths of a unit of cost], stands there for requests that have one.

In place of a size, [arena, offset, size, generation] refers to a payload in shared memory.
`size` counts all that follows it. Context and payloads stand behind the header as they are: they
are never encoded again. A header has exactly these fields; what a later version adds is refused
here, since both sides agreed on one version before.

What `Encoder` accepts, a `Decoder` with the same limits gives back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeGuard

import msgpack

from ..config import Limits
from ..errors import (
    FrameTooLarge,
    InvalidMessage,
    InvalidName,
    MalformedFrame,
    ProtocolError,
    TooLarge,
)
from ..messages import Envelope, Kind
from ..names import MAX_NAME_LENGTH
from .bounded import unpack
from .shared import NO_SHARING, Reference, read_reference

__all__ = ["MAX_TEXT", "Buffer", "Decoder", "Encoder", "encode", "unpack"]

Buffer = bytes | memoryview
_Bytes = bytes | bytearray | memoryview

MAX_TEXT: Final = 2 * MAX_NAME_LENGTH + 1
"""Longest source, target or schema, in characters: a name, a slash and a key."""

_PREFIX: Final = struct.Struct(">IH")
_SIZE_OF_PREFIX: Final = _PREFIX.size
_unpack_prefix = _PREFIX.unpack_from
_SIZE_OF_SIZE: Final = 4
_SIZE_OF_HEADER_SIZE: Final = 2
_MAX_HEADER: Final = 0xFFFF
_MAX_INT: Final = 2**63 - 1
_SCRATCH: Final = 512
"""Bytes that a packer begins with; its own default is 256 KiB, for every link."""
_TRACE_SIZES: Final = (0, 24)
_MAX_BUDGET: Final = 2**62
_JOINED: Final = 64 * 1024
"""Frames up to this size are one buffer: copying it costs less than a second buffer's write."""
_VIEWED: Final = 64 * 1024
"""Payloads from this size are views into the buffer that they arrived in, not copies."""

_KINDS: Final = {kind.value: kind for kind in Kind}
_FIELDS: Final = (
    ("kind", int),
    ("id", int),
    ("source", str),
    ("target", str),
    ("schema", str),
    ("credit", int),
    ("remaining_us", int),
    ("hops_left", int),
    ("trace", bytes),
    ("context size", int),
    ("payload sizes", tuple),
)


class Encoder:
    """Makes frames for one link. Keeps no more than a scratch buffer between calls."""

    __slots__ = ("_frame_limit", "_header_limit", "_pack", "_payload_limit")

    def __init__(self, limits: Limits) -> None:
        self._frame_limit = limits.frame
        self._header_limit = min(limits.header, _MAX_HEADER)
        self._payload_limit = limits.payloads
        self._pack = msgpack.Packer(buf_size=_SCRATCH).pack

    def encode(self, envelope: Envelope) -> list[Buffer]:
        """Return the frame as one buffer or, if it is large, as several to be sent in order.

        Large payloads are handed on, not copied: they must not change until they are sent.

        Raises:
            TooLarge: the message or a name in it is over a limit.
            InvalidName: a name is not ASCII.
            InvalidMessage: a number, the trace or a payload is not one that can be sent.
        """
        id_, remaining_us, hops_left = envelope.id, envelope.remaining_us, envelope.hops_left
        source, target, schema = envelope.source, envelope.target, envelope.schema
        trace, context = envelope.trace, envelope.context
        names = source + target + schema  # one look at all three; `_check` looks at each
        if not (
            len(names) <= MAX_TEXT
            and names.isascii()
            and 0 <= id_ <= _MAX_INT
            and 0 <= envelope.credit <= _MAX_INT
            and -1 <= remaining_us <= _MAX_INT
            and 0 <= hops_left <= _MAX_INT
            and len(trace) in _TRACE_SIZES
        ):
            _check(envelope)
        bodies: list[Buffer] = []
        sizes: list[int | tuple[str, int, int, int]] = []
        size = len(context)
        for body in envelope.payloads:
            if type(body) is not bytes:
                if type(body) is Reference:
                    sizes.append(body.pack())
                    continue
                body = _flat(body)
            bodies.append(body)
            sizes.append(len(body))
            size += len(body)
        fields: tuple[Any, ...] = (
            envelope.kind,
            id_,
            source,
            target,
            schema,
            envelope.credit,
            remaining_us,
            hops_left,
            trace,
            len(context),
            sizes,
        )
        if envelope.budget is not None:
            fields = (*fields, _check_budget(envelope.budget))
        header: bytes = self._pack(fields)
        header_size = len(header)
        size += _SIZE_OF_HEADER_SIZE + header_size
        if (
            size > self._frame_limit
            or header_size > self._header_limit
            or len(sizes) > self._payload_limit
        ):
            self._refuse(header_size, len(sizes), size)
        prefix = _PREFIX.pack(size, header_size)
        if size <= _JOINED:
            return [b"".join((prefix, header, context, *bodies))]
        return [prefix + header, *(body for body in (context, *bodies) if len(body))]

    def _refuse(self, header: int, payloads: int, frame: int) -> NoReturn:
        if payloads > self._payload_limit:
            problem = f"{payloads} payload frames are over the limit of {self._payload_limit}"
            raise InvalidMessage("envelope", problem)
        if header > self._header_limit:
            raise TooLarge("the message's header", header, self._header_limit)
        raise TooLarge("the message", frame, self._frame_limit)


def encode(envelope: Envelope, limits: Limits) -> list[Buffer]:
    """Encode one envelope without keeping an `Encoder`; see there for result and errors."""
    return Encoder(limits).encode(envelope)


def _check(envelope: Envelope) -> None:
    for text in (envelope.source, envelope.target, envelope.schema):
        if len(text) > MAX_TEXT:
            raise TooLarge("a name in the message", len(text), MAX_TEXT)
        if not text.isascii():
            raise InvalidName(text, "only ASCII characters can be sent")
    if (
        0 <= envelope.id <= _MAX_INT
        and 0 <= envelope.credit <= _MAX_INT
        and -1 <= envelope.remaining_us <= _MAX_INT
        and 0 <= envelope.hops_left <= _MAX_INT
        and len(envelope.trace) in _TRACE_SIZES
    ):
        return
    raise InvalidMessage(
        "envelope",
        f"out of range: id {envelope.id}, credit {envelope.credit}, remaining_us {envelope.remaining_us}, "
        f"hops_left {envelope.hops_left} or a trace of {len(envelope.trace)} bytes",
    )


def _check_budget(budget: object) -> tuple[int, int]:
    if not _is_budget(budget):
        raise InvalidMessage("envelope", f"a budget of {budget!r}")
    return budget


def _is_budget(budget: object) -> TypeGuard[tuple[int, int]]:
    return (
        isinstance(budget, tuple)
        and len(budget) == 2
        and all(type(amount) is int and 0 <= amount <= _MAX_BUDGET for amount in budget)
    )


def _flat(buffer: Buffer) -> memoryview:
    """View any contiguous buffer, such as a tensor's, as its bytes."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise InvalidMessage("memoryview", "a payload must be contiguous")
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view


class Decoder:
    """Takes one peer's bytes in any pieces and gives its envelopes.

    Holds at most one incomplete frame, hence at most `limits.frame` bytes and 4, and looks at
    each byte once.
    """

    __slots__ = (
        "_frame_limit",
        "_header_limit",
        "_item_limit",
        "_need",
        "_payload_limit",
        "_pending",
        "_resolve",
        "error",
    )

    def __init__(
        self, limits: Limits, resolve: Callable[[Reference], memoryview] = NO_SHARING.resolve
    ) -> None:
        self._resolve = resolve
        self._frame_limit = limits.frame
        self._header_limit = limits.header
        self._payload_limit = limits.payloads
        self._item_limit = max(len(_FIELDS) + 1, limits.payloads)
        self._pending = bytearray()
        self._need = 0
        """Size of the frame that is pending; 0 while its prefix is incomplete."""
        self.error: ProtocolError | None = None
        """What was wrong with the peer's bytes, once something was."""

    def feed(self, data: _Bytes) -> list[Envelope]:
        """Return the envelopes that `data` completes.

        Good frames are not lost to a bad one behind them: they are returned, the error stands in
        `error`, and the next call raises it. After an error nothing more can be read.

        Raises:
            FrameTooLarge: a frame announces more than a limit allows.
            MalformedFrame: anything else is wrong.
        """
        if self.error is not None:
            raise self.error
        envelopes: list[Envelope] = []
        try:
            offset = self._continue(memoryview(data), envelopes) if self._pending else 0
            end = len(data)
            while end - offset >= _SIZE_OF_PREFIX:
                size, header_size = _unpack_prefix(data, offset)
                if (
                    size > self._frame_limit
                    or header_size > self._header_limit
                    or header_size > size - _SIZE_OF_HEADER_SIZE
                ):
                    self._refuse_prefix(size, header_size)
                frame_end = offset + _SIZE_OF_SIZE + size
                if frame_end > end:
                    self._need = frame_end - offset
                    break
                envelopes.append(self._parse(data, offset, header_size, frame_end))
                offset = frame_end
            if offset < end:
                self._pending += memoryview(data)[offset:]
        except ProtocolError as error:
            self.error = error
            self._pending = bytearray()
            if not envelopes:
                raise
        return envelopes

    def _continue(self, data: memoryview, into: list[Envelope]) -> int:
        """Go on with the pending frame. Returns how many bytes of `data` belong to it."""
        pending = self._pending
        taken = 0
        if not self._need:
            taken = min(_SIZE_OF_PREFIX - len(pending), len(data))
            pending += data[:taken]
            if len(pending) < _SIZE_OF_PREFIX:
                return taken
            self._need = _SIZE_OF_SIZE + self._read_prefix(pending, 0)[0]
        rest = data[taken : taken + self._need - len(pending)]
        pending += rest
        if len(pending) == self._need:
            # Large payloads stay views into this buffer, so the next frame gets another.
            self._pending = bytearray()
            self._need = 0
            header_size = self._read_prefix(pending, 0)[1]
            into.append(self._parse(pending, 0, header_size, len(pending)))
        return taken + len(rest)

    def _read_prefix(self, data: _Bytes, offset: int) -> tuple[int, int]:
        size, header = prefix = _unpack_prefix(data, offset)
        if (
            size > self._frame_limit
            or header > self._header_limit
            or header > size - _SIZE_OF_HEADER_SIZE
        ):
            self._refuse_prefix(size, header)
        return prefix

    def _refuse_prefix(self, size: int, header: int) -> NoReturn:
        if size > self._frame_limit:
            raise FrameTooLarge("a frame", size, self._frame_limit)
        if header > self._header_limit:
            raise FrameTooLarge("a header", header, self._header_limit)
        raise MalformedFrame("the header is longer than its frame")

    def _parse(self, data: _Bytes, start: int, header_size: int, end: int) -> Envelope:
        header = start + _SIZE_OF_PREFIX
        body = header + header_size
        fields = unpack(data[header:body], text=MAX_TEXT, items=self._item_limit)
        budget = None
        if type(fields) is not tuple or len(fields) != len(_FIELDS):
            fields, budget = _split_budget(fields)
        kind, id_, source, target, schema, credit, remaining, hops, trace, context, sizes = fields
        if not (  # three times as fast as comparing tuples of types
            type(kind) is type(id_) is type(credit) is type(remaining) is type(hops) is int
            and type(source) is type(target) is type(schema) is str
            and type(trace) is bytes
            and type(context) is int
            and type(sizes) is tuple
        ):
            _refuse_types(fields)
        known = _KINDS.get(kind)
        if (
            known is None
            or id_ < 0
            or credit < 0
            or remaining < -1
            or hops < 0
            or len(trace) not in _TRACE_SIZES
            or not (source + target + schema).isascii()
            or not 0 <= context <= end - body
        ):
            _refuse_values(fields)
        if len(sizes) > self._payload_limit:
            raise MalformedFrame(f"{len(sizes)} payload frames are too many")
        rest = body + context
        return Envelope(
            known,
            id_,
            source,
            target,
            schema,
            credit,
            remaining,
            hops,
            trace,
            bytes(data[body:rest]),
            _cut(data, rest, end, sizes, self._resolve),
            end - start,
            budget,
        )


def _split_budget(fields: object) -> tuple[tuple[Any, ...], tuple[int, int]]:
    """Take the budget off a header that has one."""
    if not isinstance(fields, tuple) or len(fields) != len(_FIELDS) + 1:
        raise MalformedFrame(f"the header is not an array of {len(_FIELDS)} fields, and a budget")
    *others, budget = fields
    if not _is_budget(budget):
        raise MalformedFrame("the header's budget is no two numbers within their bounds")
    return tuple(others), budget


def _cut(
    data: _Bytes,
    start: int,
    end: int,
    sizes: tuple[Any, ...],
    resolve: Callable[[Reference], memoryview],
) -> tuple[Buffer, ...]:
    """Take the parts between `start` and `end` apart; large ones of a buffer of ours as views."""
    parts: list[Buffer] = []
    for size in sizes:
        if type(size) is tuple:
            parts.append(resolve(read_reference(size)))
            continue
        if type(size) is not int or size < 0 or size > end - start:
            raise MalformedFrame("a part's size is no size or reaches beyond its frame")
        stop = start + size
        if type(data) is bytes:
            parts.append(data[start:stop])
        elif size >= _VIEWED and type(data) is bytearray:
            parts.append(memoryview(data)[start:stop].toreadonly())
        else:
            parts.append(bytes(data[start:stop]))
        start = stop
    if start != end:
        raise MalformedFrame("the parts are shorter than their frame")
    return tuple(parts)


def _refuse_types(fields: tuple[Any, ...]) -> NoReturn:
    for value, (name, type_) in zip(fields, _FIELDS, strict=True):
        if type(value) is not type_:
            raise MalformedFrame(f"the header's {name} is no {type_.__name__}")
    raise MalformedFrame("the header is wrong")


def _refuse_values(fields: tuple[Any, ...]) -> NoReturn:
    kind, id_, *names, credit, remaining_us, hops_left, trace, _, _ = fields
    if kind not in _KINDS:
        raise MalformedFrame(f"kind {kind} is unknown")
    if id_ < 0 or credit < 0 or remaining_us < -1 or hops_left < 0:
        raise MalformedFrame("a number in the header is negative")
    if len(trace) not in _TRACE_SIZES:
        raise MalformedFrame(f"a trace of {len(trace)} bytes")
    if not all(name.isascii() for name in names):
        raise MalformedFrame("a name in the header is not ASCII")
    raise MalformedFrame("a part's size is no size or reaches beyond its frame")

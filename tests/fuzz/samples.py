"""Envelopes of every kind as processes really send them, and values in every form of payload."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import numpy

from agentbus.config import Limits
from agentbus.context import KnownRoots, TenantKey, delta_for, pack
from agentbus.errors import DeadlineExceeded, HandlerFailed, NoResponder
from agentbus.messages import Envelope, Kind
from agentbus.wire import (
    BLOCK_ALIGN,
    PROTOCOL_VERSION,
    Encoder,
    Frames,
    Reference,
    failure_envelope,
    pack_parts_head,
    pack_reply_head,
    pack_request_head,
)
from agentbus.wire import pack as pack_payload

__all__ = ["ARENA_BYTES", "LIMITS", "TENANT", "envelopes", "frame_of", "packed_context", "payloads"]

LIMITS = Limits(header=1024, frame=8192)
ARENA_BYTES = 4 * BLOCK_ALIGN
TENANT = TenantKey()
_TRACE = b"t" * 24
_ACCOUNT = b"\0" * 16


def packed_context() -> bytes:
    """Return a context as it travels: three segments, to a peer that holds none."""
    context = TENANT.empty().role("writer", "You write.").user("Tides.").message("writer", "Salt.")
    return pack(delta_for(context, KnownRoots(1)))


def payloads() -> list[Frames]:
    """Return a payload in each of its forms."""
    text = ("a draft", {"n": [1, 2.5, None, True]})
    values: list[Any] = [
        text,
        {"array": numpy.arange(6, dtype="float32").reshape(2, 3)},
        [numpy.zeros((0, 3), dtype="int64"), bytearray(b"abc")],
        {"view": memoryview(b"some bytes"), "large": b"x" * 70_000},
    ]
    return [pack_payload(value, repr) for value in values]


def envelopes() -> list[Envelope]:
    """Return envelopes of all kinds, more than one where a kind has several forms."""
    text, batch = msgpack.packb("a draft"), msgpack.packb(["news", "more news"])
    context = packed_context()
    request = Envelope(
        Kind.REQUEST,
        id=7,
        source="planner",
        target="reviewer/ann",
        schema="Draft~1f2e",
        credit=256,
        remaining_us=5_000_000,
        hops_left=60,
        trace=_TRACE,
        context=context,
        payloads=(text, b"buffer"),
    )
    return [
        Envelope(Kind.HELLO, payloads=(msgpack.packb((PROTOCOL_VERSION, "there", "/run/x")),)),
        request,
        Envelope(Kind.REQUEST, id=8, target="echo", schema="str", payloads=(text,)),
        replace(request, budget=(5000, 2_000_000)),
        Envelope(Kind.REQUEST, id=9, target="echo", payloads=(text, Reference("3:a", 0, 9000, 1))),
        Envelope(Kind.REPLY, id=1, schema="str", context=context, payloads=(_ACCOUNT, text)),
        failure_envelope(1, HandlerFailed("echo", "ValueError", "no")),
        failure_envelope(1, DeadlineExceeded("echo")),
        failure_envelope(0, NoResponder("a")),
        Envelope(Kind.PART, id=1, schema="int", payloads=(msgpack.packb([1, 2, 3]),)),
        Envelope(
            Kind.REQUESTS,
            id=10,
            target="echo",
            schema="str",
            hops_left=60,
            payloads=(
                b"".join(pack_request_head(9_000_000, _TRACE) for _ in range(3)),
                *(text,) * 3,
            ),
        ),
        Envelope(
            Kind.REPLIES,
            schema="str",
            payloads=(b"".join(pack_reply_head(n, 0.1, 0.2) for n in (1, 2)), text, text),
        ),
        Envelope(
            Kind.PARTS,
            schema="str",
            payloads=(b"".join(pack_parts_head(n) for n in (7, 8)), batch, batch),
        ),
        Envelope(Kind.CANCEL, id=7),
        Envelope(Kind.PUBLISH, source="a", target="news.x", schema="str", payloads=(batch,)),
        Envelope(Kind.WANT, id=7, payloads=(b"r" * 32,)),
        Envelope(Kind.HAVE, id=7, schema="REPLY", context=context),
        Envelope(Kind.CREDIT, id=7, schema=Kind.PART.name, credit=16),
        Envelope(Kind.CREDIT, id=7, schema=Kind.FEED.name, credit=16),
        Envelope(Kind.PING),
        Envelope(Kind.PONG),
        Envelope(Kind.RELEASE, id=1),
        Envelope(Kind.OFFER, id=2**47, credit=2**30),
        Envelope(Kind.ACCEPT, id=7, target="other"),
        Envelope(Kind.ACCEPT, id=7),
        Envelope(Kind.HANDOFF, id=7, target="other", schema="str", trace=_TRACE, payloads=(text,)),
        Envelope(Kind.HANDOFF, id=7),
        Envelope(Kind.FEED, id=7, schema="int", payloads=(msgpack.packb([1]),)),
        Envelope(Kind.FEED, id=7),
        Envelope(Kind.ACK, id=65_536),
        Envelope(Kind.RESUME, payloads=(msgpack.packb((b"k" * 16, 65_536)),)),
        Envelope(Kind.GOODBYE),
    ]


def frame_of(envelope: Envelope) -> bytes:
    """Return an envelope as bytes. Raises as `Encoder.encode`."""
    return b"".join(Encoder(LIMITS).encode(envelope))

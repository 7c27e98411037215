"""Ways to spoil bytes and envelopes, by a seeded random generator."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from agentbus.messages import Envelope, Kind

__all__ = ["mutate_bytes", "mutate_envelope"]

_MARKS = (0x00, 0x7F, 0x80, 0x90, 0xC1, 0xC4, 0xC7, 0xCF, 0xD3, 0xDC, 0xDD, 0xDF, 0xFF)
"""Bytes that begin something else in msgpack, and the ends of ranges."""
_NUMBERS = (-(2**70), -1, 0, 1, 2, 7, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
_TEXTS = ("", "$bus", "$broker", "echo", "echo/", "/", "é", "\0", "a..b", ">", "x" * 300, "REPLY")
_BYTES = (b"", b"\x90", b"\xc0", b"x" * 24, b"\xdd\xff\xff\xff\xff", b"\xff" * 40, b"y" * 9000)
_FIELDS = tuple(field.name for field in fields(Envelope) if field.name not in {"kind", "size"})


def mutate_bytes(rng: random.Random, frame: bytes) -> bytes:
    """Return bytes that differ in one to four places, mostly."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case 4 if data:
                data[at] ^= 1 << rng.randrange(8)
            case _:
                data[at : at + 1] = bytes((rng.choice(_MARKS),))
    return bytes(data)


def mutate_envelope(rng: random.Random, envelope: Envelope) -> Envelope:
    """Return an envelope with one to three fields of another value: well formed, or not even."""
    changes: dict[str, Any] = {}
    for name in rng.choices(_FIELDS, k=rng.randint(1, 3)):
        value = getattr(envelope, name)
        if name == "budget":
            changes[name] = rng.choice((None, (rng.choice(_NUMBERS), rng.choice(_NUMBERS))))
        elif type(value) is int:
            changes[name] = rng.choice(_NUMBERS)
        elif type(value) is str:
            changes[name] = rng.choice(_TEXTS)
        elif type(value) is bytes:
            changes[name] = rng.choice((rng.choice(_BYTES), mutate_bytes(rng, value)))
        else:
            changes[name] = _mutate_payloads(rng, value)
    if rng.randrange(8) == 0:
        changes["kind"] = rng.choice(list(Kind))
    return replace(envelope, **changes)


def _mutate_payloads(rng: random.Random, payloads: tuple[Any, ...]) -> tuple[Any, ...]:
    match rng.randrange(4):
        case 0:
            return payloads[1:]
        case 1:
            return (*payloads, rng.choice(_BYTES))
        case 2:
            return tuple(mutate_bytes(rng, p) if type(p) is bytes else p for p in payloads)
        case _:
            return (rng.choice(_BYTES),) * rng.choice((1, 2, 300))

"""Mutated frames: whatever comes, a session gives envelopes or a declared error, and memory
does not grow."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from agentbus.config import Limits
from agentbus.errors import AgentbusError, MalformedFrame, NoResponder
from agentbus.messages import Envelope, Kind
from agentbus.wire import Hello, Session, State, encode, failure_envelope

FRAMES = 50_000
LIMITS = Limits(header=1024, frame=8192)
OPENING = Session(Hello("there", "/run/there"), LIMITS).opening()


def seeds() -> list[bytes]:
    request = Envelope(
        Kind.REQUEST,
        id=7,
        source="planner",
        target="reviewer",
        schema="Draft",
        remaining_us=5_000_000,
        hops_left=60,
        trace=b"t" * 24,
        context=b"c" * 40,
        payloads=(b"p" * 60, b"q"),
    )
    others = [Envelope(kind, id=1, payloads=(b"x",)) for kind in Kind]
    sent = [request, failure_envelope(0, NoResponder("a")), *others]
    return [OPENING, *(b"".join(encode(envelope, LIMITS)) for envelope in sent)]


def mutate(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case _:
                data[at : at + 1] = bytes((rng.choice((0x00, 0x7F, 0x80, 0x90, 0xC1, 0xDD, 0xFF)),))
    return bytes(data)


def feed(session: Session, data: bytes, rng: random.Random) -> AgentbusError | None:
    cut = rng.randrange(len(data) + 1)
    try:
        for piece in (data[:cut], data[cut:]):
            for envelope in session.receive(piece):
                assert type(envelope) is Envelope
                assert type(envelope.kind) is Kind
    except AgentbusError as error:
        return error
    return session.error


def attack(rng: random.Random, frames: list[bytes], count: int) -> dict[str, int]:
    outcomes: dict[str, int] = {}
    for number in range(count):
        session = Session(Hello("here"), LIMITS)
        frame = frames[number % len(frames)]
        if frame is not OPENING:
            session.receive(OPENING)
        error = feed(session, mutate(rng, frame), rng)
        assert (error is not None) == (session.state in {State.FAILED, State.REFUSED})
        outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


@pytest.mark.promise("peer.hostile")
def test_mutated_frames_end_in_envelopes_or_declared_errors() -> None:
    outcomes = attack(random.Random(20), seeds(), FRAMES)
    assert sum(outcomes.values()) == FRAMES
    # The mutations reach both sides of the checks, and each kind of refusal.
    assert min(outcomes["NoneType"], outcomes[MalformedFrame.__name__]) > FRAMES // 20
    assert {"FrameTooLarge", "VersionMismatch", "UnexpectedFrame"} <= set(outcomes)


def test_mutated_frames_leave_nothing_in_memory() -> None:
    rng, frames = random.Random(21), seeds()
    tracemalloc.start()
    try:
        attack(rng, frames, 1000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(30):
            attack(rng, frames, 100)
            gc.collect()  # an error that was raised and kept refers to its session
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * 1024
    assert peak - before < 1024 * 1024

"""What is fed with mutated frames, and what may come of it: a message, or a declared error.

Anything else is a finding; it is raised as it came, and `Campaign.run` says how to have it again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

from agentbus.client.cost import pack_cost, read_cost
from agentbus.client.payload import payload_type
from agentbus.context import unpack as unpack_context
from agentbus.errors import AgentbusError, InvalidMessage, MalformedFrame
from agentbus.messages import Envelope, Kind
from agentbus.telemetry import ModelCost
from agentbus.wire import (
    BlockTable,
    Frames,
    Hello,
    Reference,
    Resume,
    Resumption,
    Session,
    State,
    check_loan,
    count_batch,
    join_batch,
    read_failure,
)

from .mutate import mutate_bytes, mutate_envelope
from .samples import ARENA_BYTES, LIMITS, TENANT, envelopes, frame_of, packed_context, payloads

__all__ = ["Campaign", "Finding"]

_OPENING = Session(Hello("there", "/run/there"), LIMITS).opening()
_MOST_FRAMES = 8
"""Of one session, if it lives so long."""
TAKEN = "taken"
"""A message, or the beginning of one that goes on."""


class Finding(Exception):
    """Something else than a message or a declared error came of a frame."""


class Memory:
    """Shared memory of a link without any memory: the books are real. As `wire.SharedPayloads`."""

    share_from = 2**62

    def __init__(self) -> None:
        self._lent = BlockTable(ARENA_BYTES)
        self._lent.take(100)
        self._arena = bytes(ARENA_BYTES)
        self._last = 0

    def resolve(self, reference: Reference) -> memoryview:
        loan = check_loan(reference, self._last, ARENA_BYTES, ARENA_BYTES)
        self._last = loan.generation
        return memoryview(self._arena)[loan.offset : loan.offset + loan.size]

    def released(self, generation: int) -> None:
        self._lent.free(generation)

    def offered(self, address: int, size: int) -> None:
        if address < 0 or size < 0:
            raise Finding(f"memory from {address} on, {size} bytes, is offered")


class Campaign:
    """A run of trials. The same seed makes the same trials."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.outcomes: Counter[str] = Counter()
        """How frames ended: `taken`, or the error's class."""
        self._rng = random.Random(seed)
        self._envelopes = envelopes()
        self._frames = [frame_of(envelope) for envelope in self._envelopes]
        self._failures = [e for e in self._envelopes if e.kind is Kind.ERROR]
        self._payloads = payloads()
        self._context = packed_context()
        self._value = payload_type(object)
        self._cost = pack_cost(0.1, 0.2, ModelCost(calls=1, prompt_tokens=300, ttft_s=0.5))
        self._batch = join_batch([b"\x01", b"\xa1x", b"\xc0"])
        self._memory = Memory()

    @property
    def frames(self) -> int:
        """Frames fed so far."""
        return self.outcomes.total()

    def run(self, frames: int) -> None:
        """Feed so many frames more, a few more at most.

        Raises:
            Finding: one of them came to something that it must not.
        """
        until = self.frames + frames
        while self.frames < until:
            fed = self.frames
            try:
                self._trial()
            except Exception as error:
                problem = f"{type(error).__name__}: {error} (seed {self.seed}, frame {fed})"
                raise Finding(problem) from error

    def _trial(self) -> None:
        match self._rng.randrange(13):
            case 0:
                self._declared(self._read_payload, InvalidMessage)
            case 1:
                self._declared(self._read_context, MalformedFrame)
            case 2:
                self._declared(self._read_failure, MalformedFrame)
            case 3:
                self._declared(self._read_cost, MalformedFrame)
            case 4:
                self._declared(self._read_batch, MalformedFrame)
            case 5:
                self._declared(self._resume, AgentbusError)
            case _:
                self._session()

    def _declared(self, read: Callable[[], None], declared: type[AgentbusError]) -> None:
        """Read something once."""
        try:
            read()
        except declared as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes[TAKEN] += 1

    def _read_payload(self) -> None:
        first, *rest = self._rng.choice(self._payloads)
        frames: Frames = (mutate_bytes(self._rng, bytes(first)), *rest)
        if rest and self._rng.randrange(4) == 0:
            frames = (bytes(first), *(mutate_bytes(self._rng, bytes(f)[:200]) for f in rest))
        self._value.decode(frames)

    def _read_cost(self) -> None:
        read_cost(mutate_bytes(self._rng, self._cost))

    def _read_context(self) -> None:
        unpack_context(mutate_bytes(self._rng, self._context), LIMITS, TENANT)

    def _read_batch(self) -> None:
        count_batch((mutate_bytes(self._rng, self._batch),))

    def _resume(self) -> None:
        """Feed the side that goes on with a link: HELLO and RESUME, either or both spoilt."""
        resumption = Resumption(Hello("there"), lambda: 7, LIMITS)
        for data in (_OPENING, Resume(9).encode(LIMITS)):
            spoilt = self._rng.randrange(3) == 0
            resumption.receive(mutate_bytes(self._rng, data) if spoilt else data)
        if resumption.answer is not None and resumption.answer.received < 0:
            raise Finding("a link goes on from before its beginning")

    def _read_failure(self) -> None:
        error = read_failure(mutate_envelope(self._rng, self._rng.choice(self._failures)))
        if not isinstance(error, AgentbusError):
            raise Finding(f"{error!r} was restored")

    def _session(self) -> None:
        """Feed a session until it ends: frames as they are, spoilt, or well formed but untrue."""
        rng = self._rng
        session = Session(Hello("here"), LIMITS, self._memory)
        opened = rng.randrange(8)
        if opened > 1:
            session.receive(_OPENING)
        for number in range(_MOST_FRAMES):
            if opened or number:
                data = self._frame(rng.randrange(len(self._frames)))
            else:
                data = mutate_bytes(rng, _OPENING)
            error = self._feed(session, data)
            self.outcomes[TAKEN if error is None else type(error).__name__] += 1
            ended = session.state in (State.FAILED, State.REFUSED)
            if ended != (error is not None):
                raise Finding(f"the state is {session.state} after {error!r}")
            if ended:
                self._check_ended(session, error)
                return

    def _frame(self, number: int) -> bytes:
        choice = self._rng.randrange(8)
        if choice == 0:
            return self._frames[number]
        if choice > 3:
            return mutate_bytes(self._rng, self._frames[number])
        try:
            return frame_of(mutate_envelope(self._rng, self._envelopes[number]))
        except AgentbusError:  # the encoder declared it, and nothing was sent
            return mutate_bytes(self._rng, self._frames[number])

    def _feed(self, session: Session, data: bytes) -> AgentbusError | None:
        try:
            for piece in self._pieces(data):
                for envelope in session.receive(piece):
                    if type(envelope) is not Envelope or type(envelope.kind) is not Kind:
                        raise Finding(f"{envelope!r} is no envelope")
        except AgentbusError as error:
            return error
        return session.error

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        if self._rng.randrange(2):
            yield data
            return
        cut = self._rng.randrange(len(data) + 1)
        yield data[:cut]
        yield data[cut:]

    def _check_ended(self, session: Session, error: AgentbusError | None) -> None:
        """After an error a session gives nothing any more, and can still say why."""
        if session.state is State.FAILED and error is not None:
            session.farewell(error)
        try:
            given = session.receive(_OPENING)
        except AgentbusError:
            return
        raise Finding(f"a session that has ended gave {given!r}")

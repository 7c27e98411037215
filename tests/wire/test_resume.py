from __future__ import annotations

from itertools import pairwise

import msgpack
import pytest

from agentbus.config import Limits
from agentbus.errors import (
    AgentbusError,
    Closed,
    MalformedFrame,
    PeerLost,
    UnexpectedFrame,
)
from agentbus.messages import Envelope, Kind
from agentbus.wire import (
    ACK_EVERY,
    Backoff,
    Hello,
    Resume,
    Resumption,
    Session,
    State,
    Unacknowledged,
    encode,
)

LIMITS = Limits()
TICKET = b"t" * 16
THERE = Hello("there", "", 5000, TICKET)


def data(*envelopes: Envelope) -> bytes:
    return b"".join(b"".join(encode(envelope, LIMITS)) for envelope in envelopes)


def session(hello: Hello) -> Session:
    return Session(hello, LIMITS)


def test_the_tries_become_rarer_and_are_spread() -> None:
    for random in (0.0, 0.5, 1.0):
        backoff = Backoff(first=0.1, ceiling=1.0)
        delays = [backoff.delay(random) for _ in range(8)]
        assert delays[-1] == delays[-2] == 0.5 + random / 2
        assert all(2 * one == pytest.approx(other) for one, other in pairwise(delays[:4]))
        assert 0.05 <= delays[0] <= 0.1


def test_what_is_not_acknowledged_is_kept_from_any_byte_on() -> None:
    stream = bytes(range(250))
    for count in range(251):
        sent = Unacknowledged()
        for start in range(0, 250, 7):
            sent.add(stream[start : start + 7])
        sent.acknowledge(count // 2)
        assert b"".join(sent.since(count)) == stream[count:]
        assert b"".join(sent.since(count)) == stream[count:]


def test_nothing_beyond_what_was_sent_is_acknowledged() -> None:
    sent = Unacknowledged()
    sent.add_all([b"abc", b"de"])
    sent.acknowledge(5)
    with pytest.raises(MalformedFrame, match="ACK of 6 bytes, where 5 were sent"):
        sent.acknowledge(6)


def test_the_short_rest_of_a_long_buffer_does_not_keep_it() -> None:
    sent = Unacknowledged()
    sent.add(bytes(4 * ACK_EVERY))
    sent.acknowledge(4 * ACK_EVERY - 10)
    (rest,) = sent._buffers
    assert type(rest) is bytes and len(rest) == 10
    assert sent.since(4 * ACK_EVERY - 3) == [bytes(3)]


def resumption(received: int = 77) -> Resumption:
    return Resumption(THERE, lambda: received, LIMITS)


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_two_sides_agree_where_the_stream_goes_on(step: int) -> None:
    here, there = resumption(), session(THERE)
    opening, asked = there.opening(), b""
    for start in range(0, len(opening), step):
        asked += here.receive(opening[start : start + step])
    assert there.receive(asked) == []
    assert (there.state, there.resume) == (State.RESUMING, Resume(77, TICKET))
    answer = Resume(1234).encode(LIMITS) + b"the middle of a frame"
    rest = b""
    for start in range(0, len(answer), step):
        piece = answer[start : start + step]
        if here.answer is None:
            assert here.receive(piece) == b""
        else:
            rest += piece
    assert here.answer == Resume(1234)
    assert here.rest() + rest == b"the middle of a frame"


def test_another_process_is_not_shown_the_ticket() -> None:
    with pytest.raises(PeerLost, match="there"):
        resumption().receive(session(Hello("other")).opening())


def test_the_reason_not_to_go_on_is_the_peers() -> None:
    here, there = resumption(), session(THERE)
    with pytest.raises(Closed):
        here.receive(there.opening() + there.farewell(Closed("link")))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (data(Envelope(Kind.REPLY, id=1)), UnexpectedFrame),
        (session(THERE).opening(), UnexpectedFrame),
        (data(Envelope(Kind.RESUME)), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(b"\xc1",))), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(msgpack.packb((b"", -1)),))), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(msgpack.packb((b"", 2**63)),))), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(msgpack.packb((b"x", 1)),))), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(msgpack.packb(("", 1)),))), MalformedFrame),
        (data(Envelope(Kind.RESUME, payloads=(msgpack.packb((b"", 1, 2)),))), MalformedFrame),
        (b"\xff\xff\xff\xff", MalformedFrame),
        (b"\x00\x00\x00\x02\x00\x00", MalformedFrame),
        (b"GET / HTTP/1.1\r\n", MalformedFrame),
    ],
)
def test_a_peer_that_answers_badly(answer: bytes, error: type[AgentbusError]) -> None:
    here = resumption()
    here.receive(session(THERE).opening())
    with pytest.raises(error):
        here.receive(answer)


def test_nothing_follows_a_wish_to_resume() -> None:
    there = session(THERE)
    there.receive(Resume(0, TICKET).encode(LIMITS))
    with pytest.raises(UnexpectedFrame):
        there.receive(data(Envelope(Kind.REQUEST, id=1)))


def opened() -> Session:
    here = session(Hello("here"))
    here.receive(session(THERE).opening())
    return here


def test_an_open_link_is_not_resumed() -> None:
    with pytest.raises(UnexpectedFrame):
        opened().receive(Resume(0, TICKET).encode(LIMITS))


def test_acknowledgements_end_here_and_do_not_fall() -> None:
    here = opened()
    there = session(THERE)
    assert here.receive(there.ack(100) + there.ack(100) + there.ack(2**40)) == []
    assert here.acknowledged == 2**40
    with pytest.raises(MalformedFrame):
        here.receive(there.ack(7))


def test_tickets_stand_in_no_text() -> None:
    assert "ttt" not in repr(THERE) + repr(Resume(1, TICKET))

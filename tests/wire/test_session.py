from __future__ import annotations

import msgpack
import pytest

from agentbus.config import Limits
from agentbus.errors import (
    AgentbusError,
    Closed,
    ConfigError,
    HandlerFailed,
    MailboxFull,
    MalformedFrame,
    NoResponder,
    UnexpectedFrame,
    VersionMismatch,
)
from agentbus.messages import Envelope, Kind
from agentbus.wire import (
    PROTOCOL_VERSION,
    Hello,
    Session,
    State,
    encode,
    failure_envelope,
    read_failure,
)

LIMITS = Limits()


def session(peer: str = "here") -> Session:
    return Session(Hello(peer), LIMITS)


def opened() -> Session:
    here = session()
    assert here.receive(session("there").opening()) == []
    return here


def data(*envelopes: Envelope) -> bytes:
    return b"".join(b"".join(encode(envelope, LIMITS)) for envelope in envelopes)


def hello(*fields: object) -> bytes:
    return data(Envelope(Kind.HELLO, payloads=(msgpack.packb(fields),)))


def test_hello_tells_each_side_about_the_other() -> None:
    here, there = session(), Session(Hello("there", "/run/there.sock"), LIMITS)
    assert (here.state, here.peer) == (State.OPENING, None)
    assert here.receive(there.opening()) == []
    assert (here.state, here.peer) == (State.OPEN, Hello("there", "/run/there.sock"))


def test_a_hello_and_what_follows_may_come_in_one_read() -> None:
    here = session()
    reply = Envelope(Kind.REPLY, id=7)
    assert here.receive(session("there").opening() + data(reply)) == [reply]


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.HELLO, Kind.RESUME}))
def test_nothing_may_come_before_hello(kind: Kind) -> None:
    here = session()
    with pytest.raises(UnexpectedFrame):
        here.receive(data(Envelope(kind, id=1)))
    assert here.state is State.FAILED


def test_a_second_hello_is_unexpected() -> None:
    here = opened()
    with pytest.raises(UnexpectedFrame):
        here.receive(session("there").opening())


def test_another_version_is_named_whatever_else_it_says() -> None:
    with pytest.raises(VersionMismatch) as caught:
        session().receive(hello(PROTOCOL_VERSION + 1, {}, [1, 2], "more"))
    assert (caught.value.theirs, caught.value.ours) == (PROTOCOL_VERSION + 1, PROTOCOL_VERSION)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("1",),
        (True, "a", ""),
        (PROTOCOL_VERSION,),
        (PROTOCOL_VERSION, "a"),
        (PROTOCOL_VERSION, "a", ""),
        (PROTOCOL_VERSION, "a", "", 0, b""),
        (PROTOCOL_VERSION, "a", "", 0, b"", b"", "more"),
        (PROTOCOL_VERSION, "", "", 0, b"", b""),
        (PROTOCOL_VERSION, b"a", "", 0, b"", b""),
        (PROTOCOL_VERSION, "a" * 129, "", 0, b"", b""),
        (PROTOCOL_VERSION, "a\n", "", 0, b"", b""),
        (PROTOCOL_VERSION, "ä", "", 0, b"", b""),
        (PROTOCOL_VERSION, "a", None, 0, b"", b""),
        (PROTOCOL_VERSION, "a", "x" * 1025, 0, b"", b""),
        (PROTOCOL_VERSION, "a", "x" * 5000, 0, b"", b""),
        (PROTOCOL_VERSION, "a", "\x1b[0m", 0, b"", b""),
        (PROTOCOL_VERSION, "a", "", -1, b"", b""),
        (PROTOCOL_VERSION, "a", "", 1.5, b"", b""),
        (PROTOCOL_VERSION, "a", "", 10**12, b"", b""),
        (PROTOCOL_VERSION, "a", "", 0, "t" * 16, b""),
        (PROTOCOL_VERSION, "a", "", 0, b"t" * 15, b""),
        (PROTOCOL_VERSION, "a", "", 0, b"", "g" * 24),
        (PROTOCOL_VERSION, "a", "", 0, b"", b"g" * 23),
    ],
)
def test_a_malformed_hello(fields: tuple[object, ...]) -> None:
    if fields[:1] == (True,):
        fields = (msgpack.packb(True), *fields[1:])
    with pytest.raises(MalformedFrame):
        session().receive(hello(*fields))


def test_a_hello_without_payload_is_malformed() -> None:
    with pytest.raises(MalformedFrame):
        session().receive(data(Envelope(Kind.HELLO)))


@pytest.mark.parametrize(("peer", "listen"), [("", ""), ("ä", ""), ("a" * 129, ""), ("a", "\0")])
def test_a_hello_that_the_peer_would_refuse_cannot_be_made(peer: str, listen: str) -> None:
    with pytest.raises(ConfigError):
        Hello(peer, listen)


@pytest.mark.parametrize("ids", [(0,), (1, 1), (5, 4)])
def test_request_ids_must_rise(ids: tuple[int, ...]) -> None:
    here = opened()
    *good, bad = (Envelope(Kind.REQUEST, id=id_) for id_ in ids)
    if good:
        assert here.receive(data(*good)) == good
    with pytest.raises(MalformedFrame):
        here.receive(data(bad))


def test_other_kinds_are_passed_through_with_any_id() -> None:
    here = opened()
    kinds = (Kind.REPLY, Kind.ERROR, Kind.PART, Kind.CANCEL, Kind.PUBLISH, Kind.WANT, Kind.HAVE)
    envelopes = [Envelope(kind, id=id_) for id_ in (9, 3, 3) for kind in kinds]
    assert here.receive(data(*envelopes)) == envelopes


def test_good_envelopes_before_a_bad_one_are_given_first() -> None:
    here = opened()
    first, second = Envelope(Kind.REQUEST, id=2), Envelope(Kind.REQUEST, id=1)
    assert here.receive(data(first, second)) == [first]
    assert isinstance(here.error, MalformedFrame)
    assert here.state is State.FAILED
    with pytest.raises(MalformedFrame):
        here.receive(b"")


def test_goodbye_is_the_last_that_a_peer_may_say() -> None:
    here, there = opened(), opened()
    assert here.receive(there.closing()) == []
    assert here.state is State.CLOSED
    with pytest.raises(Closed):
        there.send(Envelope(Kind.REPLY, id=1))
    with pytest.raises(UnexpectedFrame):
        here.receive(data(Envelope(Kind.REPLY, id=1)))


@pytest.mark.parametrize("state", [State.OPENING, State.OPEN])
def test_a_farewell_brings_the_peers_reason(state: State) -> None:
    here = opened() if state is State.OPEN else session()
    there = opened()
    with pytest.raises(VersionMismatch) as caught:
        here.receive(there.farewell(VersionMismatch(theirs=1, ours=2)))
    assert (caught.value.theirs, caught.value.ours) == (1, 2)
    assert here.state is State.REFUSED
    with pytest.raises(Closed):
        there.send(Envelope(Kind.REPLY, id=1))


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(Kind.ERROR, schema="no_responder"),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(b"\xc1",)),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(b"\x80",)),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(b"\x93\x01\x02\x03",)),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(b"\xc0",)),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(msgpack.packb({b"target": "a"}),)),
        Envelope(Kind.ERROR, schema="no_responder", payloads=(msgpack.packb({"target": 1}),)),
    ],
)
def test_a_malformed_farewell(envelope: Envelope) -> None:
    here = opened()
    with pytest.raises(MalformedFrame):
        here.receive(data(envelope))
    assert here.state is State.FAILED


@pytest.mark.parametrize(
    "error", [NoResponder("a"), MailboxFull("b", 7), HandlerFailed("c", "KeyError", "\ud800")]
)
def test_errors_cross_the_wire(error: AgentbusError) -> None:
    envelope = failure_envelope(5, error)
    assert (envelope.kind, envelope.id) == (Kind.ERROR, 5)
    assert type(read_failure(envelope)) is type(error)


def test_a_long_text_in_an_error_is_cut() -> None:
    restored = read_failure(failure_envelope(1, HandlerFailed("a", "E", "ä" * 100_000)))
    assert isinstance(restored, HandlerFailed)
    assert restored.text == "ä" * 4096


def test_a_ping_ends_here_and_is_answered_once() -> None:
    here, there = opened(), session("there")
    there.receive(session().opening())
    reply = Envelope(Kind.REPLY, id=7)
    assert here.receive(there.ping() + data(reply) + there.ping()) == [reply]
    assert here.pong_due
    answer = here.pong()
    assert not here.pong_due
    assert there.receive(answer) == []
    assert not there.pong_due


def joined(first: int, count: int) -> Envelope:
    return Envelope(Kind.REQUESTS, id=first, payloads=(b"heads", *[b"v"] * count))


def test_joined_requests_count_by_their_values() -> None:
    here = opened()
    good = [joined(1, 3), Envelope(Kind.REQUEST, id=4), joined(5, 2), joined(7, 1)]
    assert here.receive(data(*good)) == good
    with pytest.raises(MalformedFrame):
        here.receive(data(Envelope(Kind.REQUEST, id=7)))


@pytest.mark.parametrize("first", [2, 3])
def test_joined_requests_may_not_repeat_ids(first: int) -> None:
    here = opened()
    assert here.receive(data(joined(1, 3)))
    with pytest.raises(MalformedFrame):
        here.receive(data(joined(first, 3)))

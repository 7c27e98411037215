"""Trace ids, sampling, `traceparent`, and the log of spans."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import ConfigError
from agentbus.telemetry import (
    KEPT_BY,
    NO_TRACE,
    HopAccount,
    ModelCost,
    Span,
    SpanLog,
    TraceIds,
    handler_trace,
    parse_traceparent,
    traceparent,
)

SEED = bytes(range(24))


def span(trace: str = "ab", **changes: object) -> Span:
    account = HopAccount("", "echo")
    fields: dict[str, object] = {
        "trace": trace,
        "span": "01",
        "parent": "",
        "kind": "client",
        "process": "p",
        "start_ns": 5,
        "duration_s": 0.5,
        "error": "",
        "account": account,
    }
    return Span(**(fields | changes))  # type: ignore[arg-type]


@given(st.binary(min_size=24, max_size=24), st.sampled_from([0.001, 0.01, 0.1, 0.5, 0.9]))
def test_the_share_that_is_kept_is_the_one_asked_for(seed: bytes, share: float) -> None:
    ids, log = TraceIds(seed), SpanLog("p", share, 1)
    kept = sum(log.keeps(ids.new()) for _ in range(10_000))
    assert kept == pytest.approx(10_000 * share, abs=4)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_ids_from_elsewhere_are_sampled_alike(share: float) -> None:
    log = SpanLog("p", share, 1)
    traces = [secrets.token_bytes(24) for _ in range(20_000)]
    assert sum(map(log.keeps, traces)) == pytest.approx(20_000 * share, rel=0.3)


@given(st.binary(min_size=24, max_size=24), st.sampled_from([0, 0.003, 0.01, 0.5, 1]))
def test_one_byte_rules_out_only_what_is_not_kept(trace: bytes, share: float) -> None:
    log = SpanLog("p", share, 1)
    if trace[KEPT_BY] < log.first:
        assert not log.keeps(trace)
    if share in (0, 1):
        assert log.keeps(trace) == bool(share) or trace == NO_TRACE


def test_all_processes_keep_the_same_traces() -> None:
    ids = TraceIds(SEED)
    here, there = SpanLog("a", 0.1, 1), SpanLog("b", 0.1, 1)
    for _ in range(1000):
        trace = ids.new()
        assert here.keeps(trace) == there.keeps(handler_trace(ids.caused(trace)))


def test_ids_are_told_apart() -> None:
    first, second = TraceIds(SEED), TraceIds(SEED[::-1])
    traces = [ids.new() for ids in (first, second) for _ in range(1000)]
    assert len({trace[:16] for trace in traces}) == 2000
    one = traces[0]
    spans = [one, *(ids.caused(one) for ids in (first, second) for _ in range(1000))]
    spans += [handler_trace(trace) for trace in spans]
    assert {trace[:16] for trace in spans} == {one[:16]}
    assert len({trace[16:] for trace in spans}) == len(spans)
    assert handler_trace(handler_trace(one)) != one
    assert first.caused(NO_TRACE)[:16] not in {trace[:16] for trace in traces}


def test_traceparent_is_w3c_s() -> None:
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    trace = parse_traceparent(header)
    assert (trace[:16].hex(), trace[16:].hex()) == (header[3:35], header[36:52])
    assert traceparent(trace, sampled=True) == header
    assert traceparent(trace, sampled=False) == header[:-1] + "0"
    assert parse_traceparent("cc" + header[2:] + "-what-a-later-version-adds") == trace
    assert traceparent(NO_TRACE, sampled=True) == ""


@pytest.mark.parametrize(
    "header",
    [
        "",
        "words",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" * 1000,
    ],
)
def test_another_header_is_refused(header: str) -> None:
    with pytest.raises(ConfigError, match="traceparent"):
        parse_traceparent(header)


def test_the_oldest_spans_make_room_and_are_counted() -> None:
    log = SpanLog("p", 1, 3)
    assert log.since(0) == ([], 0)
    for number in range(5):
        log.handled(bytes([0xA0 + number]) * 24, 10**9, "", HopAccount(queue_s=0.1, handle_s=0.2))
    new, gone = log.since(1)
    assert ([s.trace[:2] for s in new], gone) == (["a2", "a3", "a4"], 1)
    assert new[0].duration_s == pytest.approx(0.3)
    assert new[0].start_ns == pytest.approx(10**9 * 0.7)
    assert log.since(4) == ([new[-1]], 0)
    assert log.since(5) == ([], 0)
    assert log.of("a3a3") == [new[1]] and log.of("") == new and log.of("b") == []


def test_attributes_follow_the_conventions() -> None:
    model = ModelCost(calls=1, prompt_tokens=9, reused_tokens=4, decoded_tokens=5, lost_tokens=3)
    handled = span(kind="server", error="handler_failed", account=HopAccount("a", "b", model=model))
    assert handled.name == "process b"
    found = handled.attributes()
    assert found["error.type"] == "handler_failed"
    assert found["gen_ai.agent.name"] == found["messaging.destination.name"] == "b"
    assert found["agentbus.model.lost_tokens"] == 3
    assert found["agentbus.model.saved_tokens"] == 0
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (9, 5)
    asked = span().attributes()
    assert asked["messaging.operation.type"] == "send"
    assert not [name for name in found if "answers" in name]
    values = ModelCost(calls=1, structured_answers=3, unparsable_answers=1)
    found = span(account=HopAccount("a", "b", model=values)).attributes()
    assert found["agentbus.model.structured_answers"] == 3
    assert found["agentbus.model.unparsable_answers"] == 1
    assert not {"error.type", "gen_ai.agent.name", "gen_ai.usage.input_tokens"} & set(asked)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentbus.ops import exposition
from agentbus.telemetry import AgentMetrics, BusReport, EngineReport, LinkReport, ModelCost

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(report: BusReport) -> Samples:
    families = text_string_to_metric_families(exposition(report).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def key(name: str, labels: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"agentbus_{name}", frozenset(labels.items())


def test_prometheus_reads_what_was_counted() -> None:
    metrics = AgentMetrics()
    metrics.replied(1e-6, 3e-6)
    metrics.replied(1e-6, 90e-6)
    metrics.failed("mailbox_full")
    cost = ModelCost(1, 0, 0, 30, 20, 10, 5, 0, 0, 0, 0.25, lost_tokens=6)
    metrics.charged(replace(cost, saved_tokens=7, left_out_tokens=3))
    report = BusReport(
        agents=(metrics.report('odd"name\\', waiting=4),),
        links=(LinkReport("other", 10, 20),),
        sent=7,
        failures={"peer_lost": 2},
        published=3,
        dropped=1,
        missed_deadlines=5,
        under_way=2,
        engines=(EngineReport("$model.m", 40, 30),),
    )
    found = parsed(report)
    agent = {"agent": 'odd"name\\'}
    expected = {
        key("requests_total", agent | {"outcome": "ok"}): 2,
        key("requests_total", agent | {"outcome": "mailbox_full"}): 1,
        key("mailbox_messages", agent): 4,
        key("handle_duration_seconds_bucket", agent | {"le": "4e-06"}): 1,
        key("handle_duration_seconds_bucket", agent | {"le": "6.4e-05"}): 1,
        key("handle_duration_seconds_bucket", agent | {"le": "0.000128"}): 2,
        key("handle_duration_seconds_bucket", agent | {"le": "+Inf"}): 2,
        key("handle_duration_seconds_count", agent): 2,
        key("handle_duration_seconds_sum", agent): 93e-6,
        key("queue_duration_seconds_sum", agent): 2e-6,
        key("time_to_first_token_seconds_count", agent): 1,
        key("model_tokens_total", agent | {"type": "reused"}): 20,
        key("model_tokens_total", agent | {"type": "prefilled"}): 10,
        key("model_tokens_total", agent | {"type": "decoded"}): 5,
        key("lost_tokens_total", agent): 6,
        key("saved_tokens_total", agent): 7,
        key("left_out_tokens_total", agent): 3,
        key("link_bytes_total", {"peer": "other", "direction": "sent"}): 10,
        key("link_bytes_total", {"peer": "other", "direction": "received"}): 20,
        key("links", {}): 1,
        key("sent_requests_total", {}): 7,
        key("failed_requests_total", {"error": "peer_lost"}): 2,
        key("published_messages_total", {}): 3,
        key("dropped_messages_total", {}): 1,
        key("missed_deadlines_total", {}): 5,
        key("prefetched_tokens_total", {"agent": "$model.m"}): 40,
        key("prefetch_used_tokens_total", {"agent": "$model.m"}): 30,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_agents_that_no_model_was_asked_for_have_no_tokens() -> None:
    report = BusReport(
        agents=(AgentMetrics().report("a", 0),),
        links=(),
        sent=0,
        failures={},
        published=0,
        dropped=0,
        missed_deadlines=0,
        under_way=0,
    )
    assert not [name for name, _ in parsed(report) if "token" in name]

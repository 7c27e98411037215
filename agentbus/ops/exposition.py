"""What a process counted, in the text format that Prometheus reads.

Names follow Prometheus's conventions: base units, `_total` for what only grows. `outcome` is `ok`
or an error's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..telemetry import AgentReport, BusReport, Distribution, EngineReport, upper_bound

__all__ = ["exposition"]

_OK = "ok"


def exposition(report: BusReport) -> bytes:
    """Return a report as Prometheus's text."""
    registry = CollectorRegistry()
    registry.register(_Collector(report))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, report: BusReport) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report
        yield from _of_agents(report.agents)
        yield from _of_engines(report.engines)
        yield from _of_links(report)
        yield _counter("sent_requests", "Requests made by this process.", report.sent)
        failed = CounterMetricFamily(
            "agentbus_failed_requests",
            "Requests made by this process that ended with an error.",
            labels=["error"],
        )
        for code, count in report.failures.items():
            failed.add_metric([code], count)
        yield failed
        yield _counter("published_messages", "Messages published here.", report.published)
        yield _counter(
            "dropped_messages", "Published messages that a subscriber missed.", report.dropped
        )
        yield _counter("missed_deadlines", "Deadlines that passed here.", report.missed_deadlines)


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"agentbus_{name}", text, value=value)


def _of_agents(agents: Iterable[AgentReport]) -> Iterator[Metric]:
    reports = tuple(agents)
    yield from _of_requests(reports)
    yield from _of_tokens(reports)
    yield from _of_answers(reports)


def _of_requests(agents: Sequence[AgentReport]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "agentbus_requests", "Requests to an agent of this process.", labels=["agent", "outcome"]
    )
    waiting = GaugeMetricFamily(
        "agentbus_mailbox_messages", "Messages that wait for an agent.", labels=["agent"]
    )
    queue = _histogram("queue_duration", "Seconds that answered requests waited in the mailbox.")
    handle = _histogram("handle_duration", "Seconds that handlers took for answered requests.")
    for agent in agents:
        requests.add_metric([agent.name, _OK], agent.replies)
        for code, count in agent.failures.items():
            requests.add_metric([agent.name, code], count)
        waiting.add_metric([agent.name], agent.waiting)
        _add(queue, agent.name, agent.queue)
        _add(handle, agent.name, agent.handle)
    yield from (requests, waiting, queue, handle)


def _of_tokens(agents: Sequence[AgentReport]) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "agentbus_model_tokens",
        "Tokens of model calls: of the agent that asked, and of the engine's, named $model.…",
        labels=["agent", "type"],
    )
    lost = _of_each(
        "lost_tokens",
        "Prefilled tokens that the caller's last prompt had too, in another place; about.",
    )
    saved = _of_each("saved_tokens", "Tokens that prompts would have had more without filters.")
    left_out = _of_each(
        "left_out_tokens", "Those of the saved tokens that lossy filters have left out."
    )
    ttft = _histogram("time_to_first_token", "Seconds to a model's first token.")
    for agent in agents:
        if agent.ttft.count:
            _add(ttft, agent.name, agent.ttft)
        if agent.prefilled_tokens or agent.reused_tokens:
            tokens.add_metric([agent.name, "reused"], agent.reused_tokens)
            tokens.add_metric([agent.name, "prefilled"], agent.prefilled_tokens)
            tokens.add_metric([agent.name, "decoded"], agent.decoded_tokens)
            lost.add_metric([agent.name], agent.lost_tokens)
            saved.add_metric([agent.name], agent.saved_tokens)
            left_out.add_metric([agent.name], agent.left_out_tokens)
    yield from (tokens, lost, saved, left_out, ttft)


def _of_answers(agents: Sequence[AgentReport]) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "agentbus_structured_answers",
        "Answers of a model that were to hold a value of a type: ok, or unparsable.",
        labels=["agent", "model", "outcome"],
    )
    repairs = CounterMetricFamily(
        "agentbus_repairs",
        "Those of them that were asked for after an unparsable one.",
        labels=["agent", "model"],
    )
    for agent in agents:
        if agent.structured_answers:
            edge, failed = [agent.name, agent.model], agent.unparsable_answers
            answers.add_metric([*edge, _OK], agent.structured_answers - failed)
            answers.add_metric([*edge, "unparsable"], failed)
            repairs.add_metric(edge, agent.repairs)
    yield from (answers, repairs)


def _of_each(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"agentbus_{name}", text, labels=["agent"])


def _of_engines(engines: Iterable[EngineReport]) -> Iterator[Metric]:
    computed = CounterMetricFamily(
        "agentbus_prefetched_tokens", "Tokens that an engine read ahead.", labels=["agent"]
    )
    used = CounterMetricFamily(
        "agentbus_prefetch_used_tokens",
        "Tokens that an engine read ahead and a call has reused.",
        labels=["agent"],
    )
    for engine in engines:
        computed.add_metric([engine.name], engine.prefetched_tokens)
        used.add_metric([engine.name], engine.used_tokens)
    yield from (computed, used)


def _histogram(name: str, text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"agentbus_{name}_seconds", text, labels=["agent"])


def _add(family: HistogramMetricFamily, agent: str, times: Distribution) -> None:
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bucket, count in enumerate(times.counts[:-1]):
        seen += count
        buckets.append((repr(upper_bound(bucket)), seen))
    buckets.append(("+Inf", seen + times.counts[-1]))
    family.add_metric([agent], buckets, times.total_s)


def _of_links(report: BusReport) -> Iterator[Metric]:
    transferred = CounterMetricFamily(
        "agentbus_link_bytes", "Bytes over an open link.", labels=["peer", "direction"]
    )
    for link in report.links:
        transferred.add_metric([link.peer, "sent"], link.sent_bytes)
        transferred.add_metric([link.peer, "received"], link.received_bytes)
    yield transferred
    yield GaugeMetricFamily("agentbus_links", "Links that are open.", value=len(report.links))

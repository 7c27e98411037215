"""Spans reach a file or a collector, all of them once, and a bus outlives either's troubles."""

from __future__ import annotations

import builtins
import http.server
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentbus import Bus, BusSettings, TelemetrySettings
from agentbus.client.tracing import ExportLoop
from agentbus.errors import ConfigError, HandlerFailed, UnreadableFile
from agentbus.export import open_exporter
from agentbus.telemetry import HopAccount, ModelCost, Span, SpanLog

from ..client.agents import Boom, Echo, Ping

pytestmark = pytest.mark.anyio


TRACE = bytes(range(24))


def span(number: int = 1, error: str = "") -> Span:
    return Span(
        trace=f"{number:032x}",
        span=f"{number:016x}",
        parent=f"{9:016x}",
        kind="server",
        process="worker",
        start_ns=1_700_000_000_000_000_000,
        duration_s=0.25,
        error=error,
        account=HopAccount("a", "b", model=ModelCost(calls=1, prompt_tokens=7)),
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def test_a_bus_writes_its_spans_and_the_last_ones_when_it_closes(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    settings = BusSettings(telemetry=TelemetrySettings(sample=1.0, export=str(path)))
    for _ in range(2):  # what an earlier run has written stays
        async with Bus.open(settings=settings) as bus:
            await bus.spawn(Echo(), name="echo")
            await bus.request("echo", Ping(number=1))
            with pytest.raises(HandlerFailed):
                await bus.request("echo", Boom(text="no"))
    found = lines(path)
    assert [line["name"] for line in found] == [
        "send echo",
        "process echo",
        "process echo",
        "send echo",
    ] * 2
    assert [line["error"] for line in found[:4]] == ["", "", "handler_failed", "handler_failed"]
    assert found[0]["trace"] == found[1]["trace"] and found[1]["parent"] == found[0]["span"]
    assert found[1]["account"]["handle_s"] > 0


async def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    settings = BusSettings(telemetry=TelemetrySettings(export=str(tmp_path / "no" / "file")))
    with pytest.raises(UnreadableFile, match="No such file"):
        async with Bus.open(settings=settings):
            pass


class Broken:
    """An exporter that takes only every second batch."""

    def __init__(self) -> None:
        self.calls = 0
        self.taken: list[Span] = []
        self.closed = False

    def export(self, spans: Sequence[Span]) -> None:
        self.calls += 1
        if self.calls % 2:
            raise OSError("full")
        self.taken += spans

    def close(self) -> None:
        self.closed = True


async def test_what_is_lost_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    log, exporter = SpanLog("p", 1, 3), Broken()
    loop = ExportLoop(log, exporter)
    await loop.flush()
    for number in range(5):
        log.asked(TRACE, b"", number, "", HopAccount())
    await loop.flush()
    assert (loop.lost, exporter.taken) == (5, [])
    assert "3 spans could not be exported: full" in caplog.text
    log.asked(TRACE, b"", 6, "", HopAccount())
    await loop.aclose()
    assert (loop.lost, exporter.closed) == (5, True)
    assert [span.start_ns for span in exporter.taken] == [6]


def test_without_the_extra_an_otlp_url_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"fm-agentbus\[otel\]"):
        open_exporter("http://127.0.0.1:4318")


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what is posted, or refuses it."""

    bodies: list[tuple[str, bytes]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.bodies.append((self.path, body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, type[Collector]]]:
    kind = type("Collecting", (Collector,), {"bodies": []})
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", kind
        server.shutdown()
        thread.join()


def test_a_collector_gets_spans_as_otlp(collector: tuple[str, type[Collector]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, kind = collector
    exporter = open_exporter(url)
    exporter.export([span(1), span(2, "handler_failed")])
    kind.status = 400
    with pytest.raises(OSError, match="did not take 1 spans"):
        exporter.export([span(3)])
    exporter.close()
    path, body = kind.bodies[0]
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    first, second = resource.scope_spans[0].spans
    assert (first.name, first.trace_id.hex(), first.span_id.hex()) == (
        "process b",
        span(1).trace,
        span(1).span,
    )
    assert first.parent_span_id.hex() == span().parent
    assert first.end_time_unix_nano - first.start_time_unix_nano == 250_000_000
    named = {item.key: item.value for item in first.attributes}
    assert named["gen_ai.usage.input_tokens"].int_value == 7
    assert (first.status.code, second.status.code) == (0, 2)
    assert second.status.message == "handler_failed"

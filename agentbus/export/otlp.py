"""Spans to an OpenTelemetry collector, over OTLP/HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..telemetry import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["OtlpExporter"]

_PATH = "/v1/traces"


class OtlpExporter:
    """Sends spans to the collector at `url`, to its usual path if the url has none."""

    def __init__(self, url: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import SpanExportResult
        except ImportError as error:
            problem = "takes the extra `otel`: pip install 'fm-agentbus[otel]'"
            raise ConfigError("telemetry.export", problem) from error
        host = url.partition("://")[2]
        self._url = url if host.partition("/")[2] else url.rstrip("/") + _PATH
        self._exporter = OTLPSpanExporter(endpoint=self._url)
        self._success: Any = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[Span]) -> None:
        """Send them."""
        if self._exporter.export([_readable(span) for span in spans]) is not self._success:
            raise OSError(f"the collector at {self._url} did not take {len(spans)} spans")

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


def _readable(span: Span) -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.status import Status, StatusCode

    resource = Resource({"service.name": "agentbus", "service.instance.id": span.process})
    return ReadableSpan(
        name=span.name,
        context=_context(span, span.span),
        parent=_context(span, span.parent) if span.parent else None,
        resource=resource,
        attributes=span.attributes(),
        kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.SERVER,
        instrumentation_scope=InstrumentationScope("agentbus"),
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.start_ns,
        end_time=span.start_ns + int(span.duration_s * 1e9),
    )


def _context(span: Span, number: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(span.trace, 16), int(number, 16), is_remote=False, trace_flags=flags)

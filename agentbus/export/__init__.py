"""Where spans go: a file, or a collector of OpenTelemetry's. One heavy library a file."""

from .base import SpanExporter, open_exporter

__all__ = ["SpanExporter", "open_exporter"]

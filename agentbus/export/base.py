"""The contract of an exporter, and how one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..telemetry import Span

__all__ = ["SpanExporter", "open_exporter"]


class SpanExporter(Protocol):
    """Takes spans somewhere. Its methods block; they are called in a thread, one at a time."""

    def export(self, spans: Sequence[Span]) -> None:
        """Hand spans on.

        Raises:
            OSError: they could not be.
        """
        ...

    def close(self) -> None:
        """Let go of what is held open."""
        ...


def open_exporter(where: str) -> SpanExporter:
    """Open what a setting names: the url of an OTLP/HTTP collector, or the path of a file.

    Raises:
        ConfigError: the library that this takes is not installed.
        UnreadableFile: the file cannot be written.
    """
    if where.startswith(("http://", "https://")):
        from .otlp import OtlpExporter

        return OtlpExporter(where)
    from .jsonl import JsonLinesExporter

    return JsonLinesExporter(where)

"""Spans as lines of JSON in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import orjson

from ..errors import UnreadableFile
from ..telemetry import Span

__all__ = ["JsonLinesExporter"]


class JsonLinesExporter:
    """Appends a line for each span: its fields, and its name."""

    def __init__(self, path: str) -> None:
        try:
            self._file = Path(path).open("ab")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise UnreadableFile(path, str(error.strerror)) from error

    def export(self, spans: Sequence[Span]) -> None:
        """Write them, and see that they are in the file."""
        self._file.write(b"".join(map(_line, spans)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(span: Span) -> bytes:
    return orjson.dumps({"name": span.name} | _fields(span), option=orjson.OPT_APPEND_NEWLINE)


def _fields(span: Span) -> dict[str, object]:
    return {field.name: getattr(span, field.name) for field in fields(span)}

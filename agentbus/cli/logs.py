"""Logs of a command: lines on standard error, as text or as JSON objects. Standard logging."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ..config import LogSettings
from .runtime import json_text
from .terminal import visible

__all__ = ["JsonFormatter", "TextFormatter", "configure_logging"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What each record has; what else it has was given with `extra`."""


class TextFormatter(logging.Formatter):
    """Lines whose texts, of whomever, are no commands to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, event, what was given with `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: v for name, v in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json_text(line)


def configure_logging(settings: LogSettings) -> None:
    """Have this process log as the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter(_TEXT))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)

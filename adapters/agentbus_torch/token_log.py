"""The token log: one JSON line a finished request, so that others can recount what was computed."""

from __future__ import annotations

import json
import logging
from typing import TextIO

from agentbus.engine.base import GenerateRequest
from agentbus.errors import ConfigError

from .runner import Sequence

__all__ = ["TokenLog"]

_LOG = logging.getLogger(__name__)


class TokenLog:
    """Appends to a file; with an empty path it does nothing."""

    def __init__(self, path: str) -> None:
        """Open the file.

        Raises:
            ConfigError: it cannot be written.
        """
        self._file: TextIO | None = None
        try:
            if path:
                self._file = open(path, "a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ConfigError("token_log", f"cannot be written ({error})") from error

    def write(self, request: GenerateRequest, sequence: Sequence) -> None:
        """Add a request's line. A full disk is logged; the engine goes on."""
        if self._file is None:
            return
        line = {
            "label": request.label,
            "tenant": request.tenant,
            "prompt_ids": sequence.call.prompt,
            "generated_ids": sequence.generated,
            "reused": sequence.reused,
            "prefilled": sequence.prefilled,
        }
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError:
            _LOG.exception("a line of the token log was lost")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

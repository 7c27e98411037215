"""The token log: one JSON line a finished request, so that others can recount what was computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from ..errors import ConfigError

__all__ = ["TokenLog", "TokenRecord"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What one request read and wrote, in token ids. `reused` and `prefilled` are counts."""

    label: str
    tenant: str
    prompt_ids: Sequence[int]
    generated_ids: Sequence[int]
    reused: int
    prefilled: int


class TokenLog:
    """Appends to a file; with an empty path it does nothing."""

    def __init__(self, path: str) -> None:
        """Check that the file can be written.

        Raises:
            ConfigError: it cannot.
        """
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigError("token_log", f"cannot be written ({error})") from error

    def write(self, record: TokenRecord) -> None:
        """Add a line. Where that fails, as on a full disk, it is logged; the engine goes on."""
        if not self._path:
            return
        try:
            self._append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        except (OSError, TypeError):  # TypeError: a label that is no UTF-8
            logger.exception("a line of the token log was lost")

    def _append(self, line: bytes) -> None:
        if self._path:
            with open(self._path, "ab") as file:
                file.write(line)

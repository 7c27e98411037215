"""The spans of requests that end here, and their way to an exporter."""

from __future__ import annotations

import asyncio
import logging
from time import time_ns
from typing import TYPE_CHECKING

import anyio
from anyio.to_thread import run_sync

from ..errors import AgentbusError, RequestCancelled
from ..export import SpanExporter
from ..telemetry import HopAccount, SpanLog

if TYPE_CHECKING:
    from .delivery import Delivery
    from .origin import Origin

__all__ = ["ExportLoop", "log_asked", "log_handled"]

logger = logging.getLogger("agentbus")

_EVERY = 1.0
"""Seconds between two looks at what there is to export."""


def log_asked(
    spans: SpanLog, origin: Origin, account: HopAccount, error: AgentbusError | None
) -> None:
    """Keep the asker's span of a request that has ended, if it is one to keep."""
    # Who leaves a stream early, or has its answer from another copy, has not failed.
    failed = error is not None and not isinstance(error, RequestCancelled)
    if not spans.wants(origin.trace, failed=failed):
        return
    code = "" if error is None else error.code
    spans.asked(origin.trace, origin.parent, time_ns(), code, account)


def log_handled(
    spans: SpanLog,
    agent: str,
    delivery: Delivery,
    queue_s: float,
    handle_s: float,
    error: AgentbusError | None,
) -> None:
    """Keep the handler's span of a request that has ended."""
    origin = delivery.origin
    if not spans.wants(origin.trace, failed=error is not None):
        return
    code = "" if error is None else error.code
    account = HopAccount(
        origin.source, agent, queue_s=queue_s, handle_s=handle_s, model=delivery.cost
    )
    spans.handled(origin.trace, time_ns(), code, account)


class ExportLoop:
    """Hands a process's spans to an exporter, about once a second and at the end.

    As a `Workload`, it runs in the pool until that closes.
    """

    def __init__(self, spans: SpanLog, exporter: SpanExporter) -> None:
        self._spans = spans
        self._exporter = exporter
        self._seen = 0
        self.lost = 0
        """Spans that made room for later ones, or that the exporter did not take."""

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Export until cancelled."""
        while True:
            await anyio.sleep(_EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Export what is new."""
        new, gone = self._spans.since(self._seen)
        self._seen += len(new) + gone
        self.lost += gone
        if not new:
            return
        try:
            await run_sync(self._exporter.export, new)
        except OSError as error:
            self.lost += len(new)
            logger.warning("%d spans could not be exported: %s", len(new), error)

    async def aclose(self) -> None:
        """Export the rest and close the exporter."""
        await self.flush()
        await run_sync(self._exporter.close)

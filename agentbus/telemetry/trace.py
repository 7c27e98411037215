"""Traces: ids, which of them are kept, and the spans of their hops. No clock, no exporter.

A trace travels as 24 bytes: its id (16) and the span of who asks (8). Each request makes two spans,
as OpenTelemetry has them: the asker's (`client`), and under it the handler's (`server`), under
which stand the requests that the handler makes.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from ..errors import ConfigError
from .account import HopAccount

__all__ = [
    "KEPT_BY",
    "NO_TRACE",
    "TRACE_ID",
    "Span",
    "SpanLog",
    "TraceIds",
    "handler_trace",
    "parse_traceparent",
    "threshold_of",
    "traceparent",
]

TRACE_ID: Final = 16
"""Bytes of a trace that name it; the rest is the span's."""
NO_TRACE: Final = bytes(24)
"""For what belongs to no trace."""
KEPT_BY: Final = 9
"""The byte of a trace that rules most of them out; see `SpanLog.first`. From here to the end of its
id, 56 bits decide whether a trace is kept, as W3C Trace Context 2 and OpenTelemetry's consistent
sampling have it: all processes decide alike."""
_BITS: Final = 1 << 64
_STEP: Final = 0x9E3779B97F4A7D
"""The golden ratio in 56 bits. Adding it again and again spreads numbers evenly over these bits, and
comes back to none before all others were there."""
_HANDLER: Final = 0x5851F42D4C957F2D
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class TraceIds:
    """Makes ids. `seed` is 24 random bytes: with them no two processes make the same.

    A trace is told apart by where it began and a number, and one number serves as its first span's
    too: drawing 24 random bytes for each would cost three times as much.
    """

    __slots__ = ("_number", "_prefix", "_span")

    def __init__(self, seed: bytes) -> None:
        self._prefix = seed[:8]
        self._number = int.from_bytes(seed[8:16], "big")
        self._span = int.from_bytes(seed[16:24], "big")

    def new(self) -> bytes:
        """Return a new trace with its first span."""
        self._number = number = (self._number + _STEP) % _BITS
        packed = number.to_bytes(8, "big")
        return self._prefix + packed + packed

    def caused(self, trace: bytes) -> bytes:
        """Return the trace of a request that was made in the handling of another."""
        if trace == NO_TRACE:
            return self.new()
        self._span = span = (self._span + 1) % _BITS
        return trace[:TRACE_ID] + span.to_bytes(8, "big")


def handler_trace(trace: bytes) -> bytes:
    """Return a trace with the handler's span in the place of the asker's."""
    span = (int.from_bytes(trace[TRACE_ID:], "big") + _HANDLER) % _BITS
    return trace[:TRACE_ID] + span.to_bytes(8, "big")


def threshold_of(share: float) -> bytes:
    """Return what the deciding bits of a trace's id must reach for it to be among `share`."""
    if share <= 0:
        return b"\xff" * 8  # longer than they are, hence greater
    return min(2**56 - 1, round((1 - share) * 2**56)).to_bytes(7, "big")


def parse_traceparent(header: str) -> bytes:
    """Read a W3C `traceparent` header: the trace, with the span of who asks.

    Raises:
        ConfigError: it is none.
    """
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        raise ConfigError("traceparent", f"{header[:80]!r} is not version-trace-span-flags in hex")
    version, trace, span, _, more = found.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace, 16) and int(span, 16)):
        raise ConfigError("traceparent", f"{header[:80]!r} has no valid version, trace or span")
    return bytes.fromhex(trace + span)


def traceparent(trace: bytes, *, sampled: bool) -> str:
    """Return the W3C `traceparent` header of a trace; empty if there is none."""
    if trace == NO_TRACE:
        return ""
    flags = _SAMPLED if sampled else 0
    return f"00-{trace[:TRACE_ID].hex()}-{trace[TRACE_ID:].hex()}-{flags:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One side of one hop. Ids in hex; `parent` is empty at the root."""

    trace: str
    span: str
    parent: str
    kind: Literal["client", "server"]
    process: str
    start_ns: int
    """By the wall clock, since 1970."""
    duration_s: float
    error: str
    """The error's code; empty for a reply."""
    account: HopAccount

    @property
    def name(self) -> str:
        """What was done, and to whom."""
        return f"{'send' if self.kind == 'client' else 'process'} {self.account.target}"

    def attributes(self) -> dict[str, str | int | float]:
        """Return what OpenTelemetry's conventions for messaging and GenAI call all this."""
        account = self.account
        found: dict[str, str | int | float] = {
            "messaging.system": "agentbus",
            "messaging.operation.name": "send" if self.kind == "client" else "process",
            "messaging.operation.type": "send" if self.kind == "client" else "process",
            "messaging.destination.name": account.target,
            "messaging.client.id": self.process,
            "agentbus.queue_s": account.queue_s,
            "agentbus.handle_s": account.handle_s,
        }
        if self.kind == "server":
            found |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": account.target}
        if self.kind == "client":
            found |= {
                "agentbus.transport": account.transport,
                "agentbus.sent_bytes": account.sent_bytes,
                "agentbus.received_bytes": account.received_bytes,
            }
        if account.source:
            found["agentbus.source"] = account.source
        if self.error:
            found["error.type"] = self.error
        if account.model.calls:
            found |= {
                "gen_ai.usage.input_tokens": account.model.prompt_tokens,
                "gen_ai.usage.output_tokens": account.model.decoded_tokens,
                "gen_ai.usage.cache_read.input_tokens": account.model.reused_tokens,
                "agentbus.model.lost_tokens": account.model.lost_tokens,
                "agentbus.model.saved_tokens": account.model.saved_tokens,
                "agentbus.model.left_out_tokens": account.model.left_out_tokens,
                "agentbus.model.filter_s": account.model.filter_s,
                "agentbus.model.cost": account.model.cost,
                "agentbus.model.ttft_s": account.model.ttft_s,
            }
        if account.model.structured_answers:
            found |= {
                "agentbus.model.structured_answers": account.model.structured_answers,
                "agentbus.model.unparsable_answers": account.model.unparsable_answers,
            }
        return found


_Noted = tuple[Literal["client", "server"], bytes, bytes, int, float, str, HopAccount]


class SpanLog:
    """The latest spans of one process; the oldest make room.

    Whoever ends a request notes it if the trace is one to keep, or if it ended with an error. Spans
    are made of that when somebody looks: most are never looked at here.
    """

    __slots__ = ("_noted", "_threshold", "added", "first", "process")

    def __init__(self, process: str, share: float, limit: int) -> None:
        self._noted: deque[_Noted] = deque(maxlen=limit)
        self.process = process
        self._threshold = threshold_of(share)
        self.first = self._threshold[0] if share > 0 else 256
        """No trace is kept whose byte `KEPT_BY` is less: one look spares a call for each request."""
        self.added = 0

    def keeps(self, trace: bytes) -> bool:
        """Say whether the spans of a trace are kept, whatever they end with."""
        return trace != NO_TRACE and trace[KEPT_BY:TRACE_ID] >= self._threshold

    def wants(self, trace: bytes, *, failed: bool) -> bool:
        """Say whether the span of a request that has ended is one to keep."""
        return self.keeps(trace) or (failed and trace != NO_TRACE)

    def asked(
        self, trace: bytes, parent: bytes, ended_ns: int, error: str, account: HopAccount
    ) -> None:
        """Note the asker's side of a request that has ended now, by the wall clock.

        `parent` is the trace of the request in whose handling it was made, or the span of an asker
        from outside; empty if there is none.
        """
        self._noted.append(("client", trace, parent, ended_ns, account.wall_s, error, account))
        self.added += 1

    def handled(self, trace: bytes, ended_ns: int, error: str, account: HopAccount) -> None:
        """Note the handler's side of a request that has ended now."""
        duration_s = account.queue_s + account.handle_s
        self._noted.append(("server", trace, b"", ended_ns, duration_s, error, account))
        self.added += 1

    def since(self, seen: int) -> tuple[list[Span], int]:
        """Return what was added after the first `seen`, and how many of these are gone already."""
        new = self.added - seen
        kept = min(new, len(self._noted))
        noted = islice(self._noted, len(self._noted) - kept, None)
        return [self._span(*each) for each in noted], new - kept

    def of(self, trace: str) -> list[Span]:
        """Return the spans of a trace whose id begins so; of all traces, if it is empty."""
        return [self._span(*each) for each in self._noted if each[1].hex().startswith(trace)]

    def _span(
        self,
        kind: Literal["client", "server"],
        trace: bytes,
        parent: bytes,
        ended_ns: int,
        duration_s: float,
        error: str,
        account: HopAccount,
    ) -> Span:
        if kind == "server":
            trace, parent = handler_trace(trace), trace[TRACE_ID:]
        elif len(parent) > TRACE_ID:
            parent = handler_trace(parent)[TRACE_ID:]
        return Span(
            trace=trace[:TRACE_ID].hex(),
            span=trace[TRACE_ID:].hex(),
            parent=parent.hex(),
            kind=kind,
            process=self.process,
            start_ns=ended_ns - int(duration_s * 1e9),
            duration_s=duration_s,
            error=error,
            account=account,
        )

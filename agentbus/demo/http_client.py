"""A keep-alive HTTP client that posts JSON, streams events back and counts the bytes.

Settings are the best for this use: one kept connection a server, no compression, no time-outs in
the middle of a long answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from ..errors import AgentbusError, EngineFailed, MalformedFrame, PeerLost, restore
from .events import Leg
from .sse import EventDecoder

__all__ = ["EventClient", "open_client"]

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 300.0
"""Longest silence within one answer."""
_LINE_END = 2


def open_client() -> httpx.AsyncClient:
    """Return a client that keeps its connections for as long as it lives."""
    return httpx.AsyncClient(
        limits=httpx.Limits(keepalive_expiry=None),
        timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        headers={"accept-encoding": "identity", "user-agent": "agent"},
        trust_env=False,
    )


class EventClient:
    """Posts to one server and yields the events of each answer."""

    def __init__(self, client: httpx.AsyncClient, base_url: str, link: str) -> None:
        self._client = client
        self._base_url = base_url
        self._link = link

    async def post(
        self, path: str, body: Mapping[str, object], request_id: str
    ) -> AsyncGenerator[dict[str, Any] | Leg, None]:
        """Send one request; yield its answer's events, then what went over the link.

        Raises:
            PeerLost: the server went away, or cannot be reached.
            AgentbusError: the server answered with an error; it is the same class as there.
        """
        request = self._client.build_request(
            "POST",
            self._base_url + path,
            content=orjson.dumps(body),
            headers={"content-type": "application/json", "x-request-id": request_id},
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                async with aclosing(self._events(response)) as events:
                    async for event in events:
                        yield event
                yield Leg(self._link, _request_bytes(request), _response_bytes(response))
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise PeerLost(self._link) from error

    async def _events(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
        if response.status_code != httpx.codes.OK:
            problem = f"HTTP status {response.status_code}"
            raise EngineFailed(self._link, problem)
        decoder = EventDecoder()
        async for chunk in response.aiter_bytes():
            for event in decoder.feed(chunk):
                if "error" in event:
                    raise _error(event["error"])
                yield event


def _error(data: object) -> AgentbusError:
    match data:
        case {"code": str(code), "fields": dict(fields)}:
            return restore(code, fields)
        case _:
            return MalformedFrame("an error event without code and fields")


def _headers_bytes(headers: httpx.Headers) -> int:
    separators = len(": ") + _LINE_END
    return sum(len(name) + len(value) + separators for name, value in headers.raw) + _LINE_END


def _request_bytes(request: httpx.Request) -> int:
    line = f"{request.method}  HTTP/1.1".encode() + request.url.raw_path
    return len(line) + _LINE_END + _headers_bytes(request.headers) + len(request.content)


def _response_bytes(response: httpx.Response) -> int:
    line = f"HTTP/1.1 {response.status_code} {response.reason_phrase}"
    body = response.num_bytes_downloaded
    return len(line) + _LINE_END + _headers_bytes(response.headers) + body

"""A process that hosts agents behind HTTP, as agent services are commonly built.

Each request brings the whole transcript; the agent lays it out as a chat, asks the engine's server
for a completion, and streams the text back. Nothing is kept between requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pydantic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import AgentbusError
from .events import Leg
from .http_client import EventClient, open_client
from .layouts import LAYOUTS
from .roles import Role
from .script import Said
from .serving import bad_request, event_stream, read_json, serve
from .sse import encode_event

__all__ = ["AgentServer", "build"]


class _Said(pydantic.BaseModel):
    kind: str
    author: str
    text: str


class _AskBody(pydantic.BaseModel):
    transcript: list[_Said]
    max_tokens: int = pydantic.Field(gt=0)


@dataclass(frozen=True, slots=True)
class AgentServer:
    """Answers for the agents of one process."""

    engines: Mapping[str, EventClient]
    """The engine of each way."""
    model: str
    roles: tuple[Role, ...]
    agents: frozenset[str]
    """Names of those of `roles` who live here."""
    layouts: Mapping[str, str]
    """The name in `LAYOUTS` that each way uses; a way is also its KV's salt."""

    def application(self) -> Starlette:
        """Return the server's routes."""
        return Starlette(routes=[Route("/{way}/agents/{name}", self._ask, methods=["POST"])])

    async def _ask(self, request: Request) -> Response:
        way, name = request.path_params["way"], request.path_params["name"]
        if name not in self.agents or way not in self.layouts:
            return JSONResponse({"error": {"message": "no such agent"}}, status_code=404)
        try:
            body = _AskBody.model_validate(await read_json(request))
        except (ValueError, AgentbusError) as error:
            return bad_request(error)
        request_id = request.headers.get("x-request-id", "")
        return event_stream(self._answer(way, name, body, request_id))

    async def _answer(
        self, way: str, name: str, body: _AskBody, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        transcript = [Said(said.kind, said.author, said.text) for said in body.transcript]
        completion = {
            "model": self.model,
            **LAYOUTS[self.layouts[way]](self.roles, transcript, name),
            "max_tokens": body.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_salt": way,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        usage: Mapping[str, Any] = {}
        posted = self.engines[way].post("/v1/chat/completions", completion, request_id)
        async with aclosing(posted) as events:
            async for event in events:
                if isinstance(event, Leg):
                    yield encode_event({"usage": usage, "leg": event})
                elif "usage" in event:
                    usage = event["usage"]
                else:
                    yield encode_event({"text": event["choices"][0]["delta"]["content"]})


@asynccontextmanager
async def build(settings: Mapping[str, Any]) -> AsyncGenerator[Starlette, None]:
    """Connect to the engines' servers and yield the agents' server.

    `settings`: `engines` (way to URL), `model`, `roles` (name to text), `agents` (names), `layouts`
    (way to layout).
    """
    roles = tuple(Role(name, text) for name, text in settings["roles"].items())
    async with open_client() as client:
        yield AgentServer(
            {
                way: EventClient(client, url, "agent to engine")
                for way, url in settings["engines"].items()
            },
            settings["model"],
            roles,
            frozenset(settings["agents"]),
            settings["layouts"],
        ).application()


if __name__ == "__main__":
    serve(build)

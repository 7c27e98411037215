"""An OpenAI-style chat completion server over one engine, as a process of its own.

What vLLM offers under the same names: streamed `/v1/chat/completions` with `ignore_eos`,
`continue_final_message`, `cache_salt` and usage in the last chunk; `/tokenize`. Whole chats come in
and are rendered and tokenized anew for each request. What only a replay needs (which token ids to
decode, which salts run without a prefix cache) is given at the start, so that no request is longer
than it would be in an ordinary system.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pydantic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..context.layout import Prompt, Turn
from ..engine.base import Engine, Finished, GenerateRequest, Usage
from ..errors import AgentbusError, LayoutError
from .replayed import open_replayed
from .serving import bad_request, event_stream, read_json, serve
from .sse import encode_event

__all__ = ["ChatServer", "build"]


class _Message(pydantic.BaseModel):
    role: str
    content: str
    name: str = ""


class _TokenizeBody(pydantic.BaseModel):
    messages: list[_Message]
    continue_final_message: bool = False

    def prompt(self) -> Prompt:
        """Return the chat as turns and a cue.

        Raises:
            LayoutError: the final message cannot be continued: it is not `name:` of an assistant.
        """
        turns = [Turn(message.role, message.content, message.name) for message in self.messages]
        if not self.continue_final_message:
            return Prompt(tuple(turns), Turn("assistant", ""))
        last = turns.pop() if turns else Turn("", "")
        if last.role != "assistant" or not last.text.endswith(":"):
            raise LayoutError("only an assistant message that ends in ':' can be continued")
        return Prompt(tuple(turns), Turn("assistant", "", last.text.removesuffix(":")))


class _ChatBody(_TokenizeBody):
    model: str
    stream: bool = True
    max_tokens: int = pydantic.Field(default=256, gt=0)
    ignore_eos: bool = False
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class ChatServer:
    """Answers requests with one engine."""

    engine: Engine
    uncached: frozenset[str]
    """Salts whose requests run without a prefix cache."""

    def application(self) -> Starlette:
        """Return the server's routes."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
            ]
        )

    async def _tokenize(self, request: Request) -> Response:
        try:
            body = _TokenizeBody.model_validate(await read_json(request))
            tokens = self.engine.tokenize(body.prompt())
        except (ValueError, AgentbusError) as error:
            return bad_request(error)
        return JSONResponse({"count": len(tokens), "tokens": tokens})

    async def _chat(self, request: Request) -> Response:
        request_id = request.headers.get("x-request-id", "")
        try:
            body = _ChatBody.model_validate(await read_json(request))
            call = GenerateRequest(
                prompt=self.engine.tokenize(body.prompt()),
                max_tokens=body.max_tokens,
                ignore_end=body.ignore_eos,
                reuse=body.cache_salt not in self.uncached,
                tenant=body.cache_salt,
                label=request_id,
            )
        except (ValueError, AgentbusError) as error:
            return bad_request(error)
        return event_stream(self._chunks(call, request_id, body.model))

    async def _chunks(
        self, call: GenerateRequest, request_id: str, model: str
    ) -> AsyncGenerator[bytes, None]:
        frame = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        async with aclosing(self.engine.generate(call)) as answer:
            async for item in answer:
                if isinstance(item, Finished):
                    choice = {"index": 0, "delta": {}, "finish_reason": item.reason}
                    yield encode_event({**frame, "choices": [choice], "usage": _usage(item.usage)})
                else:
                    delta = {"content": item.text}
                    choice = {"index": 0, "delta": delta, "finish_reason": None}
                    yield encode_event({**frame, "choices": [choice]})


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.decoded_tokens,
        "total_tokens": usage.prompt_tokens + usage.decoded_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.reused_tokens},
    }


@asynccontextmanager
async def build(settings: Mapping[str, Any]) -> AsyncGenerator[Starlette, None]:
    """Open the engine that `settings` describes and yield its server.

    `settings`: as `open_replayed`'s, and `uncached` (salts).
    """
    engine = await open_replayed(settings)
    try:
        yield ChatServer(engine, frozenset(settings["uncached"])).application()
    finally:
        await engine.aclose()


if __name__ == "__main__":
    serve(build)

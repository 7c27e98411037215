from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketStream

from agentbus.demo.events import Leg
from agentbus.demo.http_client import EventClient, open_client
from agentbus.demo.sse import encode_event
from agentbus.errors import (
    AgentbusError,
    ContextTooLong,
    EngineFailed,
    MalformedFrame,
    PeerLost,
    describe,
)

pytestmark = pytest.mark.anyio


class RawServer:
    """Answers each request with fixed bytes and keeps what came over the socket."""

    def __init__(self, body: bytes, status: str = "200 OK", cut: int = 0) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self.answer = (head + body)[: len(head + body) - cut]
        self.received: list[bytes] = []

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            size = int({k.lower(): v for k, v in fields.items()}[b"content-length"])
            while len(body) < size:
                body += await stream.receive()
            self.received.append(head + b"\r\n\r\n" + body)
            await stream.send(self.answer)


async def post(server: RawServer) -> list[object]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        outcome = await ask(f"http://127.0.0.1:{port}")
        tasks.cancel_scope.cancel()
    if isinstance(outcome, AgentbusError):
        raise outcome
    return outcome


async def ask(url: str) -> list[object] | AgentbusError:
    async with open_client() as client:
        events = EventClient(client, url, "link").post("/way/ä?", {"text": "ü" * 900}, "7")
        try:
            with anyio.fail_after(10):
                return [event async for event in events]
        except AgentbusError as error:
            return error


async def test_bytes_are_those_on_the_socket() -> None:
    server = RawServer(encode_event({"text": "hi"}) + encode_event({"text": "ho"}))
    *events, leg = await post(server)
    assert events == [{"text": "hi"}, {"text": "ho"}]
    assert leg == Leg("link", len(server.received[0]), len(server.answer))


async def test_the_peers_error_is_the_same_class_here() -> None:
    code, fields = describe(ContextTooLong(9000, 8192))
    server = RawServer(encode_event({"error": {"code": code, "fields": fields}}))
    with pytest.raises(ContextTooLong) as caught:
        await post(server)
    assert caught.value.window == 8192


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (RawServer(b"x", cut=1), PeerLost),
        (RawServer(b"", cut=10), PeerLost),
        (RawServer(b"", status="500 Broken"), EngineFailed),
        (RawServer(b"data: {\n\n"), MalformedFrame),
        (RawServer(encode_event({"error": "bad"})), MalformedFrame),
    ],
)
async def test_a_broken_answer_is_a_typed_error(
    server: RawServer, error: type[AgentbusError]
) -> None:
    with pytest.raises(error):
        await post(server)


async def test_nobody_there_is_a_lost_peer() -> None:
    assert isinstance(await ask("http://127.0.0.1:1"), PeerLost)

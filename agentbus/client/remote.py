"""The callee's side of a request that came over a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from ..context import Context
from ..errors import (
    AgentbusError,
    DeadlineExceeded,
    DeliveryError,
    MalformedFrame,
    RequestCancelled,
)
from ..messages import Envelope, Kind
from ..telemetry import HopAccount, ModelCost
from ..transport import Link
from ..wire import failure_envelope
from .deadlines import Deadline
from .mailbox import Delivery
from .payload import payload_type

__all__ = ["RemoteReplies", "read_account"]


_PACKER = msgpack.Packer(buf_size=1024)


class RemoteReplies:
    """Sends a handler's results back over a link. Implements `Replies`."""

    __slots__ = ("_context", "_id", "_link", "_on_end", "_open", "_pack", "deadline", "delivery")

    def __init__(
        self,
        link: Link,
        request: Envelope,
        context: Context | None,
        pack: Callable[[Context], bytes],
        on_end: Callable[[int], object],
    ) -> None:
        self._link = link
        self._id = request.id
        self._context = context
        self._pack = pack
        self._on_end = on_end
        self._open = True
        self.deadline: Deadline | None = None
        self.delivery: Delivery | None = None

    def part(self, value: Any) -> None:
        """Send one part."""
        if self._open:
            kind = payload_type(type(value))
            frame = kind.encode(value)
            self._link.send(Envelope(Kind.PART, self._id, schema=kind.name, payloads=(frame,)))

    def reply(self, value: Any, context: Context | None, account: HopAccount) -> None:
        """Send the reply; the context goes along if the handler changed it."""
        if not self._open:
            return
        try:
            kind = payload_type(type(value))
            packed = b""
            if context is not None and context != self._context:
                packed = self._pack(context)
            payloads = (kind.encode(value), _pack_account(account))
            reply = Envelope(
                Kind.REPLY, self._id, schema=kind.name, context=packed, payloads=payloads
            )
            self._link.send(reply)
            self._end()
        except AgentbusError as error:
            self.fail(error)

    def fail(self, error: AgentbusError) -> None:
        """Send the error."""
        if not self._open:
            return
        self._end()
        try:
            self._link.send(failure_envelope(self._id, error))
        except DeliveryError:
            # The caller must not wait for ever: with the link gone it gets PeerLost.
            self._link.abort()

    def expire(self) -> None:
        """End since the deadline has passed."""
        if self.delivery is not None:
            self.delivery.cancel(DeadlineExceeded(""))
        self.fail(DeadlineExceeded(""))

    def drop(self) -> None:
        """End since nobody waits for a reply."""
        if self._open:
            self._end()
            if self.delivery is not None:
                self.delivery.cancel(RequestCancelled(""))

    def _end(self) -> None:
        self._open = False
        if self.deadline is not None:
            self.deadline.cancel()
        self._on_end(self._id)


def _pack_account(account: HopAccount) -> bytes:
    row: list[Any] = [account.queue_s, account.handle_s]
    if account.model.calls:
        row.append(account.model.pack())
    packed: bytes = _PACKER.pack(row)
    return packed


def read_account(frame: bytes | memoryview, account: HopAccount) -> None:
    """Fill in what the callee measured.

    Raises:
        MalformedFrame: the frame is no account.
    """
    try:
        row = msgpack.unpackb(frame)
        account.queue_s, account.handle_s = float(row[0]), float(row[1])
        if len(row) > 2:
            account.model = ModelCost.unpack(row[2])
    except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException) as error:
        raise MalformedFrame(f"the account of a reply: {error}") from error

"""Errors as ERROR envelopes carry them: the code in the schema, the fields in the payload."""

from __future__ import annotations

from typing import Final

import msgpack

from ..errors import AgentbusError, MalformedFrame, describe, restore
from ..messages import Envelope, Kind
from .codec import unpack

__all__ = ["failure_envelope", "read_failure"]

_MAX_FIELD: Final = 4096
"""Longest text of an error's field, in characters; longer ones are cut at the sender."""
_MAX_FIELD_BYTES: Final = 4 * _MAX_FIELD
_MAX_FIELDS: Final = 16


def failure_envelope(
    request_id: int, error: AgentbusError, spent: tuple[int, int] | None = None
) -> Envelope:
    """Make the envelope that ends a request, or with id 0 the link, with `error`.

    `spent` is what a request with a budget has spent, as in `Envelope.budget`.
    """
    code, data = describe(error)
    cut = {k: v[:_MAX_FIELD] if isinstance(v, str) else v for k, v in data.items()}
    packed = msgpack.packb(cut, unicode_errors="replace")
    return Envelope(Kind.ERROR, request_id, schema=code, payloads=(packed,), budget=spent)


def read_failure(envelope: Envelope) -> AgentbusError:
    """Rebuild the error that an ERROR envelope carries.

    Raises:
        MalformedFrame: it carries none.
    """
    if len(envelope.payloads) != 1:
        raise MalformedFrame(f"an error of {len(envelope.payloads)} payload frames")
    data = unpack(envelope.payloads[0], text=_MAX_FIELD_BYTES, items=0, pairs=_MAX_FIELDS)
    if type(data) is not dict or not all(type(key) is str for key in data):
        raise MalformedFrame("an error's fields are not a map")
    return restore(envelope.schema, data)

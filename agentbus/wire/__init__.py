"""The protocol between two processes, without I/O: frames, and the session of one link."""

from __future__ import annotations

from .batches import (
    MAX_BATCH,
    TRACE_SIZE,
    Joined,
    JoinKey,
    count_batch,
    is_small,
    join_batch,
    pack_parts_head,
    pack_reply_head,
    pack_request_head,
    published,
    read_parts_heads,
    read_reply_heads,
    read_request_heads,
)
from .buffers import (
    Frames,
    buffer_type,
    copy_buffers,
    is_buffer_type,
    pack,
    unpack_frames,
)
from .codec import MAX_TEXT, Buffer, Decoder, Encoder, encode
from .failures import failure_envelope, read_failure
from .hello import TICKET_SIZE, Hello
from .liveness import Liveness, Verdict
from .resume import ACK_EVERY, Backoff, Resume, Resumption, Unacknowledged
from .session import Session, State
from .shared import (
    BLOCK_ALIGN,
    NO_SHARING,
    BlockTable,
    Loan,
    Reference,
    SharedPayloads,
    check_loan,
)
from .version import PROTOCOL_VERSION

__all__ = [
    "ACK_EVERY",
    "BLOCK_ALIGN",
    "MAX_BATCH",
    "MAX_TEXT",
    "NO_SHARING",
    "PROTOCOL_VERSION",
    "TICKET_SIZE",
    "TRACE_SIZE",
    "Backoff",
    "BlockTable",
    "Buffer",
    "Decoder",
    "Encoder",
    "Frames",
    "Hello",
    "JoinKey",
    "Joined",
    "Liveness",
    "Loan",
    "Reference",
    "Resume",
    "Resumption",
    "Session",
    "SharedPayloads",
    "State",
    "Unacknowledged",
    "Verdict",
    "buffer_type",
    "check_loan",
    "copy_buffers",
    "count_batch",
    "encode",
    "failure_envelope",
    "is_buffer_type",
    "is_small",
    "join_batch",
    "pack",
    "pack_parts_head",
    "pack_reply_head",
    "pack_request_head",
    "published",
    "read_failure",
    "read_parts_heads",
    "read_reply_heads",
    "read_request_heads",
    "unpack_frames",
]

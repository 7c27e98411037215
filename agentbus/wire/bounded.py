"""Values from a peer, unpacked within bounds. What a value means is for those who read it."""

from __future__ import annotations

from typing import Any

import msgpack

from ..errors import MalformedFrame

__all__ = ["unpack"]


def unpack(data: bytes | bytearray | memoryview, *, text: int, items: int, pairs: int = 0) -> Any:
    """Unpack msgpack from a peer: no ext types, `text` bytes a string, bounded collections.

    Args:
        data: one whole value.
        text: longest string or binary, in bytes.
        items: longest array.
        pairs: largest map.

    Raises:
        MalformedFrame: it is no such value.
    """
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            max_str_len=text,
            max_bin_len=text,
            max_array_len=items,
            max_map_len=pairs,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"not msgpack within its bounds: {error}") from error

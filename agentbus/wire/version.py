"""The version of the protocol that this process speaks.

One number for the whole wire: a change that an older peer cannot read raises it. What two versions
must share for ever is the shape of the HELLO frame up to its version, so that each can name the
other's.
"""

from __future__ import annotations

__all__ = ["PROTOCOL_VERSION"]

PROTOCOL_VERSION = 6

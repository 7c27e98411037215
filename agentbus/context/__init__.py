"""Context by reference: what was said, how it is shipped, and how each reader's model sees it."""

from .delta import CHECK_SIZE, Delta, HeldRoots, KnownRoots, delta_for, pack, unpack
from .layout import (
    LAYOUTS,
    ROSTER_INTRODUCTION,
    SHARED_INTRODUCTION,
    Layout,
    Part,
    Prompt,
    Turn,
    delivered_root,
    find_layout,
    role_first,
    roster_first,
    shared_first,
)
from .resolve import CONTEXT_BYTES, ContextStore
from .segment import DIGEST_SIZE, Context, Segment, SegmentKind, TenantKey
from .template import Render, Template, TurnPieces, probe
from .tools import canonical_tools, merge_tools, read_call, write_call

__all__ = [
    "CHECK_SIZE",
    "CONTEXT_BYTES",
    "DIGEST_SIZE",
    "LAYOUTS",
    "ROSTER_INTRODUCTION",
    "SHARED_INTRODUCTION",
    "Context",
    "ContextStore",
    "Delta",
    "HeldRoots",
    "KnownRoots",
    "Layout",
    "Part",
    "Prompt",
    "Render",
    "Segment",
    "SegmentKind",
    "Template",
    "TenantKey",
    "Turn",
    "TurnPieces",
    "canonical_tools",
    "delivered_root",
    "delta_for",
    "find_layout",
    "merge_tools",
    "pack",
    "probe",
    "read_call",
    "role_first",
    "roster_first",
    "shared_first",
    "unpack",
    "write_call",
]

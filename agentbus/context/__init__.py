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
from .lint import Cause, Finding, Linter, TokenCounter, prompt_parts, text_parts
from .resolve import CONTEXT_BYTES, ContextStore
from .segment import DIGEST_SIZE, Context, Segment, SegmentKind, TenantKey
from .template import Render, Template, TurnPieces, probe
from .tools import canonical_tools, merge_tools, read_call, write_call
from .transcript import Transcript, export_transcript, import_transcript

__all__ = [
    "CHECK_SIZE",
    "CONTEXT_BYTES",
    "DIGEST_SIZE",
    "LAYOUTS",
    "ROSTER_INTRODUCTION",
    "SHARED_INTRODUCTION",
    "Cause",
    "Context",
    "ContextStore",
    "Delta",
    "Finding",
    "HeldRoots",
    "KnownRoots",
    "Layout",
    "Linter",
    "Part",
    "Prompt",
    "Render",
    "Segment",
    "SegmentKind",
    "Template",
    "TenantKey",
    "TokenCounter",
    "Transcript",
    "Turn",
    "TurnPieces",
    "canonical_tools",
    "delivered_root",
    "delta_for",
    "export_transcript",
    "find_layout",
    "import_transcript",
    "merge_tools",
    "pack",
    "probe",
    "prompt_parts",
    "read_call",
    "role_first",
    "roster_first",
    "shared_first",
    "text_parts",
    "unpack",
    "write_call",
]

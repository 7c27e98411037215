"""Layouts: how one reader's model sees a context, as turns and an open cue."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Prompt", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat template. A named turn's text starts with its speaker: `name: text`."""

    role: str
    """`system`, `user` or `assistant`."""
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one call's model reads.

    `cue` is an assistant turn with empty text: it opens the answer and names its speaker. It is
    the beginning of the same turn as it will stand in later prompts, so that the KV of a generated
    answer serves every later reader.
    """

    turns: tuple[Turn, ...]
    cue: Turn
    delivered_root: bytes = field(default=b"", repr=False)

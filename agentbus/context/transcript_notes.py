"""What a message of a transcript says beyond its segments, as a note's text, and back.

A note holds the difference between a message and what its segments give by themselves. Texts are
never kept twice: of parts that are text, a note holds the length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .segment import SegmentKind

__all__ = ["TEXT_JOINT", "Note", "joined_text", "read_note", "restored", "write_note"]

TEXT_JOINT = "\n"
"""Stands between the parts of a content where a model reads them as one text."""

Message = dict[str, Any]
_KINDS = {kind.value: kind for kind in SegmentKind}


class Note(NamedTuple):
    """A note, read: which segments the message behind it has, and what to change."""

    kinds: tuple[SegmentKind, ...]
    changes: Message
    calls: tuple[Message, ...]


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def joined_text(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return what a model reads of a content in parts; what is no text stands as `[type]`."""
    texts = [p["text"] if _is_text(p) else f"[{p.get('type', 'part')}]" for p in parts]
    return TEXT_JOINT.join(texts)


def _without_texts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{**part, "text": len(part["text"])} if _is_text(part) else part for part in content]


def _with_texts(parts: Sequence[Any], text: str) -> list[Any]:
    found: list[Any] = []
    place = 0
    for part in parts:
        length = part.get("text") if isinstance(part, dict) else None
        if isinstance(length, int) and part.get("type") == "text":
            found.append({**part, "text": text[place : place + length]})
        else:
            found.append(part)
            length = len(joined_text([part])) if isinstance(part, dict) else 0
        place += length + len(TEXT_JOINT)
    return found


def _difference(plain: Mapping[str, Any], given: Mapping[str, Any]) -> Message:
    changed = {k: v for k, v in given.items() if k not in plain or not _same(plain[k], v)}
    missing = sorted(key for key in plain if key not in given)
    found: Message = {"set": changed} if changed else {}
    return {**found, "unset": missing} if missing else found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _changed(plain: Message, change: Mapping[str, Any]) -> Message:
    unset = change.get("unset", ())
    kept = {key: value for key, value in plain.items() if key not in unset}
    return {**kept, **change.get("set", {})}


def write_note(plain: Message, given: Mapping[str, Any], kinds: Sequence[SegmentKind]) -> str:
    """Return the note that makes `given` of `plain`; empty if nothing is to be changed.

    Raises:
        ValueError, TypeError, RecursionError: the message holds what is not JSON.
    """
    given = {**given, "content": _without_texts(given["content"])} if "content" in given else given
    calls = [
        _difference(one, other)
        for one, other in zip(
            plain.get("tool_calls", ()), given.get("tool_calls") or (), strict=False
        )
    ]
    change = _difference(
        {key: value for key, value in plain.items() if key != "tool_calls"},
        {k: v for k, v in given.items() if k != "tool_calls" or not calls},
    )
    if any(calls):
        change["calls"] = calls
    if not change:
        return ""
    change["kinds"] = [kind.value for kind in kinds]
    return json.dumps(
        change, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


def read_note(text: str) -> Note | None:
    """Read a note; None if it is none of ours, which is then nobody's message.

    What it changes has to be checked: anybody may have written it.
    """
    try:
        value = json.loads(text)
        kinds = tuple(_KINDS[kind] for kind in value["kinds"])
        calls = tuple(value.get("calls", ()))
        if all(map(_is_change, (value, *calls))) and not value.get("set", {}).get("tool_calls"):
            return Note(kinds, value, calls)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None


def _is_change(value: Message) -> bool:
    return isinstance(value.get("set", {}), dict) and isinstance(value.get("unset", []), list)


def restored(plain: Message, note: Note, text: str) -> Message:
    """Return the message that `write_note` was given. `text` is what a model reads of it."""
    found = _changed(plain, note.changes)
    if isinstance(found.get("content"), list):
        found["content"] = _with_texts(found["content"], text)
    if note.calls and isinstance(found.get("tool_calls"), list):
        pairs = zip(found["tool_calls"], note.calls, strict=False)
        found["tool_calls"] = [_changed(call, change) for call, change in pairs]
    return found

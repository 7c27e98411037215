"""Files of model calls, as `agentbus context` reads them: transcripts, or sessions of prompts."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..context import Context, Part, Segment, TenantKey, find_layout, import_transcript, text_parts
from ..errors import ContextError, UnreadableFile

__all__ = ["MAX_CALLS", "MAX_FILE", "ModelCall", "Session", "read_bytes", "read_sessions"]

MAX_FILE = 256 * 1024 * 1024
"""Bytes of a file, unpacked."""
MAX_CALLS = 100_000
"""Calls of one session, and sessions of one file."""
_FORMS = (
    'a transcript {"messages": […]}, a list of such or of messages, or a session '
    '{"calls": [{"input": "…"}]}'
)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What one model call was given: a transcript as a context, or the prompt's text alone."""

    context: Context | None
    text: str
    agent: str

    @property
    def parts(self) -> tuple[Part, ...]:
        """The prompt in named parts: a transcript as the assistant's model reads it."""
        if self.context is None:
            return text_parts(self.text)
        return find_layout("role_first").parts(self.context, self.agent)

    @property
    def segments(self) -> Sequence[Segment]:
        """The context's segments; none if only the text is known."""
        return () if self.context is None else self.context.segments()


@dataclass(frozen=True, slots=True)
class Session:
    """Calls in the order in which they were made."""

    name: str
    calls: tuple[ModelCall, ...]


def read_sessions(path: Path, agent: str) -> list[Session]:
    """Read a file of JSON or JSON Lines, also packed by gzip.

    Calls that stand alone in one file are one session.

    Raises:
        UnreadableFile: it cannot be read, or what stands in it is neither; the error names the
            line and the field.
    """
    raw = read_bytes(path)
    try:
        whole = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        places, values = _lines(path, raw, error)
    else:
        values = whole if isinstance(whole, list) and not _is_messages(whole) else [whole]
        places = [f"item {n}" if len(values) > 1 else "" for n in range(1, len(values) + 1)]
    return _sessions(path, values, places, agent)


def read_bytes(path: Path) -> bytes:
    """Return what is in a file, unpacked if its name ends in .gz; of `-`, the standard input.

    Raises:
        UnreadableFile: it cannot be read, is empty, or holds over `MAX_FILE` bytes.
    """
    try:
        with _opened(path) as file:
            raw: bytes = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UnreadableFile(str(path), str(error.strerror or error)) from error
    except (EOFError, zlib.error) as error:
        raise UnreadableFile(str(path), f"it is not whole: {error}") from error
    if len(raw) > MAX_FILE:
        raise UnreadableFile(str(path), f"it is over {MAX_FILE} bytes")
    if not raw.strip():
        raise UnreadableFile(str(path), "it is empty")
    return raw


def _opened(path: Path) -> AbstractContextManager[Any]:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)  # which stays open
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path, raw: bytes, whole: ValueError) -> tuple[list[str], list[Any]]:
    """Read JSON Lines; `whole` says why the file is not JSON, and where: not even its first line."""
    places: list[str] = []
    values: list[Any] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.strip():
            places.append(f"line {number}")
            try:
                values.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                problem = f"{places[-1]} is not JSON: {error}" if values else f"not JSON: {whole}"
                raise UnreadableFile(str(path), problem) from error
    return places, values


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)


def _sessions(path: Path, values: list[Any], places: list[str], agent: str) -> list[Session]:
    sessions: list[Session] = []
    alone: list[ModelCall] = []
    if len(values) > MAX_CALLS:
        raise UnreadableFile(str(path), f"{len(values)} calls are over the limit of {MAX_CALLS}")
    for value, place in zip(values, places, strict=True):
        if isinstance(value, dict) and isinstance(value.get("calls"), list):
            sessions.append(_session(path, value, place, agent))
        else:
            alone.append(_call(path, value, place, agent))
    return [*([Session(path.name, tuple(alone))] if alone else []), *sessions]


def _session(path: Path, value: dict[str, Any], place: str, agent: str) -> Session:
    calls = value["calls"]
    if len(calls) > MAX_CALLS:
        problem = f"{len(calls)} calls are over the limit of {MAX_CALLS}"
        raise UnreadableFile(str(path), f"{place}: {problem}" if place else problem)
    before = f"{place}, " if place else ""
    read = (
        _call(path, call, f"{before}calls[{number}]", agent) for number, call in enumerate(calls)
    )
    name = value.get("id")
    return Session(name if isinstance(name, str) and name else place or path.name, tuple(read))


def _call(path: Path, value: Any, place: str, agent: str) -> ModelCall:
    where = f"{place}: " if place else ""
    if _is_messages(value):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise UnreadableFile(str(path), f"{where}not {_FORMS}")
    if isinstance(value.get("input"), str):
        return ModelCall(None, value["input"], agent)
    if "messages" not in value:
        raise UnreadableFile(str(path), f"{where}not {_FORMS}")
    try:
        tools = value.get("tools") or ()
        context = import_transcript(
            value["messages"], start=TenantKey().empty(), agent=agent, tools=tools
        )
    except ContextError as error:
        raise UnreadableFile(str(path), f"{where}{error}") from error
    return ModelCall(context, "", agent)

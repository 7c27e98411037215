"""What a model's prompt leaves out, had back by the handler or by the model itself.

A call's context holds most of it. What summaries and new versions stand for there is looked for in
what this process keeps, and then asked of the process that made the call.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..context import (
    CONTEXT_TOOL_NAMES,
    SEARCH_LIMIT,
    ContextStore,
    Fetched,
    FetchStatus,
    Searched,
    Segment,
)
from ..context.fetch import Lookup, fetched, searched
from ..context.fetch_tool import GetRequest, read_request, write_fetched, write_searched
from ..engine.tools import ToolCall
from ..errors import UnknownContext

if TYPE_CHECKING:
    from .call import Call

__all__ = ["answer_tool", "fetch_text", "search_text"]

_ASKS = 16
"""Contexts that the other process is asked for at most, to find one segment."""


async def fetch_text(
    call: Call, ref: str, lines: tuple[int, int] | None, characters: tuple[int, int] | None
) -> Fetched:
    """Return a part of what a reference names. As `Call.fetch_text`."""
    return fetched(await _find(call, ref), lines, characters)


async def search_text(call: Call, ref: str, query: str, limit: int) -> Searched:
    """Return what a search finds in what a reference names. As `Call.search_text`."""
    return searched(await _find(call, ref), query, limit)


async def answer_tool(call: Call, asked: ToolCall) -> bool:
    """Answer what a model asks of the context's tool. As `Call.answer_tool`."""
    if asked.name not in CONTEXT_TOOL_NAMES:
        return False
    request = read_request(asked.name, asked.arguments)
    if isinstance(request, str):
        answer = request
    elif isinstance(request, GetRequest):
        part = await fetch_text(call, request.ref, request.lines, request.characters)
        answer = write_fetched(request, part)
    else:
        lines = await search_text(call, request.ref, request.query, SEARCH_LIMIT)
        answer = write_searched(request, lines)
    context = call.context or call.empty_context()
    call.context = context.tool_result(asked.name, answer)
    return True


async def _find(call: Call, ref: str) -> Segment | FetchStatus:
    lookup = Lookup(ref)
    lookup.walk(call.context or call.empty_context())
    away = deque(_look_here(lookup, call.contexts))
    asks = 0
    while lookup.found is None and away and asks < _ASKS:
        asks += 1
        try:
            lookup.walk(await call.fetch(away.popleft()))
        except UnknownContext:
            continue
        away += _look_here(lookup, call.contexts)
    return lookup.outcome(call.agent)


def _look_here(lookup: Lookup, store: ContextStore) -> list[bytes]:
    """Look through all that is wanted and kept here; return the roots of what is not."""
    away: list[bytes] = []
    while lookup.found is None:
        if (digest := lookup.segment_wanted()) is not None:
            if (segment := store.segment(digest)) is not None:
                lookup.take(segment)
        elif (root := lookup.context_wanted()) is not None:
            if (context := store.get(root)) is not None:
                lookup.walk(context)
            else:
                away.append(root)
        else:
            break
    return away

"""What a log of calls could reuse at best: with an endless pool, and by Belady's choice.

Both are computed from the whole log, future included, without the KV index. The log's prompts are
laid into one tree first, whose runs of tokens no prompt divides; so a run is needed whole or not
at all. A prompt's last token is a run of its own: a call computes it in any case.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentbus.kv.tree import TOKEN_BYTES, pack_tokens, shared_length

from .replay import LoggedCall

__all__ = ["Oracle"]

_NEVER = 1 << 60


@dataclass(slots=True, eq=False)
class _Run:
    """Tokens that always follow each other, behind those of `parent`."""

    parent: _Run | None
    start: int
    tokens: bytes
    children: dict[bytes, _Run] = field(default_factory=dict)
    uses: list[int] = field(default_factory=list)
    """The calls that can reuse it, latest first; those that are over are taken off."""
    held: int = 0
    """How many of its tokens are in the pool."""
    held_children: int = 0
    version: int = 0

    @property
    def length(self) -> int:
        return len(self.tokens) // TOKEN_BYTES

    @property
    def next_use(self) -> int:
        return self.uses[-1] if self.uses else _NEVER


class Oracle:
    """Knows a whole log."""

    def __init__(self, calls: Sequence[LoggedCall]) -> None:
        roots: dict[bytes, _Run] = {}
        for call in calls:
            root, tokens = roots.setdefault(call.namespace, _Run(None, 0, b"")), call.tokens
            _insert(root, pack_tokens(tokens[:-1]))
            _insert(root, pack_tokens(tokens))
        self._paths = [_path(roots[call.namespace], pack_tokens(call.tokens)) for call in calls]
        self.working_set = sum(run.length for run in _runs(self._paths))
        """Tokens that differ, as prefixes: what a pool needs to evict nothing."""

    def own(self) -> list[int]:
        """Return what of each call stood in an earlier one: the most that any cache can reuse."""
        seen: set[int] = set()
        shares = []
        for path in self._paths:
            shares.append(sum(run.length for run in path[:-1] if id(run) in seen))
            seen.update(map(id, path))
        return shares

    def belady(self, pool: int) -> list[int]:
        """Return what each call reuses if what is needed furthest in the future is evicted.

        A prefix is needed no later than what continues it, so this never evicts a prefix before
        its continuations, and what it holds is what it can reuse. Tokens have one size, and a
        running call's own cannot be evicted, as in an engine: by the usual exchange argument no
        policy that computes on demand reuses more.
        """
        return _Belady(self._paths, pool).run()


class _Belady:
    def __init__(self, paths: Sequence[Sequence[_Run]], pool: int) -> None:
        self._paths = paths
        self._free = pool
        self._heap: list[tuple[int, int, int, _Run]] = []
        self._offered = 0
        for run in _runs(paths):
            run.uses.clear()
            run.held = run.held_children = 0
        for number in range(len(paths) - 1, -1, -1):
            for run in paths[number][:-1]:
                run.uses.append(number)

    def run(self) -> list[int]:
        reused = []
        for path in self._paths:
            reused.append(_held(path[:-1]))
            self._make_room(sum(run.length - run.held for run in path), path)
            self._take(path)
        return reused

    def _make_room(self, missing: int, path: Sequence[_Run]) -> None:
        running = set(map(id, path))
        kept = []
        while self._free < missing:
            entry = heapq.heappop(self._heap)
            run = entry[3]
            if entry[2] != run.version or run.held_children or not run.held:
                continue
            if id(run) in running:
                kept.append(entry)
                continue
            gone = min(run.held, missing - self._free)
            run.held -= gone
            self._free += gone
            if run.held == 0 and run.parent is not None:
                run.parent.held_children -= 1
                self._offer(run.parent)
            self._offer(run)
        for entry in kept:
            heapq.heappush(self._heap, entry)

    def _take(self, path: Sequence[_Run]) -> None:
        for run in path:
            if run.held == 0 and run.parent is not None:
                run.parent.held_children += 1
            self._free -= run.length - run.held
            run.held = run.length
        for run in path[:-1]:
            run.uses.pop()
        for run in path:
            self._offer(run)

    def _offer(self, run: _Run) -> None:
        if run.held and not run.held_children:
            self._offered += 1
            run.version = self._offered
            heapq.heappush(self._heap, (-run.next_use, -run.start, run.version, run))


def _runs(paths: Sequence[Sequence[_Run]]) -> Iterable[_Run]:
    return {id(run): run for path in paths for run in path}.values()


def _held(path: Sequence[_Run]) -> int:
    total = 0
    for run in path:
        total += run.held
        if run.held < run.length:
            break
    return total


def _insert(root: _Run, tokens: bytes) -> None:
    run, at = root, 0
    while at < len(tokens):
        key = tokens[at : at + TOKEN_BYTES]
        child = run.children.get(key)
        if child is None:
            run.children[key] = _Run(run, at // TOKEN_BYTES, tokens[at:])
            return
        same = shared_length(child.tokens, tokens[at:]) * TOKEN_BYTES
        if same < len(child.tokens):
            child = _divide(child, same)
        run, at = child, at + same


def _divide(run: _Run, at: int) -> _Run:
    """Cut a run in two and return the upper half."""
    upper = _Run(run.parent, run.start, run.tokens[:at])
    if run.parent is not None:
        run.parent.children[upper.tokens[:TOKEN_BYTES]] = upper
    run.parent, run.start, run.tokens = upper, run.start + at // TOKEN_BYTES, run.tokens[at:]
    upper.children[run.tokens[:TOKEN_BYTES]] = run
    return upper


def _path(root: _Run, tokens: bytes) -> list[_Run]:
    path = []
    run, at = root, 0
    while at < len(tokens):
        run = run.children[tokens[at : at + TOKEN_BYTES]]
        path.append(run)
        at += len(run.tokens)
    return path

"""Stop texts: found in an answer as it streams, and never shown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopScanner", "beginning_at_end"]


class StopScanner:
    """Lets an answer's text through up to the first stop text.

    What may be the beginning of a stop text is held back until more text decides. Where two stop
    texts are found in the same step, the one that begins first counts, then the longer one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.found = ""
        """The stop text that was met; empty while none was."""

    def add(self, text: str) -> str:
        """Take more of the answer; return what may be shown now."""
        if self.found:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        places = [(text.find(stop), -len(stop), stop) for stop in self._stops]
        met = min((place for place in places if place[0] >= 0), default=None)
        if met is not None:
            self.found = met[2]
            return text[: met[0]]
        keep = max(beginning_at_end(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """Return what was held back, now that the answer has ended."""
        held, self._held = self._held, ""
        return held


def beginning_at_end(text: str, mark: str) -> int:
    """Return how many characters at the end of a text are a beginning of `mark`, but not all."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0

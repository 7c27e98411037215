"""The pure record of a finished conversation: what was asked, said and decoded.

Making the record is the live run's business; every way of the comparison replays it unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from .roles import Role

__all__ = ["Conversation", "Hop", "Said"]


@dataclass(frozen=True, slots=True)
class Said:
    """One entry of the shared transcript. `kind` is `document`, `question`, `ask` or `message`."""

    kind: str
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop as it happened.

    `source` asked `target`, and the ask stands in the transcript under its name. `text` is what the
    receiving agent said, and `token_ids` what the model chose: replays decode exactly these ids.
    """

    index: int
    source: str
    target: str
    ask: str
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One whole run of the team."""

    roles: tuple[Role, ...]
    document: str
    question: str
    hops: tuple[Hop, ...]

    @property
    def token_ids(self) -> dict[str, tuple[int, ...]]:
        """What the model chose, by the label of each hop's call."""
        return {str(hop.index): hop.token_ids for hop in self.hops}

    def transcript(self, index: int) -> tuple[Said, ...]:
        """Return all that has been said when hop `index` begins, its ask included."""
        said = [
            Said("document", "document", self.document),
            Said("question", "user", self.question),
        ]
        for hop in self.hops[:index]:
            said += (Said("ask", hop.source, hop.ask), Said("message", hop.target, hop.text))
        now = self.hops[index]
        return (*said, Said("ask", now.source, now.ask))

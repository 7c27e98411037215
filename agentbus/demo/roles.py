"""The demo's team and what it works on: roles, asks, document, question.

The texts are the project's own. Running the team is `team`'s business, comparing is `ways`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..errors import UnreadableFile

__all__ = [
    "DEFAULT_QUESTION",
    "MAX_DOCUMENT_BYTES",
    "ROLES",
    "ROUNDS",
    "WORKERS",
    "Role",
    "Step",
    "load_default_document",
    "load_document",
    "steps",
]

MAX_DOCUMENT_BYTES = 256 * 1024
"""Largest input file that the demo reads."""

DEFAULT_QUESTION = (
    "Which of the three options should the town meeting choose, and which conditions should it "
    "attach?"
)


@dataclass(frozen=True, slots=True)
class Role:
    """One member of the team: its name on the bus and its standing instructions."""

    name: str
    text: str

    @property
    def title(self) -> str:
        """The name as it stands before what the agent said."""
        return self.name.capitalize()


@dataclass(frozen=True, slots=True)
class Step:
    """One hop before it is made: who hands on to whom, and what the receiver is asked."""

    index: int
    source: str
    target: str
    ask: str


ROLES: tuple[Role, ...] = (
    Role(
        "planner",
        "You are the planner of a small team that reads one document and answers one question. "
        "You decide what the others look at next. Begin from the question and split it into the "
        "few points on which the answer turns, such as cost, time, risk and the people it "
        "concerns. Give each point to one member of the team by name: the reader finds facts, "
        "the checker tests them, the writer puts the answer into words. Keep a plan to three "
        "short sentences. Never state a fact that nobody has read out of the document, and never "
        "write the answer yourself. When the others disagree, say which point must be settled "
        "first and who settles it. When the plan is done, say so and hand over to the writer.",
    ),
    Role(
        "reader",
        "You are the reader of a small team that answers one question about one document. You "
        "are the only one who reads facts out of it. Quote names, amounts, dates and conditions "
        "exactly as they stand there, with their units, and say under which heading you found "
        "them. Put the facts that the planner asked for first and leave out all others. If the "
        "document gives a range or an estimate, give the whole range and who made the estimate. "
        "If it does not say something, answer plainly that the document does not say it, and do "
        "not guess. Do not judge the options, do not add up figures, and do not give advice. "
        "Three short sentences are enough for one turn.",
    ),
    Role(
        "checker",
        "You are the checker of a small team that answers one question about one document. You "
        "test what the reader and the writer said against the document and against simple "
        "arithmetic. Look for costs that were left out, for sums that do not add up, for "
        "deadlines that an option cannot meet, and for conditions of one person that harm "
        "another. Name the weakest statement first, say what is wrong with it, and give the "
        "right figure if the document has it. If a statement is right, say that it holds and go "
        "on to the next. Do not repeat what others said and do not propose an option of your "
        "own. Use at most three short sentences, and say which point is still open.",
    ),
    Role(
        "writer",
        "You are the writer of a small team that answers one question about one document. You "
        "turn what the planner, the reader and the checker found into an answer that a resident "
        "who has not read the document can follow. State the choice in the first sentence, then "
        "the reason that weighs most, then the strongest reason against it. Give amounts with "
        "their units and use only figures that the checker did not reject. Attach conditions as "
        "short sentences that each name who must do what by when. Say openly what nobody knows "
        "yet. Write plain full sentences without lists or headings, and keep a turn under four "
        "sentences. In the last round give the final answer only.",
    ),
)

# Small models answer questions about a document better than they follow orders about a team.
_ASKS: tuple[tuple[str, ...], ...] = (
    (
        "Which three points decide between the options?",
        "What does each option cost, and how long does it take?",
        "Which cost or risk is missing from these facts?",
        "Which option should be chosen, and why?",
    ),
    (
        "Who would object to this option, and why?",
        "Which dates and deadlines must be met?",
        "Which of these facts is the least certain?",
        "Is this option still the best one, and what is the main reason?",
    ),
    (
        "Which condition matters most for this option?",
        "What does the document say about that condition?",
        "What is the strongest reason against this option?",
        "Which option is the final answer, and under which conditions?",
    ),
)

WORKERS = (("planner", "writer"), ("reader", "checker"))
"""Which members share a process."""

ROUNDS = len(_ASKS)
"""How often each agent speaks."""


def steps() -> tuple[Step, ...]:
    """Return all hops in order: each agent hands on to the next, the user to the first."""
    names = [role.name for role in ROLES]
    asks = [(name, ask) for asks in _ASKS for name, ask in zip(names, asks, strict=True)]
    sources = ["user", *(name for name, _ in asks)]
    return tuple(
        Step(index, source, target, ask)
        for index, (source, (target, ask)) in enumerate(zip(sources, asks, strict=False))
    )


def load_default_document() -> str:
    """Return the document that the project ships."""
    return resources.files(__package__).joinpath("document.md").read_text(encoding="utf-8").strip()


def load_document(path: Path) -> str:
    """Read the user's own document: UTF-8 text of at most `MAX_DOCUMENT_BYTES`.

    Raises:
        UnreadableFile: the file is missing, a folder, empty, too big or not text.
    """
    if path.is_dir():
        raise UnreadableFile(str(path), "it is a folder; name one text file")
    if not path.exists():
        raise UnreadableFile(str(path), "there is no such file; check the path")
    if not path.is_file():
        raise UnreadableFile(str(path), "it is not an ordinary file; name one text file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise UnreadableFile(str(path), error.strerror or str(error)) from error
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableFile(
            str(path), f"it is larger than {MAX_DOCUMENT_BYTES // 1024} KiB; give a shorter text"
        )
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableFile(str(path), "it is not UTF-8 text; give a plain text file") from None
    if "\0" in text:
        raise UnreadableFile(str(path), "it is not text; give a plain text file")
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise UnreadableFile(str(path), "it is empty; give a file with text in it")
    return text

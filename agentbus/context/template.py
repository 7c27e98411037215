"""Chat templates, probed: what a model's own template does, as text per turn.

A template is a program. `probe` renders sentinel conversations with it and learns the exact text
around each role's turns, or why there is none: only where appending a turn extends the text can
each turn be rendered and tokenized once, and its KV be shared by all later prompts. A template
that fails the probe is still usable; then every prompt is rendered whole, by the template itself.
Running jinja and encoding text as token ids is the engine's business.

Where the space lives: a named turn reads `name:` and then its text verbatim. A cue ends in `name:`,
so a generated text normally begins with a space, and that space is part of the text. Cue,
generated text and the turn's end are then, letter for letter, the turn that later readers get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import LayoutError
from .layout import Prompt, Turn

__all__ = ["Render", "Template", "TurnPieces", "probe", "spoken"]

Render = Callable[[Sequence[Mapping[str, str]], bool], str]
"""A model's template: messages of `role` and `content`, and whether to open an answer."""

TurnPieces = tuple[str, str, str]
"""The markup before a turn's text, the text (its speaker's name included), the markup after it."""

_ROLES = ("system", "user", "assistant")
_JOINT = "\n\n"


def spoken(turn: Turn) -> str:
    """Return a turn's text as a model reads it: behind its speaker's name, if it is named."""
    return f"{turn.name}:{turn.text}" if turn.name else turn.text


@dataclass(frozen=True, slots=True)
class Template:
    """What a probe found out about one model's chat template.

    Where `append_only` is true, a prompt is `opening(role of the first turn)`, each turn's
    `pieces`, and the cue's first two pieces. Encoders must parse special tokens in the markup
    only: a turn's text (the middle piece) is somebody's data, and an `<|im_end|>` in it is six
    plain characters, not the end of a turn. Markup may end in plain characters, such as ChatML's
    newline, which a tokenizer may merge with the text behind them.
    """

    append_only: bool
    problem: str
    """In plain words, why appending does not extend; empty if it does."""
    strips_text: bool
    """The template strips blanks around a text. Turns rendered here keep them."""
    default_system: str
    """The markup and text inserted where a conversation does not begin with a system turn."""
    _render: Render = field(repr=False)
    _alternates: bool = field(repr=False)
    _markers: Mapping[str, tuple[str, str]] = field(repr=False)
    _openings: Mapping[str, str] = field(repr=False)
    _system_once: bool = field(repr=False)

    def opening(self, role: str) -> str:
        """Return what stands before a conversation whose first turn is of `role`.

        That is a begin-of-text token or nothing, and the default system turn if there is one.

        Raises:
            LayoutError: a conversation of this template cannot begin so.
        """
        self._require_append_only()
        if role not in self._openings:
            raise LayoutError(f"this model's conversations cannot begin with a turn of {role!r}")
        return self._openings[role]

    def pieces(self, turn: Turn) -> TurnPieces:
        """Return a turn as markup, text and markup. For a cue, the last piece is not used yet.

        Raises:
            LayoutError: the template is not append-only, or has no such role.
        """
        self._require_append_only()
        if turn.role not in self._markers:
            raise LayoutError(f"this model's chat template has no role {turn.role!r}")
        before, after = self._markers[turn.role]
        return before, spoken(turn), after

    def turn_text(self, turn: Turn) -> str:
        """Return a whole turn with its markup. Raises as `pieces` does."""
        return "".join(self.pieces(turn))

    def cue_text(self, turn: Turn) -> str:
        """Return an open turn: markup and, if it is named, `name:`. Raises as `pieces` does."""
        before, text, _ = self.pieces(turn)
        return before + text

    def render(self, prompt: Prompt, *, cue: bool = True) -> str:
        """Return a whole prompt as text; without its cue if `cue` is false.

        A template that is not append-only renders it itself; turns of one role in a row are then
        joined if it forces roles to alternate. In that text, markup and data cannot be told apart.

        Raises:
            LayoutError: the template cannot render such turns.
        """
        if not self.append_only:
            return self._render_whole(prompt, cue=cue)
        if self._system_once and any(turn.role == "system" for turn in prompt.turns[1:]):
            raise LayoutError("this model's chat template takes a system turn only as the first")
        first = prompt.turns[0].role if prompt.turns else prompt.cue.role
        turns = "".join(map(self.turn_text, prompt.turns))
        return self.opening(first) + turns + (self.cue_text(prompt.cue) if cue else "")

    def _render_whole(self, prompt: Prompt, *, cue: bool) -> str:
        messages = [{"role": turn.role, "content": spoken(turn)} for turn in prompt.turns]
        if self._alternates:
            messages = _joined(messages)
        try:
            text = self._render(messages, cue)
        except Exception as error:
            raise LayoutError(
                f"this model's chat template cannot render the prompt ({error}); "
                f"it {self.problem}: use another layout or model"
            ) from error
        return text + spoken(prompt.cue) if cue else text

    def _require_append_only(self) -> None:
        if not self.append_only:
            raise LayoutError(
                f"this model's chat template {self.problem}; its prompts can only be rendered whole"
            )


def _joined(messages: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            text = joined[-1]["content"] + _JOINT + message["content"]
            joined[-1] = {"role": message["role"], "content": text}
        else:
            joined.append(message)
    return joined


class _Probe:
    """Renders sentinel conversations. A conversation is written as its roles' initials, `sua`."""

    _INITIALS: Mapping[str, str] = {role[0]: role for role in _ROLES}

    def __init__(self, render: Render) -> None:
        self._render = render

    def text(self, initials: str, position: int) -> str:
        """Return the sentinel text at `position`; `r` is an answer with its reasoning before it."""
        plain = f"Sentinel{position}x"
        return f"<think>\nreason{position}x\n</think>\n\n{plain}" if initials == "r" else plain

    def rendered(self, conversation: str, *, cue: bool = False, pad: str = "") -> str | None:
        """Return the rendered conversation; None where the template refuses it."""
        messages = [
            {
                "role": self._INITIALS["a" if initial == "r" else initial],
                "content": pad + self.text(initial, position) + pad,
            }
            for position, initial in enumerate(conversation)
        ]
        try:
            return self._render(messages, cue)
        except Exception:  # noqa: BLE001 - a template refuses by raising what its engine raises
            return None

    def around_last(self, conversation: str) -> tuple[str, str] | None:
        """Return what the last turn adds before and behind its text, if it only adds."""
        base = self.rendered(conversation[:-1]) if len(conversation) > 1 else ""
        whole = self.rendered(conversation)
        if base is None or whole is None or not whole.startswith(base):
            return None
        text = self.text(conversation[-1], len(conversation) - 1)
        before, found, after = whole[len(base) :].partition(text)
        return (before, after) if found else None


_CONVERSATIONS = ("su", "sua", "suu", "suaa", "suau", "suuau", "suauaua", "suaaua", "suru", "saua")
_ALTERNATING = ("sua", "suau", "suaua")


def _markers(probe: _Probe) -> tuple[dict[str, tuple[str, str]], bool] | None:
    found = {}
    for role, conversation in (("system", "s"), ("user", "su"), ("assistant", "sua")):
        around = probe.around_last(conversation)
        if around is None:
            return None
        found[role] = around
    later = probe.around_last("sus")
    first = found["system"]
    if later is not None and first[0].endswith(later[0]) and first[1] == later[1]:
        found["system"] = later
        return found, False
    return found, True


def _openings(probe: _Probe, markers: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    found = {}
    for role in _ROLES:
        around = probe.around_last(role[0])
        before, after = markers[role]
        if around is not None and around[0].endswith(before) and around[1] == after:
            found[role] = around[0].removesuffix(before)
    return found


def _predicted(
    probe: _Probe, conversation: str, opening: str, markers: Mapping[str, tuple[str, str]]
) -> str:
    parts = [opening]
    for position, initial in enumerate(conversation):
        before, after = markers["assistant" if initial == "r" else probe._INITIALS[initial]]
        parts += (before, probe.text(initial, position), after)
    return "".join(parts)


def _refusal(probe: _Probe) -> tuple[str, bool]:
    """Return the problem, and whether it is forced alternation, of a template that refuses."""
    if probe.rendered("s") is None and probe.rendered("su") is None:
        return "takes no system turn", probe.rendered("uu") is None
    refused = [c for c in _CONVERSATIONS if probe.rendered(c) is None]
    if refused and all(probe.rendered(c) is not None for c in _ALTERNATING):
        return "forces user and assistant turns to alternate", True
    if refused:
        return "refuses a conversation of system, user and assistant turns", False
    return "", False


def _rewriting(probe: _Probe) -> str:
    """Return how the template changes turns that were there before, or an empty text.

    That it drops what was said counts for more than that it writes it otherwise.
    """
    problem = ""
    for conversation in _CONVERSATIONS:
        whole = probe.rendered(conversation) or ""
        before = probe.rendered(conversation[:-1]) or ""
        if whole.startswith(before):
            continue
        texts = (probe.text(i, n) for n, i in enumerate(conversation[:-1]))
        if any(text in before and text not in whole for text in texts):
            return "drops parts of earlier turns when a turn is added"
        problem = "renders earlier turns anew when a turn is added"
    return problem


def _cue_problem(probe: _Probe, conversation: str, marker: str) -> str:
    base, cued = probe.rendered(conversation), probe.rendered(conversation, cue=True)
    if base is None or cued is None or not cued.startswith(base):
        return "does not simply open an answer behind the turns"
    if not marker.startswith(cued[len(base) :]):
        return "opens an answer differently from how it marks an earlier one"
    return ""


def _problem(
    probe: _Probe, markers: Mapping[str, tuple[str, str]], openings: Mapping[str, str]
) -> str:
    cue = markers["assistant"][0]
    for conversation in (*_CONVERSATIONS, *(c[1:] for c in _CONVERSATIONS)):
        role = probe._INITIALS[conversation[0]]
        if role not in openings:
            continue
        rendered = probe.rendered(conversation)
        if rendered != _predicted(probe, conversation, openings[role], markers):
            return "marks a turn differently depending on its place"
        if problem := _cue_problem(probe, conversation, cue):
            return problem
    return ""


def _strips(probe: _Probe) -> bool:
    padded = probe.rendered("sua", pad=" \n ") or ""
    return any(f" \n Sentinel{position}x \n " not in padded for position in range(3))


def probe(render: Render) -> Template:
    """Find out what a chat template does, by rendering a few dozen short conversations.

    The probe renders system, user and assistant turns in several orders, also two users or two
    assistants in a row and an answer that begins with its reasoning. It accepts a template as
    append-only if the text of each is, exactly, the sum of its turns' texts. It never raises for
    what a template does: the reason is in `problem`.
    """
    conversations = _Probe(render)
    problem, alternates = _refusal(conversations)
    problem = problem or _rewriting(conversations)
    found = None if problem else _markers(conversations)
    markers, system_once = found or ({}, True)
    openings = _openings(conversations, markers) if markers else {}
    if not problem:
        problem = (
            _problem(conversations, markers, openings)
            if "system" in openings
            else "marks a turn differently depending on its place"
        )
    inserted = openings.get("user", "").removeprefix(openings.get("system", ""))
    return Template(
        append_only=not problem,
        problem=problem,
        strips_text=_strips(conversations),
        default_system=inserted,
        _render=render,
        _alternates=alternates,
        _markers=markers,
        _openings=openings,
        _system_once=system_once,
    )

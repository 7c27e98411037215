"""How a user of an ordinary stack lays a transcript out as chat messages.

`role_first` is what agent frameworks do: an agent's own instructions, then the conversation from
its point of view. `roster_first` is agentbus's layout written by hand in the same chat format. Both
take the transcript as it came over HTTP, and know nothing of contexts or references.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from ..context.layout import ROSTER_INTRODUCTION
from .roles import Role
from .script import Said

__all__ = ["LAYOUTS", "ChatMessage", "Layout", "Rendered", "role_first", "roster_first"]


class ChatMessage(TypedDict):
    """One message of a chat completion request."""

    role: str
    content: str


class Rendered(TypedDict):
    """The part of a chat completion request that a layout decides."""

    messages: list[ChatMessage]
    add_generation_prompt: bool
    continue_final_message: bool


Layout = Callable[[Sequence[Role], Sequence[Said], str], Rendered]
"""Takes the roles, the transcript and the name of the agent that speaks next."""


_UNNAMED = ("document", "user")


def _message(role: str, content: str) -> ChatMessage:
    return {"role": role, "content": content}


def _turn_of(said: Said) -> ChatMessage:
    """Return a user turn, named unless it is the document or the user's own."""
    if said.author in _UNNAMED:
        return _message("user", said.text)
    return _message("user", f"{said.author}: {said.text.lstrip(' ')}")


def role_first(roles: Sequence[Role], transcript: Sequence[Said], speaker: str) -> Rendered:
    """Own role as system; own messages as assistant turns; others' as user turns with a name."""
    own = next(role for role in roles if role.name == speaker)
    messages = [_message("system", own.text)]
    for said in transcript:
        if said.kind == "message" and said.author == speaker:
            messages.append(_message("assistant", said.text))
        else:
            messages.append(_turn_of(said))
    return {
        "messages": messages,
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def roster_first(roles: Sequence[Role], transcript: Sequence[Said], speaker: str) -> Rendered:
    """All roles as system; every message as a named assistant turn; the speaker's name last."""
    roster = [ROSTER_INTRODUCTION, *(f"## {role.name}\n\n{role.text}" for role in roles)]
    messages = [_message("system", "\n\n".join(roster))]
    for said in transcript:
        if said.kind == "message":
            messages.append(_message("assistant", f"{said.author}:{said.text}"))
        else:
            messages.append(_turn_of(said))
    messages.append(_message("assistant", f"{speaker}:"))
    return {
        "messages": messages,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


LAYOUTS: dict[str, Layout] = {"role_first": role_first, "roster_first": roster_first}

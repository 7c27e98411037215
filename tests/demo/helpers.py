"""A character-level chat template, and a replay of the small conversation made by hand with it."""

from __future__ import annotations

from collections.abc import Sequence

from agentbus.demo.account import Ids, LogEntry, account
from agentbus.demo.equal import EqualWork
from agentbus.demo.events import HopResult, Leg
from agentbus.demo.layouts import LAYOUTS, ChatMessage
from agentbus.demo.script import Conversation
from agentbus.demo.table import Comparison, Ran, WayReport

START, END = 1, 2


def spell(text: str) -> Ids:
    return tuple(ord(c) + 10 for c in text)


def turn(role: str, text: str) -> Ids:
    return (START, *spell(f"{role}\n{text}"), END, *spell("\n"))


def render(messages: Sequence[ChatMessage], cue: str) -> Ids:
    turns = (turn(message["role"], message["content"]) for message in messages)
    return (*(token for ids in turns for token in ids), START, *spell(f"assistant\n{cue}"))


async def tokenize(texts: tuple[str, ...]) -> Ids:
    users: list[ChatMessage] = [{"role": "user", "content": text} for text in texts]
    return render([{"role": "system", "content": "-"}, *users], "")


def log_of(conversation: Conversation, layout: str, *, cached: bool) -> list[LogEntry]:
    """Return the log of an engine that is perfect at its prefix cache, or has none."""
    entries: list[LogEntry] = []
    for hop in conversation.hops:
        transcript = conversation.transcript(hop.index)
        chat = LAYOUTS[layout](conversation.roles, transcript, hop.target)
        messages = chat["messages"]
        open_turn = messages.pop()["content"] if chat["continue_final_message"] else ""
        prompt = render(messages, open_turn)
        reused = max((common(prompt, e.prompt_ids) for e in entries), default=0) if cached else 0
        entries.append(
            LogEntry(
                label=f"{layout}/{hop.index}",
                tenant=layout,
                prompt_ids=prompt,
                generated_ids=hop.token_ids,
                reused=reused,
                prefilled=len(prompt) - reused,
            )
        )
    return entries


def common(a: Ids, b: Ids) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))


def results_of(
    conversation: Conversation, log: Sequence[LogEntry], *, ttft_s: float, sent: int
) -> list[HopResult]:
    return [
        HopResult(
            text=hop.text,
            legs=(Leg("one", sent, 7), Leg("two", sent, 7)),
            prompt_tokens=len(entry.prompt_ids),
            reused=entry.reused,
            prefilled=entry.prefilled,
            decoded=len(hop.token_ids),
            ttft_s=ttft_s + hop.index,
            wall_s=2 * ttft_s,
        )
        for hop, entry in zip(conversation.hops, log, strict=True)
    ]


def comparison_of(conversation: Conversation, *, ours_s: float = 0.1) -> Comparison:
    plain = log_of(conversation, "role_first", cached=False)
    ours = log_of(conversation, "roster_first", cached=True)
    texts = {
        "plain": results_of(conversation, plain, ttft_s=1.0, sent=1000),
        "agentbus": results_of(conversation, ours, ttft_s=ours_s, sent=100),
    }
    logs = {"plain": plain, "agentbus": ours}
    reports = tuple(
        WayReport(name, "wire", tuple(texts[name]), account(logs[name], START)) for name in logs
    )
    equal = EqualWork(4, (3, 3, 3, 3), "ab" * 32, 40)
    ran = Ran("tiny", "2026-01-02T03:04:05+00:00", "a small machine", "dtype auto, 1 thread")
    return Comparison(conversation, reports, equal, ran)

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentbus.demo.account import LogEntry, UnequalWork
from agentbus.demo.equal import EqualWork, Pieces, check_equal_work, tokenize_pieces
from agentbus.demo.events import HopResult
from agentbus.demo.script import Conversation

from .helpers import START, log_of, results_of, spell, tokenize

pytestmark = pytest.mark.anyio


async def check(
    conversation: Conversation, results: list[HopResult], log: list[LogEntry]
) -> EqualWork:
    pieces = await tokenize_pieces(conversation, tokenize)
    return check_equal_work(conversation, {"way": results}, {"way": log}, pieces)


async def test_pieces_are_the_texts_without_their_ends(conversation: Conversation) -> None:
    pieces = await tokenize_pieces(conversation, tokenize)
    assert isinstance(pieces, Pieces)
    assert pieces.turn_start == START
    begun, quoted = pieces.spellings["Gull, Tern."]
    assert begun == spell("Gull, Tern")
    assert quoted == spell(" Gull, Tern")


@pytest.mark.parametrize("layout", ["role_first", "roster_first"])
async def test_every_layout_of_the_same_words_is_equal(
    conversation: Conversation, layout: str
) -> None:
    log = log_of(conversation, layout, cached=True)
    found = await check(conversation, results_of(conversation, log, ttft_s=1, sent=1), log)
    assert found.hops == 4
    assert found.decoded_per_hop == tuple(len(hop.token_ids) for hop in conversation.hops)
    # Role, document, question and the first ask; then a message and an ask more each hop.
    assert found.pieces == 4 + 6 + 8 + 10


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"text": "Another."}, "another text"),
        ({"decoded": 1}, "other tokens"),
        ({"reused": 1}, "other figures"),
        ({"prefilled": 1}, "other figures"),
        ({"prompt_tokens": 1}, "other figures"),
    ],
)
async def test_a_result_that_differs_is_named(
    conversation: Conversation, change: dict[str, Any], problem: str
) -> None:
    log = log_of(conversation, "role_first", cached=False)
    results = results_of(conversation, log, ttft_s=1, sent=1)
    results[2] = dataclasses.replace(results[2], **change)
    with pytest.raises(UnequalWork, match=f"hop 2 of way: .*{problem}"):
        await check(conversation, results, log)


async def test_other_token_ids_in_the_log_are_named(conversation: Conversation) -> None:
    log = log_of(conversation, "role_first", cached=False)
    results = results_of(conversation, log, ttft_s=1, sent=1)
    log[1] = log[1].model_copy(update={"generated_ids": log[0].generated_ids})
    with pytest.raises(UnequalWork, match="hop 1 of way: it decoded other tokens"):
        await check(conversation, results, log)


@pytest.mark.parametrize("lost", ["You count", "harbour", "Which", "Ask 1", "Gull"])
async def test_a_prompt_that_lacks_a_piece_is_named(conversation: Conversation, lost: str) -> None:
    log = log_of(conversation, "roster_first", cached=True)
    results = results_of(conversation, log, ttft_s=1, sent=1)
    text = "".join(map(chr, log[2].prompt_ids))
    cut = text.replace("".join(map(chr, spell(lost))), "".join(map(chr, spell("*" * len(lost)))))
    assert cut != text
    log[2] = log[2].model_copy(update={"prompt_ids": tuple(map(ord, cut))})
    with pytest.raises(UnequalWork, match="hop 2 of way: its prompt lacks"):
        await check(conversation, results, log)


async def test_a_message_may_stand_as_the_tokens_that_the_model_chose(
    conversation: Conversation,
) -> None:
    spelt = (7, 8, 9)
    hops = [dataclasses.replace(hop, token_ids=spelt) for hop in conversation.hops[:1]]
    odd = dataclasses.replace(conversation, hops=(*hops, *conversation.hops[1:]))
    log = log_of(odd, "roster_first", cached=False)
    results = results_of(odd, log, ttft_s=1, sent=1)
    said = "".join(map(chr, spell(" Nine boats.")))
    for place in (1, 2, 3):
        text = "".join(map(chr, log[place].prompt_ids)).replace(said, "".join(map(chr, spelt)))
        ids = tuple(map(ord, text))
        log[place] = log[place].model_copy(update={"prompt_ids": ids})
        results[place] = dataclasses.replace(results[place], prompt_tokens=len(ids))
    await check(odd, results, log)
    log[3] = log[3].model_copy(update={"prompt_ids": tuple(i if i != 8 else 6 for i in ids)})
    with pytest.raises(UnequalWork, match=r"hop 3 of way: its prompt lacks 'Nine boats\.'"):
        await check(odd, results, log)


async def test_a_missing_or_additional_call_is_named(conversation: Conversation) -> None:
    log = log_of(conversation, "role_first", cached=False)
    results = results_of(conversation, log, ttft_s=1, sent=1)
    for wrong in (log[:-1], [*log, log[0]]):
        with pytest.raises(UnequalWork, match="way made 4 hops"):
            await check(conversation, results, wrong)

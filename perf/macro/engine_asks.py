"""What the suite `engine` asks of every engine: prompts of exact lengths, and what is read off.

A prompt is made of a document and an ask, laid out as an agent's model gets them, and has the same
token ids for every contender. Its words are drawn from those that the model's tokenizer writes as
one token each, so that a length in tokens is a number of words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from agentbus.context import TenantKey, role_first

if TYPE_CHECKING:
    from ..small_model import Tokens

__all__ = [
    "CASES",
    "FULL",
    "MAX_BATCH",
    "QUICK",
    "READER",
    "Answer",
    "Asked",
    "Contender",
    "Ids",
    "Lengths",
    "Writer",
    "WrongAnswer",
    "in_process",
    "measure",
    "order",
    "read_order",
]

Ids = tuple[int, ...]

READER = "reader"
"""The agent whose model reads."""
MAX_BATCH = 16
SHORT_TOKENS = 64
"""Length of the prompts that are decoded from."""
CACHED_TOKENS = 1700
NEW_TOKENS = 64
SIBLING_TOKENS = 1024
"""What answers that are decoded together read in common."""
PREFILLS = (512, 1536)
_VOCABULARY_WORDS = 512
_WORD_LENGTHS = range(4, 9)


class WrongAnswer(Exception):
    """A contender did other work than it was asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, as texts and as token ids. `ask` may be empty."""

    document: str
    ask: str
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """When the tokens of one answer came, at its reader, and what the engine says of itself.

    Moments in seconds of one clock, durations in seconds.
    """

    asked: float
    first: float
    last: float
    tokens: int
    reused: int
    """Prompt tokens whose KV was there."""
    own_ttft: float | None = None
    """Time to the first token inside the engine's own process; None if that is the reader's."""
    own_decode: float | None = None
    """Time from the first token to the last there."""


def in_process(*, asked: float, first: float, last: float, tokens: int, reused: int) -> Answer:
    """Return the answer of an engine in the asking process, whose own times are its reader's."""
    return Answer(
        asked=asked,
        first=first,
        last=last,
        tokens=tokens,
        reused=reused,
        own_ttft=first - asked,
        own_decode=last - first,
    )


class Contender(Protocol):
    """One engine, opened and warm."""

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        """Decode exactly `max_tokens` greedily for each prompt, all at once.

        What was computed under one salt is not used under another.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long a run is."""

    rounds: int
    decoded: int
    """Tokens of an answer at batch 1."""
    decoded_each: int
    """Tokens of each answer at batch 16."""


def order(case: str, lengths: Lengths, number: int) -> str:
    """Return the line that asks a contender's process for round `number` of a case."""
    return json.dumps([case, asdict(lengths), number])


def read_order(line: str) -> tuple[str, Lengths, int]:
    """Take a line of `order` apart."""
    case, lengths, number = json.loads(line)
    return case, Lengths(**lengths), number


QUICK = Lengths(rounds=2, decoded=24, decoded_each=16)
FULL = Lengths(rounds=5, decoded=128, decoded_each=64)


class Writer:
    """Makes prompts: the same for the same seed, in every process."""

    def __init__(self, tokens: Tokens) -> None:
        """Choose words from what the tokenizer writes as one token."""
        self._vocabulary = tokens.vocabulary
        self._encoder = tokens.encoder
        self._words = self._whole_words()

    def prompt(self, seed: str, tokens: int) -> Asked:
        """Return a prompt of that many tokens, all in its document."""
        return self._sized(seed, tokens, self.read)

    def document(self, seed: str, tokens: int) -> str:
        """Return a document such that the prompts that follow it share that many tokens."""
        made = self._sized(seed, tokens, self.read, lambda read: self._shared(read.document))
        return made.document

    def following(self, document: str, seed: str, tokens: int) -> Asked:
        """Return a prompt of that many tokens: the document, then an ask."""
        return self._sized(seed, tokens, lambda words: self.read(document, words))

    def read(self, document: str, ask: str = "") -> Asked:
        """Return the prompt of a document and, if it is not empty, an ask."""
        context = TenantKey().empty().document(document)
        if ask:
            context = context.ask(ask)
        return Asked(document, ask, self._encoder.encode(role_first(context, READER)))

    def _shared(self, document: str) -> int:
        one, other = (self.read(document, word).ids for word in self._words[:2])
        pairs = enumerate(zip(one, other, strict=False))
        return next(place for place, (a, b) in pairs if a != b)

    def _sized(
        self,
        seed: str,
        tokens: int,
        make: Callable[[str], Asked],
        length: Callable[[Asked], int] = lambda made: len(made.ids),
    ) -> Asked:
        """Make a prompt of as many words as give it the length, each being one token."""
        words = random.Random(seed).choices(self._words, k=tokens)
        count = tokens - (length(make(" ".join(words))) - tokens)
        made = make(" ".join(words[:count]))
        if length(made) != tokens:
            raise WrongAnswer(f"a prompt has {length(made)} tokens instead of {tokens}")
        return made

    def _whole_words(self) -> list[str]:
        found: list[str] = []
        for number in range(self._vocabulary.size):
            text = self._vocabulary.decode((number,))
            word = text.removeprefix(" ")
            plain = word.isascii() and word.isalpha() and word.islower()
            if text == word or not plain or len(word) not in _WORD_LENGTHS:
                continue
            if self._vocabulary.plain(text) == (number,):
                found.append(word)
            if len(found) == _VOCABULARY_WORDS:
                break
        return found


class _Case(Protocol):
    async def __call__(
        self, contender: Contender, writer: Writer, lengths: Lengths, number: int, /
    ) -> dict[str, float]: ...


async def measure(
    case: str, contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    """Return one case's metrics in round `number`.

    Raises:
        WrongAnswer: the contender did less, or other, than it was asked for.
    """
    return await CASES[case](contender, writer, lengths, number)


async def _decode_1(
    contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    prompts = [writer.prompt("decode-1", SHORT_TOKENS)]
    answers = await _checked(contender, prompts, lengths.decoded, "decode-1")
    return _decode_rates(answers)


async def _decode_16(
    contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    prompts = [writer.prompt(f"decode-16-{n}", SHORT_TOKENS) for n in range(MAX_BATCH)]
    answers = await _checked(contender, prompts, lengths.decoded_each, "decode-16")
    return _decode_rates(answers)


async def _siblings(
    contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    document, salt = writer.document("siblings", SIBLING_TOKENS), "siblings"
    first, *prompts = (
        writer.following(document, f"sibling-{number}-{n}", SIBLING_TOKENS + SHORT_TOKENS)
        for n in range(MAX_BATCH + 1)
    )
    await _checked(contender, [first], 1, salt)
    return _decode_rates(await _checked(contender, prompts, lengths.decoded_each, salt))


def _prefill(tokens: int) -> _Case:
    async def case(
        contender: Contender, writer: Writer, lengths: Lengths, number: int
    ) -> dict[str, float]:
        answer = await _cold(contender, writer, f"prefill-{tokens}-{number}", tokens)
        return {f"{side}_tok_s": tokens / taken for side, taken in _first_tokens(answer).items()}

    return case


async def _cold_hop(
    contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    answer = await _cold(contender, writer, f"cold-{number}", CACHED_TOKENS + NEW_TOKENS)
    return _first_token_ms(answer)


async def _hop(
    contender: Contender, writer: Writer, lengths: Lengths, number: int
) -> dict[str, float]:
    document = writer.document("hop", CACHED_TOKENS)
    before, asked = (
        writer.following(document, seed, CACHED_TOKENS + NEW_TOKENS)
        for seed in ("hop-before", f"hop-{number}")
    )
    await _checked(contender, [before], 1, "hop")
    (answer,) = await _checked(contender, [asked], 1, "hop")
    if answer.reused < CACHED_TOKENS - NEW_TOKENS:
        raise WrongAnswer(f"only {answer.reused} of {CACHED_TOKENS} cached tokens were reused")
    return _first_token_ms(answer)


async def _cold(contender: Contender, writer: Writer, seed: str, tokens: int) -> Answer:
    (answer,) = await _checked(contender, [writer.prompt(seed, tokens)], 1, seed)
    if answer.reused:
        raise WrongAnswer(f"{answer.reused} tokens of a new prompt were reused")
    return answer


async def _checked(
    contender: Contender, prompts: Sequence[Asked], max_tokens: int, salt: str
) -> Sequence[Answer]:
    answers = await contender.answer(prompts, max_tokens, salt)
    told = [answer.tokens for answer in answers]
    if told != [max_tokens] * len(prompts):
        raise WrongAnswer(f"answers of {told} tokens instead of {max_tokens} each")
    return answers


def _decode_rates(answers: Sequence[Answer]) -> dict[str, float]:
    """Return tokens a second; each answer's first token is prefill's, and not counted.

    The client's run from the first token of the first answer to the last of the last; an engine's
    own over the mean time that an answer took from its first token to its last, as vLLM's
    histogram of decode times gives it.
    """
    decoded = sum(answer.tokens - 1 for answer in answers)
    taken = max(a.last for a in answers) - min(a.first for a in answers)
    rates = {"client_tok_s": decoded / taken}
    own = [answer.own_decode for answer in answers if answer.own_decode]
    if own:
        rates["engine_tok_s"] = decoded / (sum(own) / len(own))
    return rates


def _first_tokens(answer: Answer) -> dict[str, float]:
    taken = {"client": answer.first - answer.asked}
    if answer.own_ttft is not None:
        taken["engine"] = answer.own_ttft
    return taken


def _first_token_ms(answer: Answer) -> dict[str, float]:
    return {f"{side}_ttft_p50_ms": 1e3 * taken for side, taken in _first_tokens(answer).items()}


CASES: Mapping[str, _Case] = {
    "decode_1": _decode_1,
    f"decode_{MAX_BATCH}": _decode_16,
    f"decode_{MAX_BATCH}_on_{SIBLING_TOKENS}": _siblings,
    **{f"prefill_{tokens}": _prefill(tokens) for tokens in PREFILLS},
    f"hop_{NEW_TOKENS}_on_{CACHED_TOKENS}": _hop,
    f"cold_{CACHED_TOKENS + NEW_TOKENS}": _cold_hop,
}

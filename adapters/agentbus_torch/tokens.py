"""Text to token ids and back.

Markup and data are told apart: special tokens count in the markup that the template writes, while
the same characters in somebody's text are plain text. Each turn is tokenized once. An answer that
was generated here keeps the ids that were decoded, so that its KV serves the prompts in which it
stands as a turn, even where the tokenizer would cut the same text differently.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentbus.context.layout import Prompt, Turn
from agentbus.context.template import Template, spoken
from agentbus.errors import MisuseError, ModelBroken

from .config import MAX_JSON_BYTES
from .counts import TokenCounts

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["Detokenizer", "PromptEncoder", "Vocabulary"]

Ids = tuple[int, ...]

MEMO_TOKENS = 1 << 20
"""Tokens of turns that are remembered, the least recently used forgotten first."""

_STAND_IN = "\ue000{}\ue001"
_STAND_IN_MARK = "\ue000"
_STAND_IN_PATTERN = re.compile("\ue000([0-9]+)\ue001")
_BROKEN = "\ufffd"
_CHARACTER_BYTES = 4
"""Most bytes, hence most tokens, of a character."""
_MOST_HELD = 16
"""Tokens that are held for a character before it is looked which of them cannot be of it."""
_MAX_PROBLEM = 200
"""Characters of the tokenizer's explanation that are passed on."""


class Vocabulary:
    """A tokenizer that parses special tokens only where it is told to."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # that is: as the plain text that they look like
        added = tokenizer.get_added_tokens_decoder()
        self._special = {t.content: number for number, t in added.items() if t.special}
        self._special_texts = {number: text for text, number in self._special.items()}
        parts = []
        for token in sorted(
            (t for t in added.values() if t.special), key=lambda t: -len(t.content)
        ):
            # Blanks are looked at once: from each of many on, it would take their number squared.
            blanks = (r"(?:(?<!\s)\s+)?" if token.lstrip else "", r"\s*" if token.rstrip else "")
            parts.append(f"{blanks[0]}({re.escape(token.content)}){blanks[1]}")
        self._pattern = re.compile("|".join(parts) or r"(?!)")
        self.longest = max(map(len, tokenizer.get_vocab()), default=1)
        """Characters of the longest token, at least: so many tokens has a text at the fewest."""
        self._counts = TokenCounts(lambda text: [start for start, _ in self._encoded(text).offsets])

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Read a model folder's `tokenizer.json`.

        Raises:
            ModelBroken: it is damaged, or works in a way that does not allow turns to be
                tokenized apart.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise ModelBroken(str(path), f"it is larger than {MAX_JSON_BYTES} bytes")
            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            probe = _probe_text(tokenizer)
            expected = tuple(tokenizer.encode(probe, add_special_tokens=False).ids)
            vocabulary = cls(tokenizer)
            found = vocabulary.markup(probe)
        except ModelBroken:
            raise
        except BaseException as error:  # the binding raises bare exceptions, and panics
            problem = f"it cannot be used ({_told(error)}); download it again"
            raise ModelBroken(str(path), problem) from error
        if found != expected:
            raise ModelBroken(
                str(path),
                "its tokenizer treats text behind a special token differently; "
                "use a model with a byte-level tokenizer",
            )
        return vocabulary

    @property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def json(self) -> str:
        """The tokenizer, as the JSON of a `tokenizer.json`."""
        return str(self._tokenizer.to_str())

    def special_text(self, token: int) -> str:
        """Return a special token's text; empty for other tokens."""
        return self._special_texts.get(token, "")

    def special_id(self, text: str) -> int | None:
        """Return the id of a special token."""
        return self._special.get(text)

    def special_in(self, text: str) -> frozenset[int]:
        """Return the special tokens that a text would have if it were markup."""
        return frozenset(self._special[t] for t, is_special in self._split(text) if is_special)

    def begins_with_special(self, text: str) -> bool:
        """Return whether markup begins with a special token."""
        return self._pattern.match(text) is not None

    def plain(self, text: str) -> Ids:
        """Tokenize data.

        Raises:
            MisuseError: the tokenizer cannot: half a character, or more than its patterns take.
        """
        return tuple(self._encoded(text).ids) if text else ()

    def count(self, text: str) -> int:
        """Return how many tokens data takes. Raises as `plain`."""
        return self._counts.count(text)

    def _encoded(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except BaseException as error:
            problem = f"the model's tokenizer cannot read a text ({_told(error)})"
            raise MisuseError(problem) from error

    def each_plain(self, texts: Sequence[str | Ids]) -> list[Ids]:
        """Tokenize several pieces of data; what is ids already stays."""
        return [self.plain(text) if isinstance(text, str) else text for text in texts]

    def markup(self, text: str) -> Ids:
        """Tokenize markup."""
        return self.around(text, "", "")

    def around(self, before: str, text: str, after: str) -> Ids:
        """Tokenize data between markup; what of the markup is plain may merge with the data."""
        ids: list[int] = []
        pending = ""
        head, tail = list(self._split(before)), list(self._split(after))
        for part, is_special in (*head, (text, False), *tail):
            if not is_special:
                pending += part
                continue
            ids += self.plain(pending)
            ids.append(self._special[part])
            pending = ""
        ids += self.plain(pending)
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""
        try:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))
        except BaseException as error:
            raise RuntimeError(f"the model's tokenizer broke ({_told(error)})") from error

    def _split(self, markup: str) -> Iterator[tuple[str, bool]]:
        end = 0
        for match in self._pattern.finditer(markup):
            if match.start() > end:
                yield markup[end : match.start()], False
            yield match[match.lastindex or 0], True
            end = match.end()
        if end < len(markup):
            yield markup[end:], False


def _told(error: BaseException) -> str:
    """Return what a library written in Rust says is wrong; other reasons to stop are raised.

    Its panics are no `Exception`: what does not catch them ends with its thread.
    """
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return " ".join(str(error).split())[:_MAX_PROBLEM]
    raise error


def _probe_text(tokenizer: Tokenizer) -> str:
    added = tokenizer.get_added_tokens_decoder().values()
    special = [token.content for token in added if token.special][:4]
    return "".join(f"{token}user\nA word, 2 x.{token} and  more\n" for token in special)


class PromptEncoder:
    """Prompts to token ids, turn by turn where the template allows it."""

    def __init__(self, vocabulary: Vocabulary, template: Template) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._by_turn = template.append_only and all(
            vocabulary.begins_with_special(template.pieces(Turn(role, "x"))[0])
            for role in ("system", "user", "assistant")
        )
        self._memo: OrderedDict[tuple[str, Turn], Ids] = OrderedDict()
        self._remembered = 0

    @property
    def markup_ids(self) -> frozenset[int]:
        """Special tokens with which this template writes turns: none belongs in an answer."""
        if not self._by_turn:
            return frozenset()
        before, _, after = self._template.pieces(Turn("assistant", ""))
        return self._vocabulary.special_in(before) | self._vocabulary.special_in(after)

    def encode(self, prompt: Prompt, *, tenant: str = "", cue: bool = True) -> Ids:
        """Return a prompt's ids; without its cue if `cue` is false and the template allows it.

        Raises:
            LayoutError: the template cannot render such turns.
        """
        if not self._by_turn:
            return self._encode_whole(prompt)
        self._template.render(prompt)  # refuses what this model's conversations cannot be
        first = prompt.turns[0].role if prompt.turns else prompt.cue.role
        ids = list(self._vocabulary.markup(self._template.opening(first)))
        for turn in prompt.turns:
            ids += self._turn(tenant, turn)
        if cue:
            ids += self._cue(prompt.cue)
        return tuple(ids)

    def encode_as_one(self, prompt: Prompt) -> Ids:
        """Render a whole prompt and tokenize it as one text, as servers do. Raises as `encode`."""
        return self._vocabulary.markup(self._template.render(prompt))

    def remember(self, cue: Turn, text: str, ids: Ids, *, tenant: str = "") -> None:
        """Keep the ids of an answer, for the prompts in which it will stand as a turn."""
        if not self._by_turn:
            return
        after = self._template.pieces(cue)[2]
        turn = Turn(cue.role, cue.text + text, cue.name)
        self._keep(tenant, turn, self._cue(cue) + ids + self._vocabulary.markup(after))

    def _cue(self, cue: Turn) -> Ids:
        before, text, _ = self._template.pieces(cue)
        return self._vocabulary.around(before, text, "")

    def _turn(self, tenant: str, turn: Turn) -> Ids:
        ids = self._memo.get((tenant, turn))
        if ids is None:
            ids = self._vocabulary.around(*self._template.pieces(turn))
            self._keep(tenant, turn, ids)
        else:
            self._memo.move_to_end((tenant, turn))
        return ids

    def _keep(self, tenant: str, turn: Turn, ids: Ids) -> None:
        replaced = self._memo.pop((tenant, turn), ())
        self._memo[(tenant, turn)] = ids
        self._remembered += len(ids) - len(replaced)
        while self._remembered > MEMO_TOKENS and len(self._memo) > 1:
            _, forgotten = self._memo.popitem(last=False)
            self._remembered -= len(forgotten)

    def _encode_whole(self, prompt: Prompt) -> Ids:
        """Let the template render everything; data that looks like markup stays plain."""
        said = (*prompt.turns, prompt.cue)
        texts = [spoken(turn) for turn in said]
        hidden = {n for n, text in enumerate(texts) if self._needs_hiding(text)}
        shown = [
            Turn(turn.role, _STAND_IN.format(n)) if n in hidden else turn
            for n, turn in enumerate(said)
        ]
        rendered = self._template.render(Prompt(tuple(shown[:-1]), shown[-1]))
        if not hidden:
            return self._vocabulary.markup(rendered)
        ids: list[int] = []
        for number, part in enumerate(_STAND_IN_PATTERN.split(rendered)):
            ids += (
                self._vocabulary.plain(texts[int(part)])
                if number % 2
                else self._vocabulary.markup(part)
            )
        return tuple(ids)

    def _needs_hiding(self, text: str) -> bool:
        return _STAND_IN_MARK in text or bool(self._vocabulary.special_in(text))


class Detokenizer:
    """Turns the ids of one answer into text, a whole character at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._shown = 0
        self._context = 0

    def add(self, token: int) -> str:
        """Return the text that a token completes; empty while a character is incomplete.

        A few ids before the new ones are decoded with them, since some tokenizers' pieces depend
        on what stands before.
        """
        self._ids.append(token)
        text = self._pending()
        if not text.endswith(_BROKEN):
            self._context, self._shown = self._shown, len(self._ids)
            return text
        return self._certain(text) if len(self._ids) - self._shown > _MOST_HELD else ""

    def _certain(self, text: str) -> str:
        """Return what of the text that is held no later token changes, and hold the rest.

        Else an answer that never completes a character would be decoded from its beginning again
        for each token.
        """
        end = len(self._ids) - _CHARACTER_BYTES
        for cut in range(end, end - _CHARACTER_BYTES, -1):
            certain = self._pending(cut)
            if certain + self._vocabulary.decode(self._ids[cut:]) == text:
                self._context, self._shown = self._shown, cut
                return certain
        return ""

    def rest(self) -> str:
        """Return what is left at the end: a character that was never completed, as U+FFFD."""
        text = self._pending()
        self._context = self._shown = len(self._ids)
        return text

    def _pending(self, end: int | None = None) -> str:
        known = self._vocabulary.decode(self._ids[self._context : self._shown])
        return self._vocabulary.decode(self._ids[self._context : end])[len(known) :]

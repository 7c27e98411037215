"""`agentbus filters try`: how texts would be delivered to a model, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..config import FilterName, FilterRule
from ..context import Decision, Ledger, TenantKey
from ..context.earlier import Earlier, is_mark
from ..errors import ConfigError, UnreadableFile
from ..filters import ESTIMATED, Pipeline, estimate_tokens, is_kept, open_lossy, plan_of
from .context_files import read_bytes
from .counting import Counting, open_counting
from .runtime import print_json
from .tables import fitting_table
from .terminal import literal, visible

__all__ = ["first_change", "run_try", "tried_rule"]

_LOSSLESS = "lossless"
_WITH_QUERY = "lossless,strip,extract,offload"
_SHOWN_CHARACTERS = 240


class _Tried(NamedTuple):
    path: Path
    text: str
    decision: Decision
    sent: int
    kept: str
    """What of the text is there once what is delivered was read back: bytes, value, or less."""

    @property
    def delivered(self) -> int:
        """Tokens of what would be delivered."""
        return self.sent if self.decision.text is None else self.decision.delivered_tokens


def tried_rule(use: str, keep: float, query: str) -> FilterRule:
    """Return the rule that a command line names.

    Raises:
        ConfigError: it names none.
    """
    names = (use or (_WITH_QUERY if query else _LOSSLESS)).split(",")
    if "mask" in names:
        raise ConfigError("use", "mask is for old results of tools, of which files are none")
    # the rule checks that these are names of filters
    return FilterRule(use=cast("tuple[FilterName, ...]", tuple(names)), keep=keep)


async def run_try(
    paths: Sequence[Path], rule: FilterRule, query: str, *, model: str, lines: int, json: bool
) -> None:
    """Print how texts would be delivered one after the other, behind them the query if there is one.

    Raises:
        UnreadableFile: a file cannot be read, or is no text.
        EngineError, ConfigError: as `open_counting`.
    """
    counting = await open_counting(model)
    tried = _deliver(paths, rule, query, counting)
    if json:
        _print_json(tried, counting)
    else:
        _print(tried, counting, lines)
        if "extract" in rule.use and not query:
            print("extract leaves out what has least to do with a --query, and there is none.")


def _deliver(
    paths: Sequence[Path], rule: FilterRule, query: str, counting: Counting
) -> list[_Tried]:
    texts = [_read(path) for path in paths]
    context = TenantKey().empty()
    for text in texts:
        context = context.document(text)
    if query:
        context = context.ask(query)
    pipeline = Pipeline(counting.count, Ledger(), open_lossy)
    given = list(pipeline.deliver(context, plan_of([rule], ""), "").chain())[::-1]
    tried: list[_Tried] = []
    for path, text, before, after in zip(paths, texts, given, given[1:], strict=False):
        receipt = after.receipt
        if receipt is not None:
            sent = receipt.decision.sent_tokens or estimate_tokens(text, counting.count)
            kept = _kept(text, receipt.decision, before.earlier)
            tried.append(_Tried(path, text, receipt.decision, sent, kept))
    return tried


def _read(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UnreadableFile(str(path), f"it is no text in UTF-8 (byte {error.start})") from error


def _kept(text: str, decision: Decision, earlier: Earlier) -> str:
    if decision.text is None:
        return ""
    if decision.left_out:
        lines = sum(last - first + 1 for first, last in decision.left_out)
        return f"all but {_counted(lines, 'line')}"
    return is_kept(text, decision.text, decision.filters, earlier) or "NOT ALL"


def _print_json(tried: Sequence[_Tried], counting: Counting) -> None:
    rows: list[dict[str, Any]] = [
        {
            "file": str(one.path),
            "form": one.decision.filters or None,
            "why": one.decision.why,
            "sent": one.sent,
            "delivered": one.delivered,
            "left_out": one.decision.left_out,
            "kept": one.kept or "bytes",
            "text": one.text if one.decision.text is None else one.decision.text,
        }
        for one in tried
    ]
    print_json({"unit": counting.unit, "note": counting.note, "files": rows})


def _print(tried: Sequence[_Tried], counting: Counting, lines: int) -> None:
    console = Console(highlight=False)
    for one in tried if lines else ():
        written = one.decision.text
        start = 0 if written is None else max(0, first_change(one.text, written) - lines // 2)
        console.print(Rule(literal(one.path.name), align="left"))
        console.print(_excerpt(one.text, start, lines, "red"))
        if written is not None:
            console.print(Rule(literal(one.decision.filters), align="left", style="dim"))
            console.print(_excerpt(written, start, lines, "green"))
    console.print(_table(tried, counting, console.width))
    for one in tried:
        if one.decision.text is None or ";" in one.decision.why:
            console.print(literal(f"{one.path.name}: {one.decision.why}."))
    console.print(literal(counting.note), style="dim")
    if any(len(one.text) > ESTIMATED for one in tried):
        console.print(f"Of texts over {ESTIMATED:,} characters they may be estimates.", style="dim")


def first_change(text: str, written: str) -> int:
    """Return the index of the first line that is not the text's; in a form of its own, of a mark."""
    lines = written.split("\n")
    pairs = zip_longest(text.split("\n"), lines)
    first = next((n for n, (one, other) in enumerate(pairs) if one != other), 0)
    return first or next((n for n, line in enumerate(lines) if is_mark(line)), 0)


def _excerpt(text: str, start: int, count: int, style: str) -> Text:
    """Return some lines of a text, long ones cut, and say how many more there are on either side."""
    total = text.count("\n") + (not text.endswith("\n"))
    start = max(0, min(start, total - count))
    rest = total - start - count
    excerpt = Text()
    if start:
        excerpt.append(f"… {_counted(start, 'line')} before\n", style="dim")
    for line in text.split("\n", start + count)[start : start + min(count, total)]:
        excerpt.append(visible(line[:_SHOWN_CHARACTERS]), style=style)
        if len(line) > _SHOWN_CHARACTERS:
            more = _counted(len(line) - _SHOWN_CHARACTERS, "more character")
            excerpt.append(f" … {more}", style="dim")
        excerpt.append("\n")
    if rest > 0:
        excerpt.append(f"… {_counted(rest, 'more line')}\n", style="dim")
    return excerpt


def _table(tried: Sequence[_Tried], counting: Counting, width: int) -> Table:
    rows = [
        (
            one.path.name,
            one.decision.filters or "as it is",
            *_saved(one.sent, one.delivered),
            one.kept,
        )
        for one in tried
    ]
    sent, delivered = sum(one.sent for one in tried), sum(one.delivered for one in tried)
    return fitting_table(
        width,
        ("file", "form", counting.unit, "after", "saved", "kept"),
        rows,
        names={"file": 12, "form": 12},
        first_to_go=("kept", "after", counting.unit),
        total=(f"{len(tried)} files", "", *_saved(sent, delivered), "") if len(tried) > 1 else (),
    )


def _saved(sent: int, delivered: int) -> tuple[str, str, str]:
    return f"{sent:,}", f"{delivered:,}", f"{1 - delivered / sent:.0%}" if sent else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"

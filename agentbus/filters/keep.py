"""What no lossy filter leaves out: what tells of failures, in one place.

Kept are lines and sentences that tell of errors, exceptions, failed tests, exit codes other than 0
and HTTP statuses from 400 on; the whole of a Python traceback; what stands indented under such a
line, as stack frames do, up to `FRAMES` lines; warnings of compilers and interpreters; and git's
conflict markers. A log's level `WARN` alone is not kept, since logs are full of it, nor is what says
that there was no error: `0 errors`, `"error": null`.

The rules know words, not meanings: they are to keep too much rather than too little. Identifiers
need no rule here: who leaves out whole lines or sentences tears none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

__all__ = ["FRAMES", "SHORT_TOKENS", "failures", "is_short", "must_keep", "tells_of_failure"]

SHORT_TOKENS: Final = 200
"""A text of no more tokens stays as it is: there is little to gain, and its reader would ask."""
FRAMES: Final = 10
"""Lines that are kept for standing indented under one that tells of a failure."""

_SHORT_CHARACTERS: Final = 40 * SHORT_TOKENS
"""A longer text is not counted: it is not short."""
_WINDOW: Final = 200
_AROUND: Final = 50
"""Characters of a line that are looked at together, and of what stands around them, since no sign of
a failure is longer."""

_BEFORE: Final = r"(?:(?<![\w$./\\-])|(?<=\\[nrt]))(?<!\bno )(?<!\bany )(?<!\bzero )(?<!without )"
"""Not within a name (`on-error`, `/errors`), and not after what says that there is none. What JSON
escapes may stand before: in `"1 passed\\nerror"` it is a line end."""
_NOT_ZERO: Final = r"(?<!(?<![.:\w])0 )"
"""Not after the number 0; but `12:00:00.0 ERROR` has none."""
_NOT_ZERO_OF: Final = r"(?<!^0 )(?<![,:(=|] 0 )(?<![,(=|]0 )"
"""Not after a 0 that counts something: `3 passed, 0 failed`; but in `task 0 failed` it is a name."""
_NONE: Final = (
    r"""(?!(?:\(s\))?\\?["']?\s{0,3}[:=]\s{0,3}"""
    r"""(?:["']?(?:0+(?:\.0+)?|0x0+|null|none|nil|false)(?![\w.])(?!\s[A-Za-z][\w.]*+(?!\s?[:=]))"""
    r"""|(?:\\?["']){2}(?!\w)|\[\s{0,3}\]|\{\s{0,3}\}))"""
)
"""Not followed by what says that there was none: `errors="0"`, `"error": null`, `failures: []`; but
`error: none of them` says something else."""
_AFTER: Final = r"""(?!\w|[./-]\w|\\[^nrt"']|\((?!s\)))""" + _NONE
"""Not the beginning of a name or a call (`error_handler`, `errors.py`, `error(…)`), and not none."""
_TOLD: Final = (
    r"(?:[_-]?(?:code|count|details?|message|msg|reason|text|type))?"
    rf"""(?=["']?\s{{0,3}}[:=](?!=)){_NONE}"""
)
"""After a name that says what it was: `last_error: timed out`, `errorCode=7`."""
_EXCEPTION: Final = r"""(?<=\w)(?-i:Error|Exception|Warning)(?=[:.,;!]?(?:\s|$)|\(["')]|["'])"""
"""The end of an exception's name."""
_LEVEL: Final = (
    r"(?-i:\b[A-Z]+\b)|(?:(?<=\[)|"
    + "|".join(rf"(?<={key})" for key in ("level=", 'level="', 'level":"', 'level": "', 'rity": "'))
    + r")[a-z]+\b"
)
"""The level of a log's line, in upper case, or where the line says that it is one."""
_STATUS: Final = r"(?<=\b[45][0-9]{2} )"


def _word(forms: str) -> str:
    return f"{_BEFORE}(?:{forms}){_AFTER}"


def _countable(word: str) -> str:
    return _word(rf"{word}(?!\(s\))|{_NOT_ZERO}{word}(?:s|(?=\(s\)))")


_SIGNS: Final = {
    sign: re.compile(rule, re.IGNORECASE | re.ASCII)
    for signs, rule in {
        "error errors": rf"{_countable('error')}|errors?{_TOLD}|{_EXCEPTION}",
        "err": r"(?-i:\bERR[]!:\s]|\b[Ee]rr: )",
        "exception exceptions": rf"{_countable('exception(?! of)')}|exceptions?{_TOLD}|{_EXCEPTION}"
        "|(?-i:ExceptionGroup)",
        "failure failures": rf"{_countable('failure')}|failures?{_TOLD}",
        "fail fails failed failing": _word(f"{_NOT_ZERO_OF}fail(?:s|ed|ing)?"),
        "fatal": _word("fatal"),
        "panic panicked": _word("panic(?:ked)?"),
        "uncaught unhandled": _word("uncaught|unhandled"),
        "segfault crashed deadlock aborted": _word("segfault|crashed|deadlock|aborted"),
        "crit critical alert emerg emergency severe": _LEVEL,
        "warning": rf"(?:^|(?<=[0-9]: ))warning(?:\[\w{{1,40}}\])?: \S|{_EXCEPTION}",
        "segmentation": "segmentation fault",
        "core": "core dumped",
        "access": "access violation|access (?:is )?denied",
        "permission": "permission denied",
        "killed": r"killed process|^killed\b|(?<=[0-9] )killed\s",
        "such": "(?<=no )such (?:file|host|device|process|module|table|column)",
        "space": "(?<=no )space left",
        "not": rf"(?:(?<=command )|(?<=module )|(?<=file )|(?<=host )|(?<=: )|{_STATUS})not found",
        "connection": "connection (?:refused|reset)",
        "broken": "broken pipe",
        "timed": "timed out",
        "out": "out of memory",
        "unable": "unable to",
        "could": "could not",
        "unreachable": _word("unreachable"),
        "cannot": "cannot (?:access|allocate|connect|create|execute|find|import|load|open|read"
        "|resolve|stat|write)",
        "undefined": "undefined (?:reference|symbol|variable)",
        "exceeded": "(?:(?<=limit )|(?<=quota ))exceeded",
        "invalid": "invalid argument",
        "exit exited exitcode": r"exit(?:ed)?(?: with)?[ _]?(?:code|status|value)?"
        r"""["']?[ :=]{1,3}\(?-?[1-9]|(?<=non-zero )exit""",
        "return returned returncode": r"""return(?:ed)?[ _]?(?:code|status)["']?[ :=]{1,3}-?[1-9]""",
        "signal": "signal:? [1-9]",
        "http": r"""http/[0-9](?:\.[0-9])?"? [45][0-9]{2}\b""",
        "status": r"""status(?:[ _-]?code)?["']?[ :=]{1,3}["']?[45][0-9]{2}\b""",
        "unauthorized forbidden gateway": _STATUS,
        "bad": rf"{_STATUS}bad (?:gateway|request)",
        "too": f"{_STATUS}too many",
        "service": f"{_STATUS}service unavailable",
        "conflict": rf"{_STATUS}|(?-i:CONFLICT \()",
    }.items()
    for sign in signs.split()
}
"""Words, and what stands at such a word if it tells of a failure."""
_WORDS: Final = re.compile("[A-Za-z](?:(?<=[A-Z])[A-Z]{2,}(?![a-z])|[a-z]{2,})")
"""The words of a text of three letters or more; of names such as `lastError`, those in them."""
_SPELLED: Final = frozenset(
    spelled for sign in _SIGNS for spelled in (sign, sign.capitalize(), sign.upper())
)
_CODE: Final = re.compile(
    r"(?:\b(?:raises?|throws?|new|except|catch|import|extends|class)\ |\()[\w.]{1,60}$"
)
"""Before the end of an exception's name that is raised, caught or made: that is source code."""
_START: Final = re.compile(
    r"""
    E(?:\ {3}|$) | >\ {3,}\S | _{3,}\ .+\ _{3,}$               # pytest
    | \S+\.py\ [.sxXFEp]*[FE][.sxXFEp]*(?:\s|$)
    | \s*(?:not\ ok\b|[✗✘✖✕❌×]\ )                            # TAP, jest, mocha
    | (?:<{7}|>{7}|\|{7})(?:\ |$) | ={7}$                      # git
    | [EF]/\w | [EF]\d{4}\ \d\d: | \d\d-\d\d\ [\d:.]{8,15}\s+\d+\s+\d+\ [EF]\s     # Android, glog
    | goroutine\ \d+\ \[
    """,
    re.VERBOSE,
)
"""What lines start with that are kept."""
_TRACEBACK: Final = "Traceback (most recent call last)"
_GROUP: Final = "Exception Group "


def is_short(text: str, count: Callable[[str], int]) -> bool:
    """Say whether a text is too short for anything to be left out of it.

    Args:
        count: tokens of a text, by the receiver's tokenizer.
    """
    return len(text) <= _SHORT_CHARACTERS and count(text) <= SHORT_TOKENS


def tells_of_failure(text: str) -> bool:
    """Say whether a line or a sentence tells of a failure, or is to stay as if it did."""
    start = _START.match(text.removesuffix("\r"))
    return start is not None or next(failures(text), None) is not None


def failures(text: str) -> Iterator[tuple[int, int]]:
    """Yield where a line or a sentence tells of failures: stretches, with what stands around them.

    A stretch is where its first character stands and where the one behind it does. Stretches come in
    order, may overlap, and are of a few hundred characters at most.
    """
    for start in range(0, len(text), _WINDOW):
        window = (max(0, start - _AROUND), min(len(text), start + _WINDOW + _AROUND))
        if _has_sign(text[slice(*window)]):
            yield window


def _has_sign(text: str) -> bool:
    for word in _SPELLED.intersection(_WORDS.findall(text)):
        rule = _SIGNS[word.lower()]
        place = text.find(word)
        while place >= 0:
            if rule.match(text, place) and not _is_code(text, place):
                return True
            place = text.find(word, place + len(word))
    return False


def _is_code(text: str, place: int) -> bool:
    """Say whether the word at a place is the end of a name that stands in source code."""
    if not (text[place].isupper() and text[place - 1 : place].isalnum()):
        return False
    return _CODE.search(text, max(0, place - 80), place) is not None


def must_keep(lines: Sequence[str]) -> list[bool]:
    """Say of each line of a text whether it must be kept, for itself or for what stands above it.

    Takes linear time.
    """
    walk = _Walk()
    return [walk.keeps(line) for line in lines]


class _Walk:
    """Goes down the lines of a text, and knows what it goes through."""

    def __init__(self) -> None:
        self._traceback = -1
        """The column at which the traceback's lines start that it is in; negative outside."""
        self._indent = 0
        """Of the line that told of a failure."""
        self._frames = 0
        """Indented lines that are still kept under it."""

    def keeps(self, line: str) -> bool:
        """Say whether the next line must be kept."""
        if self._traceback >= 0 and line[self._traceback : self._traceback + 1] in (" ", "\t"):
            return True
        ends, self._traceback = self._traceback >= 0, line.find(_TRACEBACK)
        if self._traceback >= 0:
            if line.endswith(_GROUP, 0, self._traceback):
                self._traceback -= len(_GROUP)
            return True
        if ends or tells_of_failure(line):
            self._indent, self._frames = _indent(line), FRAMES
            return True
        if self._frames and line.strip() and _indent(line) > self._indent:
            self._frames -= 1
            return True
        self._frames = 0
        return False


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())

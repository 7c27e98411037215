"""New versions as what changed: byte-exact back, and what is kept stands written out."""

from __future__ import annotations

import os
import random
import time
from functools import partial

import pytest
from hypothesis import given, settings

from agentbus.context.earlier import LONGEST, Earlier
from agentbus.errors import FormBroken
from agentbus.filters.dedupe import Dedupe
from agentbus.filters.diff import KEPT_CHARACTERS, Diff

from . import test_dedupe
from .recorded import conversations, tool_outputs
from .test_dedupe import LINES, talks

CASES = int(os.environ.get("AGENTBUS_TEST_CASES", "3000"))
FORM = Diff()
BASE = '"line 1 of a "...'
"""The name of a piece that is a `version`."""
MARKS = [
    *('["return None" again, except:]', '[..."return None" again]', '["own line 0 o"... again]'),
    *("[line 2 now:]", "[lines 1-2 gone]", "[line 1 gone]", "[after line 2:]", "[before line 1:]"),
    *("[quoted] [line 2 now:]", "[line 2 now:", "[lines 2-3 now:]"),
]


deliver = partial(test_dedupe.deliver, form=FORM)
told = partial(test_dedupe.told, form=FORM)


def version(changes: dict[int, list[str]], count: int = 12) -> str:
    """Return a text of numbered lines of which some, counted from 1, are others or none."""
    lines = [[f"line {number} of a text of some length"] for number in range(1, count + 1)]
    for number, others in changes.items():
        lines[number - 1] = others
    return "\n".join(line for part in lines for line in part) + "\n"


def changed(some_of: random.Random, lines: list[str], others: list[str]) -> list[str]:
    """Return lines with some left out, changed or added."""
    new = []
    for line in lines:
        what = some_of.random()
        new += [line] if what < 0.8 else some_of.choices(others, k=some_of.randint(0, 2))
    return new


@settings(deadline=None, max_examples=200)
@given(talks())
def test_what_is_written_reads_back_and_is_shorter(texts: list[str]) -> None:
    told(texts)


def test_either_form_refers_to_what_both_wrote() -> None:
    lines = Dedupe()
    for _, messages in conversations():
        earlier = Earlier()
        for text in (message["content"] for message in messages):
            changes, runs = FORM.write(text, earlier), lines.write(text, earlier)
            assert changes is None or FORM.read(changes, earlier) == text
            assert runs is None or lines.read(runs, earlier) == text
            earlier = earlier.given(min(changes or text, runs or text, key=len))


def test_generated_versions_read_back() -> None:
    some_of = random.Random(7)
    others = [*LINES, *MARKS, *(f"line {n} of some text that is longer" for n in range(12))]
    marked = 0
    for _ in range(CASES // 4):
        lines = some_of.choices(others, k=some_of.randint(1, 12))
        lines += [f"own line {n} of this text" for n in range(some_of.randint(0, 12))]
        texts = []
        for _ in range(4):
            lines = changed(some_of, lines, others)
            texts.append("\n".join(lines) + some_of.choice(["", "\n", "\n\n"]))
        marked += sum(text is not given for text, given in zip(texts, told(texts)[1], strict=True))
    assert marked > CASES / 5


def test_the_changes_are_plain() -> None:
    new = version({2: ["two"], 5: [], 6: [], 9: ["line 9 of a text of some length", "and more"]})
    assert told([version({}), new])[1][1] == (
        f"[{BASE} again, except:]\n[line 2 now:]\ntwo\n[lines 5-6 gone]\n"
        "[after line 9:]\nand more\n"
    )
    assert told([version({}), version({})])[1][1] == f"[{BASE} again]\n"
    assert told([version({}), "first\n" + version({7: ["7", ""], 8: []})])[1][1] == (
        f"[{BASE} again, except:]\n[before line 1:]\nfirst\n[lines 7-8 now:]\n7\n\n"
    )


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n", "\n\n\n"])
@pytest.mark.parametrize("base_end", ["", "\n", "\n\n"])
def test_ends_are_exact(end: str, base_end: str) -> None:
    given = told([version({}).strip() + base_end, version({3: ["three"]}).strip() + end])[1]
    assert given[1].startswith(f"[{BASE} again, except:]")


def test_an_empty_line_at_the_end_of_a_change_is_not_the_texts_end() -> None:
    new = version({3: ["three", ""]})
    assert told([version({}), new])[1][1] == f"[{BASE} again, except:]\n[line 3 now:]\nthree\n\n"
    assert told([version({}), new.removesuffix("\n")])[1][1] == new.removesuffix("\n")


def test_content_that_looks_like_a_mark_is_quoted() -> None:
    given = told(
        [version({}), version({3: ["[line 2 now:]", f"[quoted] [{BASE} again]", "[quoted] x"]})]
    )[1]
    assert given[1] == (
        f"[{BASE} again, except:]\n[line 3 now:]\n"
        f"[quoted] [line 2 now:]\n[quoted] [quoted] [{BASE} again]\n[quoted] x\n"
    )


def test_a_few_characters_between_changes_are_written_again() -> None:
    lines = ["x" * (KEPT_CHARACTERS - 1), "y" * (KEPT_CHARACTERS - 2)]
    base, new = version({4: lines[:1], 8: lines[1:]}), {3: ["3"], 5: ["5"], 7: ["7"], 9: ["9"]}
    assert told([base, version({**new, 4: lines[:1], 8: lines[1:]})])[1][1] == (
        f"[{BASE} again, except:]\n[line 3 now:]\n3\n[line 5 now:]\n5\n"
        f"[lines 7-9 now:]\n7\n{lines[1]}\n9\n"
    )


def test_the_base_is_the_piece_that_shares_most() -> None:
    pieces = [version({1: ["1"], 2: ["2"], 4: ["4"]}), version({}), version({}), "and others"]
    earlier = Earlier()
    for piece in pieces:
        earlier = earlier.given(piece)
    assert (
        FORM.write(version({12: ["x"]}), earlier) == f"[{BASE} again, except:]\n[line 12 now:]\nx\n"
    )


def test_a_mark_is_never_kept() -> None:
    base = version({6: ["[lines 1-5 of this text again]"]})
    earlier = Earlier().given(base)
    written = FORM.write(base, earlier)
    assert (
        written
        == f"[{BASE} again, except:]\n[line 6 now:]\n[quoted] [lines 1-5 of this text again]\n"
    )
    with pytest.raises(FormBroken):
        FORM.read(f"[{BASE} again]\n", earlier)


@pytest.mark.parametrize(
    "edits",
    [
        *("", "a", "a\nb", "[line 13 gone]", "[after line 13:]\na", "[line 2 now:]"),
        *("[line 2 now:]\n[line 4 gone]", "[line 2 gone]\na", "[line 4 gone]\n[line 2 gone]"),
        *("[line 2 gone]\n[line 3 gone]", "[line 0 gone]", "[line 2 gone]\na\nb"),
        *("[lines 2 gone]", "[line 2-3 gone]", "[lines 3-2 gone]", "[after line 0:]\na"),
        *("[before line 2:]\na", f"[lines 2-3 of {BASE} again]", f"[line {'9' * 5000} gone]"),
        *("[before line 1:]\na\n[line 1 gone]", "[before line 1:]\na\n[before line 1:]\nb"),
    ],
)
def test_what_is_no_change_of_a_piece_is_broken(edits: str) -> None:
    earlier = Earlier().given(version({}))
    with pytest.raises(FormBroken):
        FORM.read(f"[{BASE} again, except:]" + f"\n{edits}" * bool(edits), earlier)


@pytest.mark.parametrize(
    "written",
    [
        *("", "a", "[BASE again]\na", "x\n[BASE again]", "[BASE again, except]", "[BASE]"),
        *('["line 1 of a " again]', '["line 1 of a t"... again]', "[...BASE again]"),
        *('["line 2 of a "... again]', f'["{"9" * 5000}"... again]', '["line 1 of a ... again]'),
        *('["\\u006cine 1 of a "... again]', "[BASE... again]", '["" again]', "[#1 again]"),
    ],
)
def test_what_names_no_piece_is_broken(written: str) -> None:
    earlier = Earlier().given(version({})).given("")
    assert FORM.read(f"[{BASE} again]\n", earlier) == version({})
    with pytest.raises(FormBroken):
        FORM.read(written.replace("BASE", BASE), earlier)


def test_recorded_messages_read_back() -> None:
    written = sum(
        text is not given
        for _, messages in conversations()
        for texts in [[message["content"] for message in messages]]
        for text, given in zip(texts, told(texts)[1], strict=True)
    )
    assert written > 500


def test_recorded_outputs_are_given_as_their_changes() -> None:
    some_of = random.Random(3)
    for name, text in tool_outputs():
        new = "\n".join(changed(some_of, text.split("\n"), LINES))
        for one in (new, new.replace("\n", "\r\n"), text):
            deliver(one, Earlier().given(text))
        if text.count("\n") >= 3:
            earlier = Earlier().given(text)
            again = f"[{earlier.name(1)} again]"
            assert FORM.write(text, earlier) in (again + "\n", again, None), name


@pytest.mark.parametrize("every", [7, 10**9])
def test_time_is_linear(every: int) -> None:
    def seconds(count: int) -> float:
        base = "\n".join(f"line {n}" for n in range(count))
        new = "\n".join(f"line {n}" if n % every else "other" for n in range(count))
        earlier = Earlier().given(base)
        began = time.process_time()
        FORM.write(new, earlier)
        return time.process_time() - began

    seconds(10_000)
    assert seconds(80_000) < 12 * seconds(20_000) + 0.1


def test_huge_texts() -> None:
    line = "z" * 15_000_000
    assert deliver(f"a\n{line}\nb", Earlier().given(f"{line}\nb")).count("\n") == 2
    base = version({})
    for more, fits in ((LONGEST - len(base), True), (LONGEST - len(base) + 1, False)):
        assert bool(FORM.write(base + "a" * more, Earlier().given(base))) is fits


def test_a_few_characters_do_not_stand_for_more_than_the_longest_text() -> None:
    earlier = Earlier().given("\n".join(["x" * 1000] * (LONGEST // 1000)))
    with pytest.raises(FormBroken):
        FORM.read('["xxxxxxxxxxxx"... again]', earlier)

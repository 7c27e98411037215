"""The CPU's kernels: against the plain formulas, and where they cannot be had."""

from __future__ import annotations

import itertools
import logging
import math
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from agentbus_torch import cpu_kernels as module
from agentbus_torch import native_library
from agentbus_torch.attention_native import NativeAttention, Piece, cut, tree
from agentbus_torch.batch import Part, make_batch
from agentbus_torch.cpu_kernels import attention_kernels, cpu_kernels, row_kernels
from agentbus_torch.kv import KVPool, KVShape
from agentbus_torch.norm import RMSNorm
from agentbus_torch.rope import Rope, turn_
from torch.nn import functional

from .attending import CPU, GROUP, WIDE, Attending, attending, expected, kernels, unturned

BF16 = torch.bfloat16


@pytest.mark.parametrize(("threads", "amx"), [(1, True), (2, True), (3, False)])
@pytest.mark.parametrize(("size", "heads", "kv_heads"), [(64, 2, 2), (128, 7, 1), (256, 16, 2)])
def test_heads_of_all_shapes(
    size: int,
    heads: int,
    kv_heads: int,
    threads: int,
    amx: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long prompt, cut by rows and by position; then its decoding, cut by position."""
    torch.manual_seed(5)
    found = kernels(size)
    monkeypatch.setattr(found, "amx", found.amx and amx)
    pool = KVPool(KVShape(2, kv_heads, size, 16), 4, dtype=BF16, device=CPU)
    attention = NativeAttention(
        pool,
        unturned(size, BF16),
        found,
        heads=heads,
        slots=2,
        positions=3000,
        sliding=[0, 700],
    )
    made = Attending(pool, attention, heads // kv_heads, 2e-2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 1500, 130, 1, 1):
            made.step([made.part(1, rows)], sees=700)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads"), [(64, 4, 1), (64, 2, 2), (128, 4, 2), (256, 3, 3)]
)
def test_few_rows(size: int, heads: int, kv_heads: int) -> None:
    """One at each place within a block; two, of which the later one does not see what the window
    of the earlier one begins with; and of one that sees only a part of a block, the others more."""
    torch.manual_seed(9)
    pool = KVPool(KVShape(2, kv_heads, size, 16), 4, dtype=BF16, device=CPU)
    attention = NativeAttention(
        pool,
        unturned(size, BF16),
        kernels(size),
        heads=heads,
        slots=1,
        positions=3000,
        sliding=[0, 64],
    )
    made = Attending(pool, attention, heads // kv_heads, 2e-2)
    made.step([made.part(0, 62)], sees=64)
    for rows in (1, 2, *[1] * 61, *[2, 3, 1, 4] * 8):
        made.step([made.part(0, rows)], sees=64)


def test_the_first_of_many_rows_sees_all_of_a_block_but_its_last_key() -> None:
    made = attending("kernels")
    made.attention.open((), 0, ())
    for rows in (62, 100):
        made.step([made.part(0, rows)])


def test_as_many_heads_for_one_of_keys_as_there_may_be() -> None:
    pool = KVPool(KVShape(2, 1, 64, 16), 4, dtype=BF16, device=CPU)
    attention = NativeAttention(
        pool, unturned(64, BF16), kernels(), heads=128, slots=1, positions=300, sliding=[0, 0]
    )
    made = Attending(pool, attention, 128, 2e-2)
    for rows in (70, 1):
        made.step([made.part(0, rows)])


def test_queries_and_keys_are_turned_as_torch_does() -> None:
    torch.manual_seed(6)
    pool = KVPool(WIDE, 4, dtype=BF16, device=CPU)
    angles = torch.outer(torch.arange(900).float(), torch.rand(32))
    cosine, sine = angles.cos(), angles.sin()
    rope = Rope(torch.cat((cosine, cosine), 1).to(BF16), torch.cat((-sine, sine), 1).to(BF16))
    attention = NativeAttention(
        pool, rope, kernels(), heads=6, slots=2, positions=900, sliding=[0, 0]
    )
    rows = torch.randn(800, 10, 64, dtype=BF16)
    attention.prepare(make_batch([Part(1, (), 0, (1,) * 800, 0)], CPU))
    found = attention.attend(0, rows.clone())
    turned = rows.float()
    turn_(turned[:, :8], rope.cosine[:800, None].float(), rope.sine[:800, None].float())
    window = attention._windows.layers[0][1].transpose(0, 1)[:800]
    assert torch.equal(window[:, 2:], rows[:, 8:])
    assert torch.allclose(window[:, :2].float(), turned[:, 6:8], rtol=2**-7, atol=1e-6)
    right = expected(turned[:, :6], turned[:, 6:], 0)
    assert (found.double() - right).abs().max() < 4e-2


def test_a_shared_prefix_is_read_once() -> None:
    """What lies in the others' windows at its places does not matter."""
    made = attending("kernels", blocks=400)
    for n in range(4):
        made.attention.open(range(150), 600, ())
        made.said[n] = made.pool.layers[0][:150].flatten(0, 1)
        if n:
            made.attention._windows.layers[0][n, :, :600] = math.nan
    for _ in range(3):
        made.step([made.part(n, 1, (*range(150), 399)) for n in range(4)])


def test_what_is_behind_a_sequence_harms_nobody_and_what_is_broken_shows() -> None:
    made = attending("kernels")
    for n in range(3):
        made.attention.open((), 0, ())
        made.step([made.part(n, 70)])
    for layer in made.attention._windows.layers:
        layer[0, :, 70:] = math.nan
    made.step([made.part(n, 1) for n in range(3)])
    for broken in (math.nan, math.inf):
        for head in (0, 2):  # a key, then a value
            made.attention._windows.layers[0][1, head, 5] = broken
            made.attention.prepare(make_batch([made.part(n, 1) for n in range(3)], CPU))
            found = made.attention.attend(0, torch.randn(3, 10, 64, dtype=BF16))
            assert not found[[0, 2]].isnan().any()
            heads = found[1].view(6, 64)[:GROUP]
            assert (heads.isnan() | heads.isinf()).any()
            made.attention._windows.layers[0][1, head, 5] = 0.0


@pytest.mark.parametrize("last", [1, 300])
def test_scores_far_from_each_other(last: int) -> None:
    """Their powers would overflow, or all be 0, but for the maximum that is taken off."""
    made = attending("kernels")
    made.attention.open((), 0, ())
    climbing = torch.linspace(-1, 1, 300)[:, None, None]
    for keys in (torch.ones(300, 1, 1), -torch.ones(300, 1, 1), climbing, -climbing):
        rows = torch.full((300, 10, 64), 10.0, dtype=BF16)
        rows[:, 6:8] = 1e4 * keys
        rows[:, 8:] = torch.randn(300, 2, 64)
        for start, end in ((0, 300 - last), (300 - last, 300)):
            if end == start:
                continue
            part = Part(0, (), start, (1,) * (end - start), 0)
            made.attention.prepare(make_batch([part], CPU))
            found = made.attention.attend(0, rows[start:end].clone())
        right = expected(rows[300 - last :, :6], rows[:, 6:], 300 - last)
        assert (found.double() - right).abs().max() < 2e-2


@pytest.mark.parametrize("sees", [2**31, 2**32 + 1, 10**18])
def test_a_layer_that_slides_farther_than_all_windows_sees_all(sees: int) -> None:
    torch.manual_seed(8)
    made = attending("kernels", sees=sees)
    made.attention.open((), 0, ())
    made.step([made.part(0, 150)], sees=sees)


def test_the_memory_of_partial_results_hangs_on_no_default_of_torch() -> None:
    made = attending("kernels")
    made.attention.open((), 0, ())
    torch.set_default_dtype(torch.float16)
    try:
        made.attention.prepare(make_batch([made.part(0, 150)], CPU))
    finally:
        torch.set_default_dtype(torch.float32)
    assert isinstance(made.attention, NativeAttention)
    assert made.attention._scratch.dtype == torch.float32


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("size", [16, 576, 1536])
def test_rows_between_products(rows: int, size: int) -> None:
    found = kernels()
    assert row_kernels(BF16, CPU, size) is found
    torch.manual_seed(7)
    x, weight = torch.randn(rows, size, dtype=BF16) * 30, torch.randn(size, dtype=BF16)
    x[0] = 0
    right = functional.rms_norm(x.float(), (size,), weight.float(), 1e-5)
    assert torch.allclose(found.rms_norm(x, weight, 1e-5).float(), right, rtol=2**-8, atol=1e-6)
    strided = torch.cat((x, x), 1)[:, size:]
    assert torch.equal(found.rms_norm(strided, weight, 1e-5), found.rms_norm(x, weight, 1e-5))
    both = torch.cat((x, torch.randn(rows, size, dtype=BF16)), 1)
    both[-1, :4] = torch.tensor([-1e38, 1e38, -200.0, 200.0])
    right = functional.silu(both[:, :size].float()) * both[:, size:].float()
    assert torch.allclose(found.silu_times(both).float(), right, rtol=2**-7, atol=1e-6)


def test_what_they_are_not_for_is_left_to_torch() -> None:
    assert row_kernels(torch.float32, CPU, 64) is None
    assert row_kernels(BF16, CPU, 24) is None
    assert attention_kernels(torch.float32, 64, 1) is None
    assert attention_kernels(BF16, 96, 1) is None
    assert attention_kernels(BF16, 512, 1) is None
    assert attention_kernels(BF16, 64, 129) is None


def test_what_begins_alike_is_met_together() -> None:
    system, one, other = list(range(10)), list(range(20, 30)), list(range(40, 50))
    parts = [
        Part(0, [*system, *one, 60], 320, (1,), 1),
        Part(1, [*system, *one, 61], 325, (1,), 1),
        Part(2, [*system, *other, 62], 330, (1,), 1),
        Part(3, [*system, *other, 63], 335, (1, 1, 1), 1),
        Part(4, [70] * 21, 330, (1,), 1),
    ]
    rows = [range(1), range(1, 2), range(2, 3), range(3, 6), range(6, 7)]
    found = tree(list(zip(parts, rows, strict=True)), 16)
    together = [piece for piece in found if len(piece.rows) > 1 and piece.slot != 3]
    assert together == [
        Piece([0, 1, 2, 3, 4, 5], 0, 0, 160),
        Piece([0, 1], 0, 160, 320),
        Piece([2, 3, 4, 5], 2, 160, 320),
    ]
    for row, (part, last) in enumerate([(0, 321), (1, 326), (2, 331), (3, 338), (4, 331)]):
        mine = [piece for piece in found if rows[part][0] in piece.rows]
        met = sorted((piece.first, piece.end) for piece in mine)
        assert met[0][0] == 0 and met[-1][1] == last, row
        assert all(one[1] == other[0] for one, other in itertools.pairwise(met))


def test_a_short_prefix_is_not_worth_a_piece() -> None:
    parts = [(Part(n, [1, 2, 3, 4 + n], 64, (1,), 1), range(n, n + 1)) for n in range(3)]
    assert tree(parts, 16) == [Piece(range(n, n + 1), n, 0, 65) for n in range(3)]


def test_pieces_keep_all_threads_busy() -> None:
    pieces = cut([Piece(range(3), 0, 0, 1764)], kv_heads=3, threads=2)
    assert len(pieces) * 3 % 2 == 0
    assert sorted((piece.first, piece.end) for piece in pieces) == [(0, 896), (896, 1764)]
    assert len(cut([Piece(range(1), 0, 0, 100_000)], kv_heads=2, threads=64)) * 2 >= 120
    assert cut([Piece(range(1), 0, 0, 400)], kv_heads=1, threads=8) == [Piece(range(1), 0, 0, 400)]
    many = [Piece(range(1), n, 0, 100 + n) for n in range(16)]
    assert cut(many, kv_heads=3, threads=2) == many[::-1]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, where nothing is compiled yet."""
    kernels()
    monkeypatch.setenv("HOME", str(tmp_path))
    cpu_kernels.cache_clear()
    yield tmp_path
    cpu_kernels.cache_clear()


def folder(home: Path) -> Path:
    return home / ".cache" / "agentbus" / "kernels"


def test_they_are_compiled_once_even_by_many(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(4) as many:
        found = [one.result() for one in [many.submit(cpu_kernels) for _ in range(4)]]
    assert all(one is not None for one in found)
    (library,) = folder(fresh).iterdir()
    assert library.suffix == ".so"
    cpu_kernels.cache_clear()
    monkeypatch.setattr(native_library, "_compile", None)
    assert cpu_kernels() is not None


def test_half_a_library_is_not_loaded_but_compiled_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it would kill the process."""
    monkeypatch.setattr(module, "CPUKernels", Path)
    assert cpu_kernels() is not None
    cpu_kernels.cache_clear()
    (library,) = fresh.rglob("*.so")
    whole = library.read_bytes()
    library.write_bytes(whole[:20_000])
    assert cpu_kernels() is not None
    assert library.read_bytes() == whole


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "link to a pipe"])
def test_what_is_no_library_is_not_read(
    fresh: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPUKernels", Path)
    assert cpu_kernels() is not None
    cpu_kernels.cache_clear()
    (library,) = fresh.rglob("*.so")
    odd = library.with_name(library.name.replace("-", "-0", 1))
    library.unlink()
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        if "pipe" in kind:
            os.mkfifo(fresh / "pipe")
        odd.symlink_to(fresh / "pipe")
    assert cpu_kernels() is not None
    assert library.is_file()


def test_in_a_folder_that_others_may_write_nothing_is_read_or_compiled(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_library, "_compile", None)
    folder(fresh).mkdir(parents=True)
    folder(fresh).chmod(0o777)
    assert cpu_kernels() is None
    assert "can be written by others" in caplog.text


def test_a_group_that_may_write_new_files_is_no_hindrance(fresh: Path) -> None:
    """Some systems say so for all users, each of whom is alone in a group."""
    before = os.umask(0o002)
    try:
        (fresh / ".cache" / "agentbus").mkdir(parents=True)  # as the cache of models is made
        assert cpu_kernels() is not None
    finally:
        os.umask(before)


@pytest.mark.parametrize("command", ["{} -DSOMETHING", "'{}'", "", " "])
def test_the_compiler_may_be_named_with_arguments(
    fresh: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = fresh / "my cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@"\n')
    compiler.chmod(0o755)
    (fresh / "plain").symlink_to(compiler)
    name = compiler if "'" in command else fresh / "plain"
    monkeypatch.setenv("CC", command.format(name))
    assert cpu_kernels() is not None


def test_without_a_compiler_torch_does_the_work(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert cpu_kernels() is None
    norm = RMSNorm(torch.ones(64, dtype=BF16), 1e-5)
    x = torch.randn(3, 64, dtype=BF16)
    right = functional.rms_norm(x.float(), (64,), None, 1e-5)
    assert torch.allclose(norm(x).float(), right, rtol=2e-2, atol=1e-2)


FAILURES = {
    "echo 'unknown option -mavx512bf16' >&2; exit 1": "unknown option -mavx512bf16",
    "printf 'd\\351j\\340 vu' >&2; exit 1": "j\ufffd vu",  # in another encoding
    "exit 3": "exit status 3",
    "exit 0": "kernels.so",
    "echo 'a warning' >&2; exec sleep 60": "timed out",
    'exec cc "$@" -fvisibility=hidden': "undefined symbol: agentbus_attend",
}


@pytest.mark.parametrize("script", FAILURES)
def test_a_compiler_that_fails_is_told_of_and_no_reason_to_stop(
    fresh: Path, script: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = fresh / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    if "sleep" in script:
        monkeypatch.setattr(native_library, "_COMPILE_TIMEOUT_S", 0.5)
    with caplog.at_level(logging.WARNING):
        assert cpu_kernels() is None
    assert FAILURES[script] in caplog.text


def test_neither_is_a_home_or_a_name_of_a_compiler_that_is_none(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (fresh / ".cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert cpu_kernels() is None
    assert str(fresh / ".cache") in caplog.text
    cpu_kernels.cache_clear()
    monkeypatch.setenv("CC", "'cc")
    with caplog.at_level(logging.WARNING):
        assert cpu_kernels() is None
    assert "No closing quotation" in caplog.text


def test_a_library_that_others_may_have_written_is_not_loaded(
    fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert cpu_kernels() is not None
    cpu_kernels.cache_clear()
    kept = folder(fresh)
    kept.chmod(kept.stat().st_mode | stat.S_IWOTH)
    with caplog.at_level(logging.WARNING):
        assert cpu_kernels() is None
    assert "can be written by others" in caplog.text

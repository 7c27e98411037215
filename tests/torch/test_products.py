"""Products with weights, in each form that a CPU's are kept in, against the plain formula."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from agentbus_torch import cpu_kernels, linear
from agentbus_torch.linear import InTiles, make_head, make_linear, make_swiglu
from agentbus_torch.memory import HugePages, empty_as_used
from agentbus_torch.norm import RMSNorm
from torch import Tensor
from torch.nn import functional

BF16 = torch.bfloat16
FORMS = ("tiles", "onednn")
ROWS = (1, 2, 16, 17, 31, 32, 33, 48, 64, 130, 256, 257, 301)


@pytest.fixture(params=FORMS, autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have weights kept in one form, where the CPU knows it."""
    chosen: str = request.param
    if chosen == "tiles":
        if cpu_kernels.product_kernels(torch.empty(32, 32, dtype=BF16)) is None:
            pytest.skip("there is no AMX, or no C compiler that knows it")
        monkeypatch.setattr(cpu_kernels, "_PARALLEL_NUMBERS", 0)
    else:
        monkeypatch.setattr(linear, "product_kernels", lambda weight: None)
    return chosen


def normed(x: Tensor, norm: RMSNorm) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[1:], norm.weight.float(), norm.eps).to(BF16)


def close(found: Tensor, right: Tensor) -> None:
    """Sums of as many terms are compared with the size that they have."""
    assert found.dtype == BF16 and found.shape == right.shape
    assert torch.allclose(found.float(), right.float(), rtol=2**-7, atol=2e-2)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (96, 64), (224, 576), (64, 4096)])
def test_a_product_of_any_number_of_rows(outputs: int, inputs: int, threads: int) -> None:
    torch.manual_seed(3)
    weight = (torch.randn(outputs, inputs) / inputs**0.5).to(BF16)
    bias, norm = torch.randn(outputs).to(BF16), RMSNorm(torch.rand(inputs).to(BF16), 1e-5)
    plain, biased = make_linear(weight), make_linear(weight, bias)
    behind = make_linear(weight, norm=norm)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in ROWS:
            x, other = torch.randn(rows, inputs).to(BF16), torch.randn(rows, outputs).to(BF16)
            right = x.float() @ weight.float().T
            close(plain(x), right)
            close(biased(x), right + bias.float())
            close(biased.plus(x, other.clone()), right + bias.float() + other.float())
            close(behind(x), normed(x, norm).float() @ weight.float().T)
            if rows > 1:  # as rows that a product shares with others
                wide, more = torch.cat((x, x), 1)[:, :inputs], torch.cat((other, other), 1)
                assert torch.equal(plain(wide), plain(x))
                found = plain.plus(wide, more[:, :outputs])
                assert torch.equal(found, plain.plus(x, other.clone()))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", ["tiles"], indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
def test_scores_are_as_wide_as_their_sums(threads: int) -> None:
    torch.manual_seed(8)
    weight, norm = torch.randn(224, 576).to(BF16), RMSNorm(torch.rand(576).to(BF16), 1e-5)
    head, narrow = make_head(weight, norm), make_linear(weight, norm=norm)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in ROWS:
            x = torch.randn(rows, 576).to(BF16)
            found = head(x)
            assert found.dtype == torch.float32 and found.shape == (rows, 224)
            assert torch.equal(found.to(BF16), narrow(x))
            right = norm(x).float() @ weight.float().T
            assert (found - right).abs().max() < 1e-3 < (narrow(x).float() - right).abs().max()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("inner", [16, 48, 1536])
def test_swiglu(inner: int, form: str) -> None:
    torch.manual_seed(4)
    gate, up = ((torch.randn(inner, 96) / 4).to(BF16) for _ in range(2))
    norm = RMSNorm(torch.rand(96).to(BF16), 1e-6)
    made = make_swiglu(gate, up, norm)
    for rows in ROWS:
        x = torch.randn(rows, 96).to(BF16)
        right = normed(x, norm).float()
        opened, through = right @ gate.float().T, right @ up.float().T
        if form == "onednn":  # whose products come in bfloat16
            opened, through = opened.to(BF16).float(), through.to(BF16).float()
        close(made(x), functional.silu(opened) * through)


def with_exponents(outputs: int, inputs: int, share: float) -> Tensor:
    """Return weights of which a share has any exponent that a number of normal size can have."""
    torch.manual_seed(9)
    weight = (torch.randn(outputs, inputs) / inputs**0.5).to(BF16)
    exponents = torch.randint(1, 255, weight.shape)
    others = (weight.view(torch.int16) & ~(255 << 7)) | (exponents << 7).to(torch.int16)
    return torch.where(torch.rand(weight.shape) < share, others.view(BF16), weight)


@pytest.mark.parametrize("inputs", [32, 576])
@pytest.mark.parametrize("share", [0, 0.001, 0.05, 1])
@pytest.mark.parametrize("special", [False, True])
def test_no_bit_of_a_weight_is_lost(share: float, inputs: int, special: bool) -> None:
    """What is multiplied with 1 alone is the weight itself."""
    weight = with_exponents(96, inputs, share)
    if special:
        weight[5, 3], weight[40, 31], weight[95, 0], weight[64, 7] = 0, torch.inf, -torch.inf, 3e38
        weight[:, inputs - 2] = 0
    made, one = make_linear(weight), torch.eye(inputs).to(BF16)
    for rows in (1, 33, inputs):
        found = made(one[inputs - rows :])
        right = weight.T[inputs - rows :]
        finite = torch.isfinite(weight).all(1)  # elsewhere it is multiplied with 0
        assert torch.equal(found[:, finite], right[:, finite])
        assert torch.equal(torch.isinf(right), torch.isinf(found) & torch.isinf(right))


@pytest.mark.parametrize("form", ["tiles"], indirect=True)
def test_weights_of_any_exponents_are_left_to_onednn() -> None:
    known, other = with_exponents(64, 64, 0.05), with_exponents(64, 64, 0.2)
    assert isinstance(make_linear(known), InTiles)
    assert not isinstance(make_linear(other), InTiles)
    norm = RMSNorm(torch.ones(64).to(BF16), 1e-5)
    assert not isinstance(make_swiglu(other, other, norm), InTiles)
    assert not isinstance(make_head(other, norm), InTiles)


@pytest.mark.parametrize("form", ["tiles"], indirect=True)
def test_weights_take_three_quarters_of_their_memory() -> None:
    kernels = cpu_kernels.cpu_kernels()
    assert kernels is not None
    weight = with_exponents(320, 576, 0)
    packed = kernels.packed(weight)
    assert packed is not None and packed.pairs.nbytes * 4 == weight.nbytes * 3
    assert packed.strays.nbytes + packed.first_stray.nbytes < weight.nbytes / 100


@pytest.mark.parametrize("form", ["tiles"], indirect=True)
def test_a_row_is_the_same_whatever_rows_are_beside_it() -> None:
    """Which oneDNN does not say of itself."""
    torch.manual_seed(5)
    made = make_linear(torch.randn(64, 576).to(BF16))
    x = torch.randn(300, 576).to(BF16)
    found = made(x)
    for rows in (1, 5, 40, 256):
        assert torch.equal(made(x[:rows]), found[:rows])


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 64), (64, 48), (3, 5)])
def test_shapes_that_are_no_whole_tiles(outputs: int, inputs: int) -> None:
    weight, x = torch.randn(outputs, inputs).to(BF16), torch.randn(7, inputs).to(BF16)
    close(make_linear(weight)(x), x.float() @ weight.float().T)


def test_weights_may_lie_anywhere_in_a_file() -> None:
    memory, x = torch.randn(64 * 32 + 5).to(BF16), torch.randn(7, 32).to(BF16)
    for offset in (1, 4, 5):
        weight = memory[offset : offset + 64 * 32].view(64, 32)
        close(make_linear(weight)(x), x.float() @ weight.float().T)
        close(make_linear(weight.T.contiguous().T)(x), x.float() @ weight.float().T)


@pytest.mark.parametrize("rows", [1, 15, 17, 31, 33, 63])
def test_rows_may_end_where_memory_does(rows: int) -> None:
    """What is behind them cannot be read: this process would end."""
    made = make_linear(torch.randn(64, 96).to(BF16))
    memory = torch.frombuffer(mmap.mmap(-1, 16 * mmap.PAGESIZE), dtype=BF16)
    known = memory.nbytes - mmap.PAGESIZE
    behind = ctypes.c_void_p(memory.data_ptr() + known)
    assert ctypes.CDLL(None).mprotect(behind, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    x, other = (memory[: known // 2][-rows * size :].view(rows, size) for size in (96, 64))
    x.copy_(kept := torch.randn(rows, 96).to(BF16))
    close(made(x), made(kept).float())
    other.copy_(added := torch.randn(rows, 64).to(BF16))
    close(made.plus(kept, other), made.plus(kept, added).float())


def test_no_rows() -> None:
    made = make_linear(torch.randn(64, 32).to(BF16))
    assert made(torch.empty(0, 32, dtype=BF16)).shape == (0, 64)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    weight = torch.randn(64, 96).to(BF16)
    made, x = make_linear(weight), torch.randn(40, 96).to(BF16)
    x[3, 7], x[20, 0] = torch.nan, torch.inf
    broken = ~torch.isfinite(made(x).float()).all(1)
    assert broken.nonzero().flatten().tolist() == [3, 20]


def test_memory_is_given_once() -> None:
    memory = HugePages()
    first = [memory.empty((n, 3), BF16) for n in (1, 5, 100)]
    large = memory.empty((40 << 20,), BF16)  # more than a mapping
    last = memory.empty((8,), torch.float32)
    for n, one in enumerate((*first, large, last)):
        assert one.data_ptr() % 64 == 0 or one.numel() == 0
        one.fill_(n)
    assert all(bool((one == n).all()) for n, one in enumerate((*first, large, last)))


def test_more_memory_than_there_is() -> None:
    with pytest.raises(MemoryError):
        HugePages().empty((1 << 50,), BF16)
    with pytest.raises(MemoryError):
        empty_as_used((1 << 62, 4), BF16)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in their own way")
def test_memory_that_is_not_used_need_not_be_there() -> None:
    far = empty_as_used((1 << 20, 1 << 19), BF16)  # a terabyte
    far[-1, -8:] = 3
    far[0, :8] = 2
    assert far[-1, -9:].tolist() == [0] + [3] * 8
    assert far[0, :9].tolist() == [2] * 8 + [0]
    assert empty_as_used((4, 0), BF16).shape == (4, 0)


def flags_of(address: int) -> list[str]:
    """Return the flags of the mapping that an address is in, as Linux tells them."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= address < int(match[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise LookupError(address)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not tell")
def test_no_huge_page_is_taken_for_a_little() -> None:
    assert "nh" in flags_of(empty_as_used((1 << 26,), BF16).data_ptr())

"""What is replaced in Triton's interpreter gives the same bits, for less work."""

import numpy as np
import pytest
import torch

import fast

if fast.kernels.dense is None or torch.cuda.is_available():
    pytest.skip("nothing is interpreted here", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter

from fast.kernels import interpreter as quicker

OURS = fast.kernels.dense._linear


@triton.jit
def scan_kernel(p_a, p_b, p_out, N: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr, FLAT: tl.constexpr):
    o = tl.arange(0, N) if FLAT else tl.arange(0, N)[:, None] * 4 + tl.arange(0, 4)[None, :]
    b_a, b_b = tl.associative_scan((tl.load(p_a + o), tl.load(p_b + o)), AXIS, OURS, reverse=REVERSE)
    tl.store(p_out + o, b_a)
    tl.store(p_out + 64 + o, b_b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis, flat", [(0, False), (1, False), (0, True)])
def test_a_scan_of_slices_has_the_bits_of_one_number_after_another(axis, flat, reverse, dtype, monkeypatch):
    scanned, scan = [], quicker.scan_slices
    monkeypatch.setattr(quicker, "scan_slices", lambda *how: scanned.append(how) or scan(*how))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, generator=generator).to(dtype) for _ in range(2))
    out = torch.zeros(128, dtype=dtype)
    scan_kernel[(1,)](a, b, out, N=16, AXIS=axis, REVERSE=reverse, FLAT=flat)

    assert len(scanned) == 1
    lines = torch.arange(16)[None] if flat else torch.arange(64).view(16, 4).movedim(axis, -1)
    for line in lines.flip(-1) if reverse else lines:
        numbers = list(zip(a[line].numpy(), b[line].numpy(), strict=True))
        for i in range(1, len(numbers)):
            (p, q), (c, d) = numbers[i - 1], numbers[i]
            numbers[i] = p * c, q * c + d
        want = torch.from_numpy(np.array(numbers)).to(dtype)
        assert torch.equal(out[:64][line], want[:, 0]) and torch.equal(out[64:][line], want[:, 1])


@triton.jit
def larger(a, b):
    if a > b:
        return a
    return b


@triton.jit
def maxima_kernel(p_x, p_out):
    o = tl.arange(0, 4)[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(p_out + o, tl.associative_scan(tl.load(p_x + o), 0, larger))


def test_a_function_that_looks_at_a_number_gets_one():
    x, out = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 4)
    maxima_kernel[(1,)](x, out)
    assert torch.equal(out, x.cummax(0).values)


@triton.jit
def total(x):
    return tl.sum(x + tl.zeros((4,), tl.float32), 0)


@triton.jit
def sums_kernel(p_x, p_out, TIMES: tl.constexpr):
    for i in range(TIMES):
        tl.store(p_out + i, total(tl.load(p_x + tl.arange(0, 4)) * i))


def test_the_language_is_prepared_once_a_launch(monkeypatch):
    prepared, x = [], torch.tensor([1.0, 2.0, 3.0, 4.0])
    prepare = interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", lambda *how: prepared.append(how[0]) or prepare(*how))
    counts = []
    for times in (1, 1, 5):  # the first rewrites the functions, which then name more modules
        out = torch.zeros(5)
        sums_kernel[(1,)](x, out, TIMES=times)
        assert out.tolist() == [10.0 * i if i < times else 0.0 for i in range(5)]
        counts.append(len(prepared))
        prepared.clear()
    assert counts[1] == counts[2] > 0


def test_after_a_kernel_that_fails_the_next_launch_is_as_any(monkeypatch):
    before, x, out = tl.load, torch.ones(4), torch.zeros(5)
    monkeypatch.setattr(interpreter.interpreter_builder, "create_masked_load", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
        sums_kernel[(1,)](x, out, TIMES=1)
    assert tl.load is before and quicker._prepared is None
    monkeypatch.undo()
    sums_kernel[(1,)](x, out, TIMES=2)
    assert out.tolist() == [0, 4, 0, 0, 0] and tl.load is before


def test_numpys_name_of_a_type_is_looked_up_once():
    types = {tl.int1: "bool", tl.bfloat16: "uint16", tl.float8e5: "uint8", tl.int64: "int64", tl.float32: "float32"}
    pairs = [*types.items(), (tl.pointer_type(tl.float32), "uint64"), (tl.pointer_type(tl.int64), "uint64")]
    for scalar, name in pairs:
        for of in (tl.block_type(scalar, [4]), scalar, tl.block_type(scalar, [2, 8])):
            assert interpreter._get_np_dtype(of) == np.dtype(name)
    asked = []
    find = quicker._knowing(lambda of: asked.append(of) or np.dtype("float32"))
    for _ in range(3):
        assert find(tl.float32) == find(tl.block_type(tl.float32, [4])) == np.dtype("float32")
    assert asked == [tl.float32]

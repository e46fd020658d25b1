"""What is particular to the compiled loop: blocks, legs, threads, processes, caches, memory, and its step."""

import importlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import fast
from fast import compiled, walk
from tests.fast.test_operators import OPERATORS, function, inputs, results
from tests.support.cases import steps, whole
from verify.laws import cases, check

ROOT = Path(__file__).resolve().parents[2]
needs_numba = pytest.mark.skipif(compiled.why_not() is not None, reason=str(compiled.why_not()))
run = whole("walk")
backends = importlib.import_module("fast.backends")  # fast.backends is a function


def splits(columns: int, length: int | None = None, threads: int = 1):
    """Blocks of so many columns, legs of so many tokens, so many threads, whatever the size of the work."""
    legs = walk._legs

    def of_length(lengths, used, slots_per_token):
        if length is None:
            return legs(lengths, used, slots_per_token)
        aside = np.maximum(0, -(-lengths // length) - 2) * used
        return np.full(len(lengths), length), length * slots_per_token, int(aside.max(initial=0))

    torch.set_num_threads(threads)
    return patch.multiple(
        walk, _columns=lambda sequences, num_slots, width: min(columns, width), _legs=of_length
    ), patch.object(compiled, "SMALL", 0)


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_numba
@given(st.data())
def test_neither_blocks_nor_legs_nor_threads_matter(data):
    case = data.draw(cases("sparse"))
    columns, length, threads = (data.draw(st.integers(1, most)) for most in (16, 20, 3))
    blocks, small = splits(columns, length, threads)
    with blocks, small:
        check(case, run)


@needs_numba
@given(st.data())
def test_packed_sequences_in_blocks_are_separate_sequences(data):
    case = data.draw(cases("sparse", batches=(1, 2, 3)))
    batch, time, width = case.value.shape
    blocks, small = splits(data.draw(st.integers(1, 8)), threads=2)

    def one_row(case):
        tokens = {n: getattr(case, n).flatten(0, 1)[None] for n in ("theta", "phi", "value", "slots")}
        y, state = run(replace(case, **tokens), cu_seqlens=torch.arange(batch + 1) * time)
        return y.view(batch, time, width), state

    with blocks, small:
        check(case, one_row)


@needs_numba
@pytest.mark.parametrize("length", [None, 1, 4, 12])
@pytest.mark.parametrize("columns", [2, 5])
def test_the_loops_mean_the_same_in_python(columns, length):
    """Where no index may leave an array."""
    floating, slots = inputs("sparse", T=12, D=5)
    want = results(function("sparse", slots, backend="walk"), floating)
    blocks, small = splits(columns, length)
    with blocks, small, patch.object(compiled, "call", lambda loop, *arguments, dtype: loop(*arguments)):
        got = results(function("sparse", slots, backend="walk"), floating)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@needs_numba
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 50]])
@pytest.mark.parametrize("columns", [3, 5, 100])
def test_any_number_of_threads_gives_the_same_bits(columns, cu_seqlens):
    floating, slots = inputs("sparse", B=1 if cu_seqlens else 4, T=50, D=19)
    options = {"cu_seqlens": torch.tensor(cu_seqlens)} if cu_seqlens else {}
    if cu_seqlens:
        floating[3] = floating[3].detach().repeat(3, 1, 1).requires_grad_()
    found = []
    for threads in (1, 2, 3, 5):
        blocks, small = splits(columns, threads=threads)
        with blocks, small:
            found.append(results(function("sparse", slots, backend="walk", **options), floating))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@needs_numba
def test_there_are_as_many_threads_as_torch_has():
    floating, slots = inputs("sparse", B=4)
    for threads in (1, 2, 3):
        blocks, small = splits(2, threads=threads)
        with blocks, small, patch.object(compiled, "call", wraps=compiled.call) as call:
            function("sparse", slots, backend="walk")(*floating)
        assert [c.args[2] for c in call.call_args_list if c.args[0] is walk._forward] == [threads] * threads
    torch.set_num_threads(3)
    with patch.object(compiled, "call", wraps=compiled.call) as call:
        function("sparse", slots, backend="walk")(*floating)
    assert [c.args[2] for c in call.call_args_list if c.args[0] is walk._forward] == [1], "small work needs one thread"


@needs_numba
@pytest.mark.parametrize("can", [True, False])
def test_workers_of_openmp_are_ended_before_threads_start(monkeypatch, can):
    """Where torch has brought an OpenMP that can be asked to."""
    asked = []
    monkeypatch.setattr(compiled, "_pause_openmp", lambda: asked.append if can else None)
    floating, slots = inputs("sparse", B=4)
    for threads in (1, 2):
        blocks, small = splits(2, threads=threads)
        with blocks, small:
            function("sparse", slots, backend="walk")(*floating)
        assert bool(asked) == (can and threads == 2)


@needs_numba
def test_two_threads_may_call_at_once():
    floating, slots = inputs("sparse", B=4, T=200, D=33)
    one = function("sparse", slots, backend="walk")
    want = results(one, floating)
    blocks, small = splits(33, threads=2)
    with blocks, small, compiled.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: results(one, floating), range(20)):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@needs_numba
@pytest.mark.parametrize("what", ["theta", "phi", "value"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("columns", [4, 100])
def test_what_is_not_finite_stays_in_its_slots_and_tokens(columns, number, what):
    """All else keeps its bits: y of tokens before it or of other slots, other slots, and gradients of what is apart."""
    B, T, M, K, D = 1, 60, 8, 2, 9
    floating, _ = inputs("sparse", B=B, T=T, M=M, D=D, K=K)
    group = torch.arange(T) % 2  # tokens in turn use slots 0 to 3 and 4 to 7
    slots = (torch.rand(B, T, 4).argsort(-1)[..., :K]) + 4 * group[:, None]
    blocks, small = splits(columns, threads=2)
    bad = [v.detach().clone() for v in floating]
    bad[["theta", "phi", "value"].index(what)][0, 31] = number  # a token of slots 4 to 7
    with blocks, small:
        got, want = (results(function("sparse", slots, backend="walk"), v) for v in (bad, floating))
    y, state, dtheta, dphi, dvalue, dstate = zip(got, want, strict=True)
    assert not y[0][0, 31].isfinite().all()
    for a, b in (y, dtheta, dphi, dvalue):
        assert torch.equal(a[:, group == 0], b[:, group == 0])
    assert torch.equal(y[0][:, :31], y[1][:, :31])
    for a, b in (state, dstate):
        assert torch.equal(a[:, :4], b[:, :4])


@needs_numba
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 9]])
def test_opcheck(save, cu_seqlens):
    (theta, phi, value, state), slots = inputs("sparse", B=1 if cu_seqlens else 2)
    state = torch.rand(3, 5, 4, requires_grad=True) if cu_seqlens else state
    theta, phi, value, state = (v if save else v.detach() for v in (theta, phi, value, state))
    packing = cu_seqlens and torch.tensor(cu_seqlens)
    arguments = (theta, phi, slots, value, 5, state, packing, 1e-6, True, save)
    opcheck(OPERATORS.walk, arguments)
    if save:
        theta, phi, value, state = (v.detach() for v in (theta, phi, value, state))
        y, final, *saved = (v.detach() for v in OPERATORS.walk(*arguments))
        opcheck(OPERATORS.walk_backward, (y, final, theta, phi, value, state, packing, *saved))


@needs_numba
@pytest.mark.parametrize("check_values", [False, True])
def test_no_slot_is_out_of_range(check_values):
    """Whether asked to look or not: memory that belongs to others is never written."""
    floating, slots = inputs("sparse")
    one = function("sparse", slots.clone().index_fill_(1, torch.tensor(4), 5), backend="walk",
                   check_values=check_values)  # fmt: skip
    with pytest.raises(ValueError, match=r"^slots must lie in \[0, 5\), got 5"):
        one(*floating)
    twice = slots.clone()
    twice[1, 8, 2] = twice[1, 8, 0]
    one = function("sparse", twice, backend="walk", check_values=check_values)
    if check_values:
        with pytest.raises(ValueError, match=r"^slots must differ within one token, got .* at \[1, 8\]"):
            one(*floating)
    else:
        results(one, floating)
    theta, phi, value = (v[:, 0].detach() for v in floating[:3])
    state = floating[3].detach().clone()
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"^slots must lie in \[0, M\)"):
            walk.sparse_step_(theta, phi, torch.full((2, 3), wrong), value, state, eps=1e-6)
    assert torch.equal(state, floating[3])


def test_a_gpu_is_refused(monkeypatch):
    if compiled.why_not() is not None:
        pytest.skip(compiled.why_not())
    floating, slots = inputs("sparse")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with pytest.raises(ValueError, match=r"^backend 'walk' needs tensors on a CPU, got \w+"):
        function("sparse", slots, backend="walk", check_values=False)(*floating)


# --- memory ------------------------------------------------------------------------------------------------------


class Allocated(TorchDispatchMode):
    """How many bytes new tensors have in all."""

    def __init__(self):
        super().__init__()
        self.seen, self.total = set(), 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        given = {v.untyped_storage().data_ptr() for v in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(v)}
        result = operator(*args, **kwargs or {})
        for v in pytree.tree_leaves(result):
            if torch.is_tensor(v) and v.untyped_storage().data_ptr() not in given:
                self.total += v.untyped_storage().nbytes()
        return result


@needs_numba
@pytest.mark.parametrize("B, T, M, K, D", [(16, 256, 32, 8, 256), (1, 4096, 128, 4, 512), (1, 2048, 128, 32, 512)])
def test_extra_memory_is_a_tenth_of_the_pairs_rows(B, T, M, K, D):
    """What two threads hold at once in the backward, what was saved for it too, but for gradients and three states."""
    (theta, phi, value, _), slots = inputs("sparse", B=B, T=T, M=M, K=K, D=D)
    rows, original = [0], compiled._workspaces

    def workspaces(shapes, dtype):
        rows.append(sum(count * width for count, width in shapes))
        return original(shapes, dtype)

    given = [v.detach() for v in (theta, phi, value)]
    y, final, *saved = walk._forward_op._init_fn(*given[:2], slots, given[2], M, None, None, 1e-6, True, True)
    arguments = y, final, *given, None, None, *saved
    torch.set_num_threads(1)
    walk._backward_op._init_fn(*arguments)  # for workspaces that are there already, and counted below
    with patch.object(compiled, "_workspaces", workspaces), Allocated() as backward:
        grads = walk._backward_op._init_fn(*arguments)
    counted = backward.total + sum(v.nbytes for v in saved) - sum(v.nbytes for v in grads)
    assert counted / 4 + 2 * max(rows) <= 0.1 * B * T * K * D + 3 * B * M * D
    assert max(rows) * 4 <= compiled._own.space.nbytes


# --- the step ----------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("name", ["step", "step_", "sparse_step", "sparse_step_"])
@given(st.data())
def test_decode_steps_are_a_prefill(name, data):
    torch.set_num_threads(data.draw(st.integers(1, 2)))
    form = "sparse" if "sparse" in name else "dense"
    with patch.object(compiled, "SMALL", 0):
        check(data.draw(cases(form)), steps(getattr(walk, name)), differentiate=False)


def one_token(K=3, B=2, M=7, D=5):
    generator = torch.Generator().manual_seed(0)
    theta, phi = torch.rand(2, B, K, generator=generator)
    slots = torch.rand(B, M, generator=generator).argsort(-1)[:, :K]
    return theta, phi, slots, torch.randn(B, D, generator=generator), torch.randn(B, M, D, generator=generator)


@needs_numba
@pytest.mark.parametrize("layout", ["contiguous", "gaps"])
def test_a_step_writes_to_its_rows_alone(layout):
    *token, start = one_token()
    state = start.clone() if layout == "contiguous" else torch.stack([start, start], -1)[..., 0]
    pointer = state.data_ptr()
    y, same = walk.sparse_step_(*token, state, eps=1e-6)
    other_y, other = walk.sparse_step(*token, start, eps=1e-6)
    assert same is state and state.data_ptr() == pointer and other is not start
    assert torch.equal(y, other_y) and torch.equal(state, other)
    named = torch.zeros(start.shape[:2]).scatter(1, token[2], 1).bool()
    assert torch.equal(state[~named], start[~named]) and not (state[named] == start[named]).any()
    assert torch.equal(start, one_token()[-1])


@needs_numba
def test_a_step_copies_no_state():
    """Beside y, nothing as large as a row is made."""
    *token, state = one_token(D=200)
    walk.sparse_step_(*token, state, eps=1e-6)
    with Allocated() as seen:
        walk.sparse_step_(*token, state, eps=1e-6)
    assert seen.total <= token[3].nbytes + token[2].nbytes


@needs_numba
def test_a_step_is_compiled_where_it_may_be(monkeypatch):
    """Where a derivative, a graph or a transform is made of it, torch takes the step."""
    *token, state = one_token()
    want = fast.sparse_step(*token, state)
    calls = []
    monkeypatch.setattr(compiled, "run", lambda *a, run=compiled.run, **k: calls.append(a) or run(*a, **k))
    for name in ("sparse_step", "sparse_step_"):
        got = getattr(fast, name)(*token, state.clone())
        assert len(calls) == 1 and calls.clear() is None
        torch.testing.assert_close(got, want)
    dense = *(torch.zeros(2, 7).scatter(1, token[2], v) for v in token[:2]), token[3]
    for name in ("step", "step_"):
        for most, walks in ((state.numel(), 1), (state.numel() - 1, 0)):  # a large state is torch's
            monkeypatch.setattr(backends, "WALKED", most)
            got = getattr(fast, name)(*dense, state.clone())
            assert len(calls) == walks and calls.clear() is None
            torch.testing.assert_close(got, want)
    unchecked = {"check_values": False}
    for elsewhere in (
        lambda: fast.sparse_step(*token, state.clone().requires_grad_()),
        lambda: torch.compile(fast.sparse_step, fullgraph=True, backend="aot_eager")(*token, state, **unchecked),
        lambda: torch.func.vmap(lambda v: fast.sparse_step(*token, v, **unchecked)[0])(state[None]),
        lambda: torch.func.jvp(lambda v: fast.sparse_step(*token, v), (state,), (state,)),
    ):
        elsewhere()
        assert not calls
    with Allocated():
        fast.sparse_step(*token, state)
    assert not calls


# --- numba, processes and the disk -------------------------------------------------------------------------------


def python(script: str, **environment: str) -> str:
    """What another interpreter prints."""
    before = "import sys, torch, fast\nfrom fast import compiled, walk\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-W", "ignore", "-c", before + script]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


WALK_ONCE = """
one, slot, value = torch.ones(1, 1), torch.tensor([[7]]), torch.tensor([[3.0, -3.0]])
y, state = fast.sparse_step(one, one, slot, value, torch.zeros(1, 9, 2), eps=1e-12)
assert y.round().tolist() == [[1, -1]] and state[0, 7].tolist() == [3, -3]
"""  # the loop that compiles soonest


def test_what_takes_seconds_to_import_waits_until_it_is_needed():
    assert python("print({'numba', 'torch._dynamo', 'matplotlib'} & {*sys.modules})") == "set()\n"


def test_without_numba_the_reason_is_said(monkeypatch):
    compiled._why_not.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    try:
        assert fast.backends()["walk"] == "numba is not installed"
        floating, slots = inputs("sparse")
        with pytest.raises(ValueError, match=r"^backend 'walk' cannot run here: numba is not installed"):
            function("sparse", slots, backend="walk")(*floating)
        function("sparse", slots)(*floating)
    finally:
        compiled._why_not.cache_clear()


def test_a_numba_that_fails_says_why(monkeypatch, tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.3 or less')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "numba"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    compiled._why_not.cache_clear()
    try:
        assert fast.backends()["walk"] == "numba cannot be imported: Numba needs NumPy 2.3 or less"
    finally:
        compiled._why_not.cache_clear()


COUNT = f"""
from numba.core import event
seen = []
class Listener(event.Listener):
    on_start = lambda self, event: seen.append(event)
    on_end = lambda self, event: None
with event.install_listener("numba:compile", Listener()):
    exec({WALK_ONCE!r})
print(len(seen) > 0)
"""


@needs_numba
def test_what_is_compiled_is_kept_and_found_and_a_person_who_waits_is_told(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    at_terminal = f"sys.stderr = sys.stdout\nsys.stdout.isatty = lambda: True\n{COUNT}"
    assert python(f"sys.stderr = sys.stdout\n{COUNT}", **cache) == "True\n"  # nobody waits at a pipe
    (folder,) = (tmp_path / "factorization_memory").iterdir()
    assert folder.name == "float32-contract-reassoc" and list(folder.rglob("*.nbc"))
    assert python(at_terminal, **cache) == "False\n"
    for file in folder.rglob("*.nb*"):
        file.write_bytes(b"no code")
    assert python(at_terminal, **cache) == "Compiling loops for this CPU, once: about 10 seconds.\nTrue\n"


@needs_numba
def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert python(COUNT, NUMBA_CACHE_DIR=str(tmp_path / "file")) == "True\n"
    assert python(COUNT, NUMBA_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path / "file")) == "True\n"
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


@needs_numba
def test_what_numba_must_not_compile_runs_in_python():
    assert python(COUNT, NUMBA_DISABLE_JIT="1") == "False\n"


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_may_go_on():
    """Its parent has used threads; it makes its own."""
    python("""
import os
compiled.SMALL = 0
torch.set_num_threads(3)
theta, value = torch.rand(4, 50, 2), torch.randn(4, 50, 8)
slots = torch.arange(2).expand(4, 50, 2)
run = lambda: fast.sparse_factorization_memory(theta, theta, slots, value, 5, backend="walk")
y, _ = run()
child = os.fork()
if not child:
    import signal
    signal.alarm(60)
    torch.set_num_threads(3)
    os._exit(0 if torch.equal(run()[0], y) and compiled._pool._threads else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(run()[0], y)
""")

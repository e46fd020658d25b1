"""Factorization Memory, fast: the functions of `reference`, the same names, shapes and results.

    factorization_memory, sparse_factorization_memory   a whole sequence, forward and backward
    step, sparse_step                                   one token; step_ and sparse_step_ write into the state
    backends                                            what can run here, and why the rest cannot

The systems it is compared with are in fast.mamba2 and fast.attention.

B batch, T time, M slots, K slots per token, D slot width; floating inputs may be float64, float32, bfloat16 or
float16, strided or expanded, and are never changed. The state is float32, or float64 if any input is; y has the
dtype of x. theta outside [0, 1] is the caller's fault: the result is whatever the formula gives.

Range: squares of lengths are computed. So the square of the length of every token's x, and of every slot of the first
state, must stay below half the largest number of the state's dtype: lengths below 1.3e19 in float32, 9.4e153 in
float64. Beyond it there is no error, and results are NaN, infinite or 0.

Gradients are first derivatives, by reverse mode in torch.autograd. Anything else is refused by name with a
NotImplementedError: forward mode, torch.func.grad and its kin, a gradient of a gradient. (A step that Triton does not
compute has every derivative.)
"""

from functools import partial

import torch
from torch import Tensor

from fast import checks, chunked, sparse

try:
    from fast import triton_dense, triton_sparse, triton_step
except ImportError:  # no triton: everything else works without it
    triton_dense = triton_sparse = triton_step = None

__all__ = [
    "backends",
    "factorization_memory",
    "sparse_factorization_memory",
    "sparse_step",
    "sparse_step_",
    "step",
    "step_",
]


DENSE_BACKENDS = ("auto", "chunked", "triton")
SPARSE_BACKENDS = ("auto", "grouped", "chunked", "triton")


def backends() -> dict[str, str | None]:
    """Every backend by name: None if it can run here, else the reason why not.

    >>> backends()["chunked"] is None
    True
    """
    no_triton = "triton is not installed" if triton_dense is None else triton_dense.why_not()
    return {"chunked": None, "grouped": None, "triton": no_triton}


def factorization_memory(
    theta: Tensor,
    phi: Tensor,
    x: Tensor,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    backend: str = "auto",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The dense form over a whole sequence: equations (4) to (6) of reference/factorization_memory.py.

    Args:
        theta: write weights [B, T, M], in [0, 1].
        phi: read weights [B, T, M].
        x: what every slot is offered [B, T, D].
        initial_state: [B, M, D], float32 or float64; zeros if not given. With cu_seqlens: [sequences, M, D].
        eps: added to the mean square of a slot before its root is taken; positive.
        backend: "auto" or a name from `backends()`.
        cu_seqlens: bounds [sequences + 1] of sequences packed one after the other in one row (B = 1), rising
            from 0 to T; empty sequences are legal.

    Returns:
        y [B, T, D] in x's dtype, and the final state [B, M, D] (with cu_seqlens: [sequences, M, D]). Gradients flow
        to theta, phi, x and initial_state, from both.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, device, cu_seqlens or backend, by name.
        NotImplementedError: forward mode or torch.func's gradients, by name of the argument.

    >>> theta = torch.tensor([[[1.0], [0.0]]])                  # write, then keep
    >>> y, state = factorization_memory(theta, torch.ones(1, 2, 1), torch.tensor([[[5.0], [9.0]]]), eps=1e-12)
    >>> y, state
    (tensor([[[1.],
             [1.]]]), tensor([[[5.]]]))
    """
    checks.tokens(theta, phi, x)
    _check_call(theta, phi, x, initial_state, theta.shape[-1], eps, backend, DENSE_BACKENDS, cu_seqlens)
    form = _dense_form(backend, theta, phi, x, initial_state)
    return form(theta, phi, x, initial_state, eps=eps, cu_seqlens=cu_seqlens)


def sparse_factorization_memory(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    x: Tensor,
    num_slots: int,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    backend: str = "auto",
    cu_seqlens: Tensor | None = None,
    check_values: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """The sparse form over a whole sequence: every token writes to and reads from K of num_slots slots.

    Args:
        theta, phi: write and read weights [B, T, K] of the slots named.
        slots: integers [B, T, K] in [0, num_slots), all different within one token.
        x, initial_state, eps, cu_seqlens: as in `factorization_memory`.
        backend: "auto" or a name from `backends()`: "grouped" and "triton" do work for K slots per token,
            whatever M is, "chunked" for M. With "grouped" a NaN in x may reach any token of its row.
        check_values: whether to look into slots for values out of range and duplicates. By default on a CPU only:
            elsewhere the look would wait for the device.

    Returns:
        y [B, T, D] in x's dtype, and the final state [B, num_slots, D].

    Raises:
        ValueError, TypeError: as `factorization_memory`; also for slots and num_slots.

    >>> one = torch.ones(1, 2, 1)
    >>> x = torch.tensor([[[3.0, 3.0], [5.0, -5.0]]])
    >>> y, state = sparse_factorization_memory(one, one, torch.tensor([[[7], [2]]]), x, num_slots=9, eps=1e-12)
    >>> y.round(decimals=3), state[0, 7]
    (tensor([[[ 1.,  1.],
             [ 1., -1.]]]), tensor([3., 3.]))
    """
    checks.tokens(theta, phi, x, slots)
    checks.slot_count(num_slots, theta.shape[-1])
    _check_call(theta, phi, x, initial_state, num_slots, eps, backend, SPARSE_BACKENDS, cu_seqlens)
    if check_values is None:
        check_values = not slots.is_cuda
    form = _sparse_form(backend, slots.shape[-1], num_slots, theta, phi, x, initial_state)
    return form(
        theta, phi, slots, x, num_slots, initial_state, eps=eps, cu_seqlens=cu_seqlens, check_values=check_values
    )


def step(theta: Tensor, phi: Tensor, x: Tensor, state: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """One token: theta, phi [B, M], x [B, D], state [B, M, D] -> y [B, D], new state. Arithmetic in the state's dtype.

    >>> state = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    >>> theta, phi = torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> step(theta, phi, torch.tensor([[2.0, 6.0]]), state, eps=1e-12)
    (tensor([[0.8485, 1.1314]]), tensor([[[3., 4.],
             [1., 3.]]]))
    """
    _check_step(theta, phi, x, state, eps)
    if _is_one_kernel(theta, phi, x, state):
        return triton_step.step(theta, phi, x, state, eps=eps)
    state = torch.lerp(state, *_offer(theta, x, state))  # (4)
    return _read(phi, x, state, eps), state


def step_(theta: Tensor, phi: Tensor, x: Tensor, state: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`step` that writes the new state into `state` and returns it."""
    _check_step(theta, phi, x, state, eps)
    if _is_one_kernel(theta, phi, x, state):
        return triton_step.step_(theta, phi, x, state, eps=eps)
    state.lerp_(*_offer(theta, x, state))  # (4)
    return _read(phi, x, state, eps), state


def sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, x: Tensor, state: Tensor, *,
    eps: float = 1e-6, check_values: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token that touches K slots: theta, phi, slots [B, K], x [B, D], state [B, M, D] -> y [B, D], new state.

    Slots that are not named come out bit for bit as they went in. check_values as in sparse_factorization_memory.
    """
    _check_sparse_step(theta, phi, slots, x, state, eps, check_values)
    if _is_one_kernel(theta, phi, x, state):
        return triton_step.sparse_step(theta, phi, slots, x, state, eps=eps)
    y, at, touched = _sparse_step(theta, phi, slots, x, state, eps)
    return y, state.index_put(at, touched)


def sparse_step_(
    theta: Tensor, phi: Tensor, slots: Tensor, x: Tensor, state: Tensor, *,
    eps: float = 1e-6, check_values: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`sparse_step` that writes K rows of `state` in place and returns it: 2 K D numbers moved, whatever M is."""
    _check_sparse_step(theta, phi, slots, x, state, eps, check_values)
    if _is_one_kernel(theta, phi, x, state):
        return triton_step.sparse_step_(theta, phi, slots, x, state, eps=eps)
    y, at, touched = _sparse_step(theta, phi, slots, x, state, eps)
    return y, state.index_put_(at, touched)


def _dense_form(backend: str, *inputs: Tensor | None):
    """The function that computes the dense form."""
    if backend == "auto":
        backend = "triton" if _suits_triton(*inputs) else "chunked"
    if backend == "chunked":
        return chunked.factorization_memory
    _check_triton(*inputs)
    return triton_dense.factorization_memory


def _sparse_form(backend: str, slots_per_token: int, num_slots: int, *inputs: Tensor | None):
    """The function that computes the sparse form. From some share of the slots on, the dense form is faster."""
    if backend == "auto":
        on_gpu = _suits_triton(*inputs)
        if sparse.is_cheaper(slots_per_token, num_slots):
            backend = "triton" if on_gpu else "grouped"
        elif on_gpu:
            return partial(chunked.over_zeros, triton_dense.factorization_memory)
        else:
            backend = "chunked"
    if backend == "triton":
        _check_triton(*inputs)
        return triton_sparse.sparse_factorization_memory
    return {"grouped": sparse, "chunked": chunked}[backend].sparse_factorization_memory


def _suits_triton(*inputs: Tensor | None) -> bool:
    """Whether "auto" takes Triton: on a GPU, where float32 is enough."""
    return triton_dense is not None and inputs[0].is_cuda and not _is_wide(*inputs)


def _check_triton(*inputs: Tensor | None) -> None:
    if reason := backends()["triton"]:
        raise ValueError(f"backend 'triton' cannot run here: {reason}")
    if _is_wide(*inputs):
        raise TypeError("backend 'triton' needs float32 or half precision, got torch.float64")


def _is_wide(*inputs: Tensor | None) -> bool:
    return any(v is not None and v.dtype == torch.float64 for v in inputs)


def _is_one_kernel(*inputs: Tensor) -> bool:
    """Whether Triton makes this step: on a GPU, in float32 (the state comes last), where no gradient is asked for."""
    state = inputs[-1]
    differentiate = checks.needs_grad(*inputs) or any(map(checks.has_tangent, inputs))
    return triton_step is not None and state.is_cuda and state.dtype == torch.float32 and not differentiate


def _sparse_step(theta, phi, slots, x, state, eps) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """y, the indices of the K rows and what they become."""
    at = (torch.arange(len(state), device=state.device)[:, None], slots.long())
    touched = torch.lerp(state[at], *_offer(theta, x, state))  # (4) on K rows
    return _read(phi, x, touched, eps), at, touched


def _offer(theta: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x for every slot and how far it goes there, in the state's dtype."""
    return x[:, None].to(state.dtype), theta[..., None].to(state.dtype)


def _read(phi: Tensor, x: Tensor, state: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(state, dim=-1)
    rms = torch.hypot(norm / state.shape[-1] ** 0.5, norm.new_full((), eps**0.5))  # (5), its root never squared
    return torch.bmm((phi.to(state.dtype) / rms)[:, None], state)[:, 0].to(x.dtype)  # (6)


def _check_call(
    theta: Tensor, phi: Tensor, x: Tensor, initial_state: Tensor | None, num_slots: int, eps: float, backend: str,
    known: tuple[str, ...], cu_seqlens: Tensor | None,
) -> None:  # fmt: skip
    checks.positive("eps", eps)
    checks.one_of("backend", backend, known)
    sequences = x.shape[0] if cu_seqlens is None else checks.packing(cu_seqlens, x)
    if initial_state is not None:
        checks.state("initial_state", initial_state, x, "B M D", (sequences, num_slots, x.shape[-1]))
    checks.differentiable(theta=theta, phi=phi, x=x, initial_state=initial_state)


def _check_step(theta: Tensor, phi: Tensor, x: Tensor, state: Tensor, eps: float, *slots: Tensor) -> None:
    checks.positive("eps", eps)
    checks.tokens(theta, phi, x, *slots, names="B")
    num_slots = theta.shape[-1]
    if slots:  # the state says how many there are
        checks.floating("state", state, x, "B M D")
        num_slots = state.shape[1]
    checks.state("state", state, x, "B M D", (x.shape[0], num_slots, x.shape[-1]))
    checks.slot_count(num_slots, theta.shape[-1])


def _check_sparse_step(theta, phi, slots, x, state, eps, check_values) -> None:
    _check_step(theta, phi, x, state, eps, slots)
    if check_values or (check_values is None and not slots.is_cuda):
        checks.slot_values(slots, state.shape[1])

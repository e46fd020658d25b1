"""The six public functions: check what was given, choose a backend, call it."""

from torch import Tensor

from fast import operators, validation
from fast.backends import (
    DENSE_BACKENDS,
    SPARSE_BACKENDS,
    dense_form,
    sparse_form,
    step_functions,
)


def factorization_memory(
    theta: Tensor,
    phi: Tensor,
    value: Tensor,
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
        value: what is written [B, T, D]: x̄ = W_in x of the layer.
        initial_state: [B, M, D], float32 or float64; zeros if not given. With cu_seqlens: [sequences, M, D].
        eps: added to the mean square of a slot before its root is taken; positive.
        backend: "auto" or a name from `backends()`.
        cu_seqlens: bounds [sequences + 1] of sequences packed one after the other in one row (B = 1), rising
            from 0 to T; empty sequences are legal.

    Returns:
        y [B, T, D] in value's dtype, and the final state [B, M, D] (with cu_seqlens: [sequences, M, D]). Gradients flow
        to theta, phi, value and initial_state, from both.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, device, cu_seqlens or backend, by name.
        NotImplementedError: forward mode or torch.func's gradients, by name of the argument.

    >>> import torch
    >>> theta = torch.tensor([[[1.0], [0.0]]])                  # write, then keep
    >>> y, state = factorization_memory(theta, torch.ones(1, 2, 1), torch.tensor([[[5.0], [9.0]]]), eps=1e-12)
    >>> y, state
    (tensor([[[1.],
             [1.]]]), tensor([[[5.]]]))
    """
    validation.tokens(theta, phi, value)
    _check_call(theta, phi, value, initial_state, theta.shape[-1], eps, backend, DENSE_BACKENDS, cu_seqlens)
    form = dense_form(backend, theta, phi, value, initial_state)
    return form(theta, phi, value, initial_state, eps=eps, cu_seqlens=cu_seqlens)


def sparse_factorization_memory(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    value: Tensor,
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
        value, initial_state, eps, cu_seqlens: as in `factorization_memory`.
        backend: "auto" or a name from `backends()`: "walk", "scan" and "triton" do work for K slots per
            token, whatever M is, "chunked" for M. "walk" is for a CPU, and needs numba. With "scan" a NaN in value
            may reach any token of its row.
        check_values: whether to look into slots for values out of range and duplicates. By default on a CPU only:
            elsewhere the look would wait for the device.

    Returns:
        y [B, T, D] in value's dtype, and the final state [B, num_slots, D].

    Raises:
        ValueError, TypeError: as `factorization_memory`; also for slots and num_slots.

    >>> import torch
    >>> one = torch.ones(1, 2, 1)
    >>> value = torch.tensor([[[3.0, 3.0], [5.0, -5.0]]])
    >>> y, state = sparse_factorization_memory(one, one, torch.tensor([[[7], [2]]]), value, num_slots=9, eps=1e-12)
    >>> y.round(decimals=3), state[0, 7]
    (tensor([[[ 1.,  1.],
             [ 1., -1.]]]), tensor([3., 3.]))
    """
    validation.tokens(theta, phi, value, slots)
    validation.slot_count(num_slots, theta.shape[-1])
    _check_call(theta, phi, value, initial_state, num_slots, eps, backend, SPARSE_BACKENDS, cu_seqlens)
    if check_values is None:
        check_values = not slots.is_cuda
    form = sparse_form(backend, slots.shape[-1], num_slots, theta, phi, value, initial_state)
    return form(
        theta, phi, slots, value, num_slots, initial_state, eps=eps, cu_seqlens=cu_seqlens, check_values=check_values
    )


def step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """One token: theta, phi [B, M], value [B, D], state [B, M, D] -> y [B, D], new state.

    Arithmetic is in the state's dtype.

    >>> import torch
    >>> state = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    >>> theta, phi = torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> step(theta, phi, torch.tensor([[2.0, 6.0]]), state, eps=1e-12)
    (tensor([[0.8485, 1.1314]]), tensor([[[3., 4.],
             [1., 3.]]]))
    """
    _check_step(theta, phi, value, state, eps)
    return step_functions(theta, phi, value, state).step(theta, phi, value, state, eps=eps)


def step_(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`step` that writes the new state into `state` and returns it."""
    _check_step(theta, phi, value, state, eps)
    return step_functions(theta, phi, value, state).step_(theta, phi, value, state, eps=eps)


def sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *,
    eps: float = 1e-6, check_values: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token that touches K slots: theta, phi, slots [B, K], value [B, D], state [B, M, D] -> y [B, D], new state.

    Slots that are not named come out bit for bit as they went in. check_values as in sparse_factorization_memory.
    """
    _check_sparse_step(theta, phi, slots, value, state, eps, check_values)
    return step_functions(theta, phi, value, state, slots=slots).sparse_step(theta, phi, slots, value, state, eps=eps)


def sparse_step_(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *,
    eps: float = 1e-6, check_values: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`sparse_step` that writes K rows of `state` in place and returns it: 2 K D numbers moved, whatever M is."""
    _check_sparse_step(theta, phi, slots, value, state, eps, check_values)
    return step_functions(theta, phi, value, state, slots=slots).sparse_step_(theta, phi, slots, value, state, eps=eps)


def _check_call(
    theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None, num_slots: int, eps: float, backend: str,
    known: tuple[str, ...], cu_seqlens: Tensor | None,
) -> None:  # fmt: skip
    validation.positive("eps", eps)
    validation.one_of("backend", backend, known)
    sequences = value.shape[0] if cu_seqlens is None else validation.packing(cu_seqlens, value)
    if initial_state is not None:
        validation.state("initial_state", initial_state, value, "B M D", (sequences, num_slots, value.shape[-1]))
    operators.differentiable(theta=theta, phi=phi, value=value, initial_state=initial_state)


def _check_step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, eps: float, *slots: Tensor) -> None:
    validation.positive("eps", eps)
    validation.tokens(theta, phi, value, *slots, names="B")
    num_slots = theta.shape[-1]
    if slots:  # the state says how many there are
        validation.floating("state", state, value, "B M D")
        num_slots = state.shape[1]
    validation.state("state", state, value, "B M D", (value.shape[0], num_slots, value.shape[-1]))
    validation.slot_count(num_slots, theta.shape[-1])


def _check_sparse_step(theta, phi, slots, value, state, eps, check_values) -> None:
    _check_step(theta, phi, value, state, eps, slots)
    if check_values or (check_values is None and not slots.is_cuda):
        validation.slot_values(slots, state.shape[1])

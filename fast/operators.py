"""What the operators of all implementations share: dtypes, slots that are checked, and which derivatives there are."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

from fast import validation


def in_given_dtypes(operator: Callable) -> Callable:
    """The operator in the dtypes it was given, also under torch.autocast."""

    @wraps(operator)
    def run(first: Tensor, *rest):
        with torch.autocast(first.device.type, enabled=False):
            return operator(first, *rest)

    return run


@torch.library.custom_op("factorization_memory::checked_slots", mutates_args=())
def checked_slots(slots: Tensor, num_slots: int, check_values: bool) -> Tensor:
    """slots as int64. An operator, so that torch.compile can keep a check that reads values."""
    if check_values:
        validation.slot_values(slots, num_slots)
    return slots.to(torch.int64, copy=True)


@checked_slots.register_fake
def _(slots, num_slots, check_values):
    return torch.empty_like(slots, dtype=torch.int64)


def register(
    forward, backward, outputs: Callable, gradients: Callable, setup: Callable, differentiate: Callable
) -> None:
    """Tell torch what a pair of operators does without running it, and that one is the other's backward."""
    forward.register_fake(outputs)
    backward.register_fake(gradients)

    def keep(ctx, inputs, output) -> None:
        setup(ctx, inputs, output)
        ctx.set_materialize_grads(False)  # or zeros as large as all that is saved would come beside dy and dfinal

    def differentiated(ctx, dy, dfinal, *_):
        differentiable(dy=dy, dfinal=dfinal)
        return differentiate(ctx, dy, dfinal)

    forward.register_autograd(differentiated, setup_context=keep)
    backward.register_autograd(refuse_second_derivative)


def asked_for(dy: Tensor | None, dfinal: Tensor | None, value: Tensor, state: tuple[tuple[int, ...], torch.dtype]):
    """The gradients of y (like value) and of the final state (shape, dtype): zeros where nobody asked for one."""
    shape, dtype = state
    dy = torch.zeros_like(value) if dy is None else dy
    return dy, value.new_zeros(shape, dtype=dtype) if dfinal is None else dfinal


def differentiable(**inputs: Tensor | None) -> None:
    """Refuses the derivatives that fast does not have. Operators of our own would answer them with 0, or obscurely."""
    if forward_ad._current_level >= 0 and torch.compiler.is_compiling():
        raise NotImplementedError(
            f"{', '.join(inputs)} must not be compiled under forward_ad or torch.func.jvp, where tangents cannot be "
            "seen: fast has first derivatives in reverse mode only"
        )
    for name, value in inputs.items():
        if value is None:
            continue
        if has_tangent(value):
            raise NotImplementedError(
                f"{name} must not carry a tangent (torch.func.jvp, jacfwd, forward_ad): fast has first derivatives in "
                "reverse mode only"
            )
        if _is_tracked(value):
            raise NotImplementedError(
                f"{name} must not be tracked by torch.func (grad, vjp, jacrev): fast has first derivatives by "
                "torch.autograd only"
            )


def needs_grad(*inputs: Tensor | None) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and any(v is not None and _inside(v).requires_grad for v in inputs)


def has_tangent(value: Tensor) -> bool:
    """Whether a forward-mode derivative with respect to value is under way."""
    if forward_ad._current_level < 0:
        return False
    if torch.compiler.is_compiling():  # which hides it
        return True
    value = _inside(value)
    if forward_ad.unpack_dual(value).tangent is not None:
        return True
    # A tangent of an outer jvp cannot be seen from within another transform.
    return (
        _functorch.is_gradtrackingtensor(value) and _functorch.maybe_get_level(value) < _functorch.maybe_current_level()
    )


def plain(*inputs: Tensor) -> bool:
    """Whether the numbers of inputs can be had: no graph is being made of what happens to them, no transform made."""
    watched = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack()
    return not watched and all(type(v) is Tensor and not _functorch.is_functorch_wrapped_tensor(v) for v in inputs)


def refuse_second_derivative(ctx, *grads) -> None:
    """The backward of every backward operator."""
    raise NotImplementedError("a gradient by fast must not be differentiated again: fast has first derivatives only")


def _is_tracked(value: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    value = _inside(value)
    return torch.is_grad_enabled() and value.requires_grad and _functorch.is_gradtrackingtensor(value)


def _inside(value: Tensor) -> Tensor:
    """value without the wrappers of torch.func.vmap, which hide what autograd does with it."""
    while not torch.compiler.is_compiling() and _functorch.is_batchedtensor(value):
        value = _functorch.get_unwrapped(value)
    return value

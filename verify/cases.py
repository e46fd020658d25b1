"""One call of a kernel, and the fixed cases by name."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import reference

FLOATING = ("theta", "phi", "value", "initial_state")
LAYOUTS = ("contiguous", "transposed", "gaps", "same in time", "same in batch", "same in all")


@dataclass(frozen=True)
class Case:
    """The arguments of one call; slots and num_slots are None in the dense form."""

    theta: Tensor
    phi: Tensor
    value: Tensor
    initial_state: Tensor | None
    eps: float = 1e-6
    slots: Tensor | None = None
    num_slots: int | None = None
    made_of: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Case({', '.join(f'{name}={value}' for name, value in self.made_of.items())})"

    def _repr_pretty_(self, printer, cycle) -> None:  # what hypothesis prints of a failing case
        printer.text(repr(self))

    def call(self, module, **options) -> tuple[Tensor, Tensor]:
        """The whole-sequence function of `fast`, `fast.chunked` or `reference`."""
        options = {"eps": self.eps, **options}
        if self.slots is None:
            return module.factorization_memory(self.theta, self.phi, self.value, self.initial_state, **options)
        return module.sparse_factorization_memory(
            self.theta, self.phi, self.slots, self.value, self.num_slots, self.initial_state, **options
        )

    def floating(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in FLOATING if getattr(self, name) is not None}

    def map(self, function) -> "Case":
        """function applied to every floating tensor."""
        return replace(self, **{name: function(value) for name, value in self.floating().items()})

    def double(self) -> "Case":
        return self.map(Tensor.double)

    def state_shape(self) -> tuple[int, int, int]:
        return len(self.value), self.num_slots or self.theta.shape[-1], self.value.shape[-1]

    def start(self) -> Tensor:
        """The state before the first token, in the dtype of the final one."""
        wide = any(v.dtype == torch.float64 for v in self.floating().values())
        state = self.initial_state if self.initial_state is not None else torch.zeros(self.state_shape())
        return state.to(torch.float64 if wide else torch.float32)

    def pick(self, time=slice(None), batch=slice(None), initial_state: Tensor | None = None) -> "Case":
        """Some tokens of some sequences, from another state."""
        tokens = {name: getattr(self, name)[batch, time] for name in ("theta", "phi", "value")}
        slots = None if self.slots is None else self.slots[batch, time]
        return replace(self, **tokens, slots=slots, initial_state=initial_state)

    def dense(self) -> "Case":
        """The dense case a sparse one stands for."""
        if self.slots is None:
            return self
        shape = *self.value.shape[:2], self.num_slots
        theta, phi = (v.new_zeros(shape).scatter(-1, self.slots.long(), v) for v in (self.theta, self.phi))
        return replace(self, theta=theta, phi=phi, slots=None, num_slots=None)


def lay_out(v: Tensor, layout: str) -> Tensor:
    """The values of v (or, expanded, some of them) in another arrangement of memory."""
    match layout:
        case "transposed":
            return v.transpose(0, 1).contiguous().transpose(0, 1)
        case "gaps":
            return torch.stack([v, torch.full_like(v, torch.nan)], -1)[..., 0]
        case "same in time":
            return v[:, :1].expand_as(v)
        case "same in batch":
            return v[:1].expand_as(v)
        case "same in all":
            return v[..., :1].expand_as(v)
    return v


def loop(case: Case) -> tuple[Tensor, Tensor]:
    return case.call(reference)


def gradients(case: Case, way: Callable, on_y: Tensor, on_state: Tensor) -> dict[str, Tensor]:
    """Results of way(case) and gradients of <y, on_y> + <final state, on_state>, by name."""
    leaves = case.map(lambda v: v.detach().requires_grad_())
    y, state = way(leaves)
    loss = (y * on_y.to(y.dtype)).sum() + (state * on_state.to(state.dtype)).sum()
    loss = loss + 0 * leaves.value.sum()  # without tokens the loop's results depend on nothing
    floating = leaves.floating()
    grads = torch.autograd.grad(loss, floating.values(), materialize_grads=True)
    return {
        "y": y.detach(),
        "final state": state.detach(),
        **{f"d{n}": g for n, g in zip(floating, grads, strict=True)},
    }

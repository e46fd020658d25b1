"""Generated inputs that break kernels, and how large an error may be. Shared by the laws."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

import fast
import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
ROUNDINGS_A_STEP = 3  # of 1 - theta, of its product with the state, and of the sum
UNDERFLOW = 1e-25  # below 1e-38 float32 has few digits left, and 1 / rms may be 1e6
SPARSE_ONLY = ("scan", "walk")
APART = ("triton",)  # no float64, and slow where it is interpreted: its laws are in test_triton.py
RUNNABLE = [name for name, reason in fast.backends().items() if reason is None and name not in APART]
DENSE = [("dense", name) for name in RUNNABLE if name not in SPARSE_ONLY]
SPARSE = [("sparse", name) for name in RUNNABLE]
LOOPS = [("dense", "loop"), ("sparse", "loop")]

FLOATING = ("theta", "phi", "value", "initial_state")
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 67, 97, 130]) | st.integers(0, 70)
GATES = (0.0, 1.0, 1e-40, 5e-324, 0.5, 1 - 2**-24, 2**-24)  # kept, replaced, two denormals, half, nearly both
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


@st.composite
def gates(draw, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights in [0, 1]: uniform, or a router's (rate times softmax), some or all replaced by extreme values."""
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        logits = torch.randn(shape, generator=generator, dtype=torch.float64) / draw(st.sampled_from([1.0, 0.1]))
        values = values[..., :1] * logits.softmax(-1)
    palette = draw(st.lists(st.sampled_from(GATES), max_size=3))
    if palette:
        share = draw(st.sampled_from([0.1, 0.5, 1.0]))
        chosen = torch.tensor(palette, dtype=torch.float64)[torch.randint(len(palette), shape, generator=generator)]
        values = torch.where(torch.rand(shape, generator=generator) < share, chosen, values)
    return values


@st.composite
def routes(draw, batch: int, time: int, num_slots: int, per_token: int, generator: torch.Generator) -> Tensor:
    """slots [B, T, K]: random, or a few drawn choices in a drawn order (one slot for all, a slot once, bursts)."""
    if draw(st.booleans()):
        return torch.rand(batch, time, num_slots, generator=generator).argsort(-1)[..., :per_token]
    choice = st.permutations(range(num_slots)).map(lambda order: order[:per_token])
    choices = torch.tensor(draw(st.lists(choice, min_size=1, max_size=3)))
    order = torch.tensor(draw(st.lists(st.integers(0, len(choices) - 1), min_size=1, max_size=9)))
    return choices[order.repeat(1 + batch * time // len(order))[: batch * time]].view(batch, time, per_token)


@st.composite
def cases(draw, form: str = "dense", dtypes=tuple(TOLERANCE), lengths=LENGTHS, batches=(0, 1, 2, 3)) -> Case:
    """Any legal arguments."""
    batch, time, width = draw(st.sampled_from(batches)), draw(lengths), draw(st.sampled_from([1, 2, 3, 5, 8, 16]))
    num_slots = draw(st.integers(1, 9))
    weights = num_slots if form == "dense" else draw(st.integers(1, num_slots))
    dtype, gate_dtype = draw(st.sampled_from(dtypes)), torch.float32
    if draw(st.booleans()) or dtype == torch.float64:
        gate_dtype = dtype
    reach = 4 if dtype == torch.float16 else 6
    scale, state_scale = (10.0 ** draw(st.integers(-reach, reach)) for _ in range(2))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    theta, phi = (draw(gates((batch, time, weights), generator)).to(gate_dtype) for _ in range(2))
    value = (scale * torch.randn(batch, time, width, generator=generator, dtype=torch.float64)).to(dtype)
    state_dtype = draw(st.sampled_from([None, torch.float32, torch.float64]))
    state = None
    if state_dtype is not None:
        state = state_scale * torch.randn(batch, num_slots, width, generator=generator, dtype=torch.float64)
        state = lay_out(state.to(state_dtype), draw(st.sampled_from(LAYOUTS)))
    theta, phi, value = (lay_out(v, draw(st.sampled_from(LAYOUTS))) for v in (theta, phi, value))
    slots = None
    if form == "sparse":
        slots = draw(routes(batch, time, num_slots, weights, generator))
        slots = lay_out(
            slots.to(draw(st.sampled_from([torch.int64, torch.int32]))), draw(st.sampled_from(["", "transposed"]))
        )
    eps = draw(st.sampled_from([1e-6, 1e-3, 1e-12]))
    made_of = {
        "B": batch, "T": time, "M": num_slots, "K": weights, "D": width, "value": dtype, "gates": gate_dtype,
        "state": state_dtype, "scales": (scale, state_scale), "eps": eps, "seed": seed,
    }  # fmt: skip
    return Case(theta, phi, value, state, eps, slots, num_slots if form == "sparse" else None, made_of)


def error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||"""
    got, want = got.detach().double(), want.detach().double()
    assert got.shape == want.shape
    return ((got - want).norm() / want.norm().clamp_min(1e-300)).item()


def loop(case: Case) -> tuple[Tensor, Tensor]:
    return case.call(reference)


def whole(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A whole sequence in one call."""
    return loop if backend == "loop" else lambda case, **options: case.call(fast, backend=backend, **options)


def steps(step: Callable) -> Callable[[Case], tuple[Tensor, Tensor]]:
    """A call of step for every token; if its name says so, it writes into the state."""

    def way(case):
        state, ys = case.start().clone(), []
        for t in range(case.value.shape[1]):
            weights = (case.theta[:, t], case.phi[:, t]) + (() if case.slots is None else (case.slots[:, t],))
            before = state
            y, state = step(*weights, case.value[:, t], state, eps=case.eps)
            assert (state is before) == step.__name__.endswith("_")
            ys.append(y)
        return torch.stack(ys, 1) if ys else case.value, state

    return way


def check(case: Case, way: Callable, truth: Callable = loop, differentiate: bool = True) -> None:
    """way(case), its gradients too, equals truth in float64 on the same rounded inputs, number by number."""
    generator = torch.Generator().manual_seed(1)
    on_y = torch.randn(case.value.shape, generator=generator).to(case.value.dtype)
    on_state = torch.randn(case.state_shape(), generator=generator)
    if differentiate:
        got, want = (gradients(c, w, on_y, on_state) for c, w in ((case, way), (case.double(), truth)))
    else:
        got, want = (
            dict(zip(("y", "final state"), w(c), strict=True)) for c, w in ((case, way), (case.double(), truth))
        )
    size = sizes(case, on_y, on_state)
    for name in got:
        within(name, got[name], want[name], size[name], case.value.shape[1])


def tolerance(dtype: torch.dtype, steps: int) -> float:
    """How far a number of this dtype may be off after a recurrence of so many steps, relative to its size.

    The loop itself is not exact. A step multiplies what stood in a slot by (1 + d)^3, with |d| <= u, the unit roundoff
    of the state (2^-24 in float32, 2^-53 in float64). All of them may have one sign. So after T steps the state, and y
    which is read from it, are off by up to 3 T u of their size; at T = 130 in float32 that is 2.3e-5. Gradients pass
    through as many steps on the way back. TOLERANCE is for all roundings that do not pile up with T.
    """
    return TOLERANCE[dtype] + ROUNDINGS_A_STEP * steps * unit_roundoff(torch.promote_types(dtype, torch.float32))


def unit_roundoff(dtype: torch.dtype) -> float:
    """How far a number may be off once it is rounded to dtype, relative to its size: 2^-24 for float32."""
    return torch.finfo(dtype).eps / 2


def within(name: str, got: Tensor, want: Tensor, size: Tensor, steps: int) -> None:
    """Every number of got is want, up to the tolerance of its dtype after so many steps times its size."""
    assert got.shape == want.shape, name
    kind = torch.finfo(got.dtype)
    bound = tolerance(got.dtype, steps) * size + UNDERFLOW + kind.tiny * kind.eps
    excess = ((got.double() - want).abs() / bound).masked_fill(size > kind.max, 0).nan_to_num(nan=torch.inf)
    if excess.numel() and excess.max() > 1:
        at = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        raise AssertionError(f"{name}{[*at]} is {got[at]:.9g}, not {want[at]:.9g} within {bound[at]:.2g}")


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


def sizes(case: Case, on_y: Tensor, on_state: Tensor) -> dict[str, Tensor]:
    """How large each result and gradient would be had nothing cancelled: the loop with every minus made a plus.

    The unit that rounding errors come in. The fast forms take |h|^2 from inner products, right to some u of what
    |h|^2 would be without cancellation, s^2. So a slot's weight grows by s^2 / (|h|^2 + eps D), where |h|^2 is the
    least that may be left of it.
    """
    unit = 16 * unit_roundoff(case.start().dtype)
    case = case.double()
    dense = case.dense()
    h = dense.initial_state if dense.initial_state is not None else torch.zeros(case.state_shape()).double()
    leaves = (dense.theta, 1 - dense.theta, dense.phi, dense.value.abs(), h.abs())
    write, keep, phi, value, start = leaves = [v.detach().clone().requires_grad_() for v in leaves]
    s, total, ys = h.norm(dim=-1), start, []
    for t in range(value.shape[1]):
        k, w = keep[:, t, :, None], write[:, t, :, None]
        h = (k * h + w * dense.value[:, t, None]).detach()
        s = (k[..., 0] * s + w[..., 0] * value[:, t, None].norm(dim=-1)).detach()
        mean_square = (h.square().sum(-1) - unit * s.square()).clamp(min=0) / h.shape[-1] + case.eps
        weight = (1 + s.square() / h.shape[-1] / mean_square) * mean_square.rsqrt()
        total = k * total + w * value[:, t, None]
        ys.append(((phi[:, t] * weight)[..., None] * total).sum(-2))
    y = torch.stack(ys, 1) if ys else torch.zeros_like(value)
    anywhere = on_y.norm(dim=-1, keepdim=True)  # the norm couples all numbers of a slot
    loss = (y * anywhere).sum() + (total * on_state.abs()).sum()
    dwrite, dkeep, dphi, dvalue, dstart = torch.autograd.grad(loss, leaves, materialize_grads=True)
    dtheta = dwrite + dkeep
    if case.slots is not None:
        dtheta, dphi = (v.gather(-1, case.slots.long()) for v in (dtheta, dphi))
    return {
        "y": y.detach(),
        "final state": total.detach(),
        "dtheta": dtheta,
        "dphi": dphi,
        "dvalue": dvalue,
        "dinitial_state": dstart,
    }

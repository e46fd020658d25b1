"""Generated inputs that break kernels, and the laws that hold for all of them. Needs hypothesis."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from verify.bounds import TOLERANCE, sizes, within
from verify.cases import LAYOUTS, Case, gradients, lay_out, loop

LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 67, 97, 130]) | st.integers(0, 70)
GATES = (0.0, 1.0, 1e-40, 5e-324, 0.5, 1 - 2**-24, 2**-24)  # kept, replaced, two denormals, half, nearly both


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

"""Generated inputs that break kernels, and the laws that hold for all of them. Needs hypothesis."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from verify.adapters import Kernel
from verify.bounds import TOLERANCE, sizes, tolerance, within
from verify.cases import ANY_LENGTH, EXACT, LAYOUTS, Case, Limits, gradients, lay_out, loop
from verify.judge import Result, Wrong

LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 67, 97, 130]) | st.integers(0, 70)
WIDTHS, SLOTS = st.sampled_from([1, 2, 3, 5, 8, 16]), st.integers(1, 9)
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
def cases(
    draw,
    form: str = "dense",
    dtypes=tuple(TOLERANCE),
    lengths=LENGTHS,
    batches=(0, 1, 2, 3),
    widths=WIDTHS,
    slots=SLOTS,
) -> Case:
    """Any legal arguments."""
    batch, time, width, num_slots = draw(st.sampled_from(batches)), draw(lengths), draw(widths), draw(slots)
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
    chosen = None
    if form == "sparse":
        chosen = draw(routes(batch, time, num_slots, weights, generator))
        chosen = lay_out(
            chosen.to(draw(st.sampled_from([torch.int64, torch.int32]))), draw(st.sampled_from(["", "transposed"]))
        )
    eps = draw(st.sampled_from([1e-6, 1e-3, 1e-12]))
    made_of = {
        "B": batch, "T": time, "M": num_slots, "K": weights, "D": width, "value": dtype, "gates": gate_dtype,
        "state": state_dtype, "scales": (scale, state_scale), "eps": eps, "seed": seed,
    }  # fmt: skip
    return Case(theta, phi, value, state, eps, chosen, num_slots if form == "sparse" else None, made_of)


def check(case: Case, way: Callable, truth: Callable = loop, differentiate: bool = True) -> None:
    """way(case), its gradients too, equals truth in float64 on the same rounded inputs, number by number."""
    generator = torch.Generator().manual_seed(1)
    on_y = torch.randn(case.value.shape, generator=generator).to(case.value.dtype)
    on_state = torch.randn(case.state_shape(), generator=generator)

    def results(case: Case, way: Callable) -> dict[str, Tensor]:
        if differentiate:
            return gradients(case, way, on_y, on_state)
        return dict(zip(("y", "final state"), way(case), strict=True))

    got, asked = results(case, way), (_content(case), truth)
    if _last.get("asked") != asked or not got.keys() <= _last["want"].keys():
        _last.update(asked=asked, want=results(case.double(), truth), size=sizes(case, on_y, on_state))
    for name in got:
        within(name, got[name], _last["want"][name], _last["size"][name], case.value.shape[1])


_last: dict[str, Any] = {}  # what was right of the last case: several ways are often held to one, and a loop is slow


def _content(case: Case) -> tuple:
    """All that a result depends on, by value."""
    inputs = {**case.double().floating(), "slots": case.slots, "cu_seqlens": case.cu_seqlens}
    numbers = tuple(v if v is None else (v.shape, v.numpy().tobytes()) for v in inputs.values())
    return case.eps, case.num_slots, tuple((n, v.dtype) for n, v in case.floating().items()), numbers


def equals_the_loop(case, run, draw):
    check(case, run)


def a_sequence_may_be_cut_in_time(case, run, draw):
    cut = draw(st.integers(0, case.value.shape[1]))

    def two_calls(case):
        y, state = run(case.pick(slice(cut), initial_state=case.initial_state))
        more, state = run(case.pick(slice(cut, None), initial_state=state))
        return torch.cat([y, more], 1), state

    check(case, two_calls)


def permuted_slots_permute_the_state(case, run, draw):
    order = torch.tensor(draw(st.permutations(range(case.state_shape()[1]))))

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[:, order]
        if case.slots is None:
            case = replace(case, theta=case.theta[..., order], phi=case.phi[..., order])
        else:
            case = replace(case, slots=order.argsort()[case.slots.long()])
        y, state = run(replace(case, initial_state=state))
        return y, state[:, order.argsort()]

    check(case, permuted)


def a_permuted_batch_permutes_the_result(case, run, draw):
    order = torch.tensor(draw(st.permutations(range(len(case.value)))), dtype=torch.long)

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[order]
        y, state = run(case.pick(batch=order, initial_state=state))
        return y[order.argsort()], state[order.argsort()]

    check(case, permuted)


def packed_sequences_are_separate_sequences(case, run, draw):
    batch, time, _ = case.value.shape
    lengths = torch.tensor([draw(st.sampled_from([0, 1, time]) | st.integers(0, time)) for _ in range(batch)])
    lengths = lengths.clamp(max=time)
    present = torch.arange(time) < lengths[:, None]
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(draw(st.sampled_from([torch.int32, torch.int64])))

    def packed(case):
        tokens = {name: getattr(case, name)[present][None] for name in ("theta", "phi", "value")}
        slots = None if case.slots is None else case.slots[present][None]
        y, state = run(replace(case, **tokens, slots=slots), cu_seqlens=cu_seqlens)
        return y.new_zeros(case.value.shape).index_put((present,), y[0]), state

    def absent_idle(case):
        return replace(case, theta=case.theta * present[..., None], phi=case.phi * present[..., None])

    check(absent_idle(case), packed, truth=lambda case: loop(absent_idle(case)))


def sparse_with_all_slots_is_dense(case, run, draw):
    slots = torch.tensor(draw(st.permutations(range(case.theta.shape[-1])))).expand(case.theta.shape)

    def sparse(case):
        theta, phi = (v.gather(-1, slots) for v in (case.theta, case.phi))
        return run(replace(case, theta=theta, phi=phi, slots=slots, num_slots=slots.shape[-1]))

    check(case, sparse)


def the_future_leaves_the_past_as_it_is(case, run, draw):
    time = case.value.shape[1]
    cut = draw(st.integers(0, time))
    future = torch.arange(time)[:, None] >= cut
    leaves = case.map(lambda v: v.detach().requires_grad_())
    y, _ = run(leaves)
    changed = replace(
        case,
        theta=torch.where(future, 1 - case.theta, case.theta),
        phi=torch.where(future, 1 - case.phi, case.phi),
        value=torch.where(future, 3 - case.value, case.value),
    )
    assert torch.equal(run(changed)[0][:, :cut], y[:, :cut])
    if cut and len(case.value):
        for grad in torch.autograd.grad(y[:, :cut].sum(), [leaves.theta, leaves.phi, leaves.value]):
            assert not grad[:, cut:].any()


def slots_not_named_stay_bit_for_bit(case, run, draw):
    start = case.start()
    _, state = run(replace(case, initial_state=start))
    named = torch.zeros(start.shape[:2]).scatter(1, case.slots.long().flatten(1), 1).bool()
    assert torch.equal(state[~named], start[~named])


def a_slot_of_weight_0_may_be_dropped(case, run, draw):
    if case.theta.shape[-1] == 1:
        return
    at = draw(st.integers(0, case.theta.shape[-1] - 1))
    kept = torch.arange(case.theta.shape[-1]) != at
    idle = replace(case, theta=case.theta * kept, phi=case.phi * kept)

    def dropped(_):
        return run(replace(case, **{n: getattr(case, n)[..., kept] for n in ("theta", "phi", "slots")}))

    check(idle, dropped, differentiate=False)


def every_slot_stays_in_the_hull_of_its_start_and_values(case, run, draw):
    start = case.start()
    _, state = run(case)
    direction = torch.randn(
        case.value.shape[-1], generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ).double()
    values, kept, reached = (v.double() @ direction for v in (case.value, start, state))
    for sign in (1, -1):
        furthest = torch.cat([sign * values[:, None].expand(*kept.shape, -1), sign * kept[..., None]], -1).amax(-1)
        largest = max([v.abs().max().item() for v in (case.value, start) if v.numel()], default=0)
        slack = tolerance(state.dtype, case.value.shape[1]) * direction.norm() * largest
        assert (sign * reached <= furthest + slack).all()


def theta_0_keeps_and_theta_1_replaces(case, run, draw):
    start = case.start()
    kept = replace(case, theta=torch.zeros_like(case.theta), initial_state=start)
    assert torch.equal(run(kept)[1], start)
    if case.value.shape[1]:
        theta = case.theta.clone()
        theta[:, -1] = 1
        case = replace(case, theta=theta)
        _, state = run(case)
        replaced = (case.dense().theta[:, -1] == 1)[..., None].expand_as(state)
        assert torch.equal(state[replaced], case.value[:, -1, None].to(state.dtype).expand_as(state)[replaced])


def the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(case, run, draw):
    case = replace(case, eps=1e-200 if case.value.dtype == torch.float64 else 1e-36)  # vanishing, not 0
    scale = draw(st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
    state = None if case.initial_state is None else case.initial_state.to(case.start().dtype)
    y, _ = run(replace(case, initial_state=state))
    scaled = replace(case, value=scale * case.value, initial_state=None if state is None else scale * state)
    size = sizes(case, torch.zeros(case.value.shape), torch.zeros(case.state_shape()))["y"]
    within("y", run(scaled)[0], y.double(), size, case.value.shape[1])


EVERY_FORM = (
    equals_the_loop, a_sequence_may_be_cut_in_time, permuted_slots_permute_the_state,
    a_permuted_batch_permutes_the_result, the_future_leaves_the_past_as_it_is,
    every_slot_stays_in_the_hull_of_its_start_and_values, theta_0_keeps_and_theta_1_replaces,
    the_scale_of_what_is_written_does_not_matter_as_eps_vanishes,
)  # fmt: skip
SPARSE = (slots_not_named_stay_bit_for_bit, a_slot_of_weight_0_may_be_dropped)
SHARP = {  # what a law says of fewer dtypes, since half precision would hide it
    a_sequence_may_be_cut_in_time: EXACT,
    the_scale_of_what_is_written_does_not_matter_as_eps_vanishes: (torch.float64,),
}


def obeys(kernel: Kernel, limits: Limits, grad: bool, examples: int) -> Iterator[Result]:
    """Each law of the form on so many generated examples, within the limits."""
    form = "sparse" if limits.form == "sparse" else "dense"
    sizes = {
        "lengths": LENGTHS.map(limits.lengths.nearest),
        "widths": WIDTHS.map(limits.widths.nearest),
        "slots": SLOTS.map(limits.slots.nearest),
    }
    laws = EVERY_FORM + (SPARSE if form == "sparse" else ())
    laws += (packed_sequences_are_separate_sequences,) if limits.packed else ()
    if limits.lengths != ANY_LENGTH:  # these make lengths of their own
        laws = tuple(
            law for law in laws if law not in (a_sequence_may_be_cut_in_time, packed_sequences_are_separate_sequences)
        )
    for law in laws:
        name = law.__name__.replace("_", " ")
        dtypes = tuple(dtype for dtype in SHARP.get(law, limits.dtypes) if dtype in limits.dtypes)
        if dtypes:
            strategy = cases(form, dtypes, batches=(1, 2, 3), **sizes)
            yield Result(name, "law", wrong=_broken(law, kernel if grad else _lent(kernel), strategy, examples))


def _lent(kernel: Kernel) -> Callable:
    """The values of kernel with the gradients of the loop, so that laws ask for values alone."""

    def run(case: Case, **options) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mine = kernel(case.map(Tensor.detach), **options)
        return tuple(
            v + (w - w.detach()).to(v.dtype) for v, w in zip(mine, loop(replace(case, **options)), strict=True)
        )

    return run


def _broken(law: Callable, run: Callable, strategy: st.SearchStrategy, examples: int) -> tuple[Wrong, ...]:
    """How law does not hold, in the smallest example that was found."""
    found = {}

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
        suppress_health_check=[*HealthCheck], print_blob=False,
    )  # fmt: skip
    @given(st.data())
    def holds(data):
        case = found["case"] = data.draw(strategy)
        law(case, run, data.draw)

    try:
        holds()
    except Exception as error:  # what the law asserts, or whatever a user's kernel raises
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (Wrong(law.__name__, f"{text} for {found.get('case')}"),)
    return ()

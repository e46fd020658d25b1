"""The mixers: the equations, prefill against steps and segments, state size, causality, ties, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import reference
from lm.layers import Attention, FactorizationMemory, Mamba2, ShortConvolution, balance_loss, top_slots

WIDTH = 8
MIXERS = {
    "dense": lambda: FactorizationMemory(WIDTH, 5, 6),
    "dense, rates per slot": lambda: FactorizationMemory(WIDTH, 5, rates="slot", temperature=0.5),
    "sparse": lambda: FactorizationMemory(WIDTH, 7, 6, top_k=3),
    "sparse, rates per slot": lambda: FactorizationMemory(WIDTH, 7, top_k=2, rates="slot", conv=2),
    "gated": lambda: FactorizationMemory(WIDTH, 6, top_k=2, conv=4, gate=True, expansion=2),
    "gated, dense": lambda: FactorizationMemory(WIDTH, 6, conv=3, gate=True),
    "mamba2": lambda: Mamba2(WIDTH, 3, 4),
    "mamba2, groups": lambda: Mamba2(WIDTH, 3, 4, num_groups=2, conv=1),
    "mamba2, no convolution": lambda: Mamba2(WIDTH, 3, 4, conv=0),
    "attention": lambda: Attention(WIDTH, 2),
}
# torch's own warning, when it loads what forward mode needs
forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
FM = [name for name in MIXERS if "mamba" not in name and name != "attention"]


def make(name, dtype=torch.float64, seed=0):
    """The mixer with every parameter moved off its initial value: a gain of 1 would hide its absence."""
    torch.manual_seed(seed)
    mixer = MIXERS[name]().to(dtype)
    with torch.no_grad():
        for p in mixer.parameters():
            p += 0.3 * torch.randn_like(p)
    return mixer


def some_input(batch=2, T=23, dtype=torch.float64, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, T, WIDTH, dtype=dtype)


def tensors(state):
    """What counts of a state: memory and tail, or the keys and values of its tokens without the room behind them."""
    first, second = state
    return tuple(first[:, :, :, :second]) if isinstance(second, int) else (first, second)


def assert_close(got, want, tolerance=1e-12):
    error = (got - want).norm() / want.norm().clamp_min(1e-30)
    assert error < tolerance, f"off by {error:.3g} of the norm, worst at {(got - want).abs().argmax().item()}"


def formula(layer, x):
    """Equations (1) to (6) of the README, line by line, (4) to (6) by the loop."""
    D, M, rates, _, gated = layer.sizes
    W_i, W_alpha, W_eta, W_mu, W_z = layer.in_proj.weight.split([D, M, rates, rates, gated])
    alpha = (x @ W_alpha.T / layer.temperature).softmax(-1)
    if layer.top_k is not None:
        kept = torch.zeros_like(alpha).scatter(-1, alpha.topk(layer.top_k).indices, 1.0)
        alpha = alpha * kept / (alpha * kept).sum(-1, keepdim=True)
    eta = (x @ W_eta.T + layer.rate_bias[0]).sigmoid()
    mu = (x @ W_mu.T + layer.rate_bias[1]).sigmoid()
    offer = x @ W_i.T
    if width := layer.conv.width:
        padded = torch.cat([x.new_zeros(len(x), width - 1, D), offer], 1).transpose(1, 2)
        mixed = torch.nn.functional.conv1d(padded, layer.conv.weight[:, None], groups=D)
        offer = torch.nn.functional.silu(mixed.transpose(1, 2))
    y, state = reference.factorization_memory(eta * alpha, mu * alpha, offer, eps=layer.eps)
    if gated:
        y = y * torch.nn.functional.silu(x @ W_z.T)
        y = y / (y.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return (layer.gain * y) @ layer.out_proj.weight.T, state


@pytest.mark.parametrize("name", FM)
def test_the_layer_is_its_equations(name):
    layer, x = make(name), some_input().requires_grad_()
    got, want = layer(x), formula(layer, x)
    assert_close(got[0], want[0])
    assert_close(got[1][0], want[1])
    inputs = [x, *layer.parameters()]
    gots = torch.autograd.grad(got[0].square().sum() + got[1][0].sum(), inputs)
    wants = torch.autograd.grad(want[0].square().sum() + want[1].sum(), inputs)
    for g, w in zip(gots, wants, strict=True):
        assert_close(g, w, 1e-11)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_prefill_equals_steps(name, dtype, tolerance):
    mixer, x = make(name, dtype), some_input(dtype=dtype)
    want, end = mixer(x)
    spent, kept, ys = mixer.initial_state(2), None, [[], [], []]
    for t in range(x.shape[1]):
        token = x[:, t : t + 1]
        with_gradients, _ = mixer(token, kept)
        with torch.no_grad():
            y, kept = mixer(token, kept)
        y_, spent = mixer.step_(token, spent)
        for to, value in zip(ys, (with_gradients, y, y_), strict=True):
            to.append(value)
    for y in ys:
        assert_close(torch.cat(y, 1), want, tolerance)
    for last in (spent, kept):
        for a, b in zip(tensors(last), tensors(end), strict=True):
            assert_close(a, b, tolerance)


@pytest.mark.parametrize("name", MIXERS)
@given(cuts=st.lists(st.integers(0, 23), max_size=4))
def test_segments_equal_whole(name, cuts):
    mixer, x, state, ys = make(name), some_input(), None, []
    with torch.no_grad():
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 23], strict=True):
            y, state = mixer(x[:, start:end], state)
            ys.append(y)
        want, _ = mixer(x)
    assert_close(torch.cat(ys, 1), want)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_state_passed_in_stays_as_it_was(name, T, gradients):
    mixer, x = make(name), some_input()
    with torch.set_grad_enabled(gradients):
        _, state = mixer(x)
        before = [v.clone() for v in tensors(state)]
        mixer(x[:, :T], state)
    assert all(torch.equal(a, b) for a, b in zip(tensors(state), before, strict=True))


@pytest.mark.parametrize("name", [n for n in MIXERS if n != "attention"])
def test_step_works_inside_the_state(name):
    mixer, x = make(name), some_input()
    _, state = mixer(x)
    _, after = mixer.step_(x[:, :1], state)
    assert after[0].data_ptr() == state[0].data_ptr()


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [0, 1, 23])
def test_state_bytes_are_those_of_its_tensors(name, dtype, T):
    mixer, x = make(name, dtype), some_input(3, T, dtype)
    state = mixer.initial_state(3)
    if T:
        _, state = mixer(x)
    assert mixer.state_bytes(3, T) == sum(v.numel() * v.element_size() for v in tensors(state))


@pytest.mark.parametrize("name", MIXERS)
def test_only_attention_grows(name):
    mixer = make(name)
    assert (mixer.state_bytes(1, 1000) == mixer.state_bytes(1, 10)) == (name != "attention")


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("at", [0, 1, 15, 16, 22])
def test_causality(name, at):
    mixer, x = make(name), some_input()
    changed = x.clone()
    changed[:, at:] = 10 * torch.randn_like(changed[:, at:])
    before, after = mixer(x)[0], mixer(changed)[0]
    assert (before[:, :at] - after[:, :at]).abs().sum() <= 1e-12 * before.abs().sum()
    assert (before[:, at] - after[:, at]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name", MIXERS)
def test_low_precision_parameters(name):
    """bfloat16 carries 8 bits: the layer follows its float64 twin to that, with its memory in float32."""
    mixer = make(name, torch.bfloat16)
    if getattr(mixer, "top_k", None):
        mixer.top_k = None  # a rounded affinity may choose another slot
    x = some_input(dtype=torch.bfloat16)
    y, state = mixer(x)
    assert y.dtype == torch.bfloat16
    if name != "attention":
        assert state[0].dtype == torch.float32
    assert_close(y.double(), mixer.double()(x.double())[0], 5e-2)


LOGITS = st.sampled_from([-math.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1 + 1e-12, 3e38])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(st.lists(st.lists(LOGITS, min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_of_equal_affinities_the_lowest_slot_is_kept(dtype, rows, k):
    logits = torch.tensor(rows, dtype=dtype)
    best = [sorted(range(6), key=lambda slot: -row[slot])[:k] for row in logits.tolist()]
    assert top_slots(logits, k).tolist() == best


def test_ties_in_a_large_router_go_to_the_lowest_slots():
    layer = FactorizationMemory(WIDTH, 300, top_k=20)
    torch.nn.init.zeros_(layer.in_proj.weight)
    _, phi, slots = layer.route(some_input(dtype=torch.float32))
    assert (slots == torch.arange(20)).all()
    assert torch.allclose(phi, torch.tensor(0.5 / 20))  # mu is 1/2 where its logit is 0


def test_keeping_all_slots_is_the_dense_layer():
    layer, x = make("sparse"), some_input()
    layer.top_k = layer.num_slots
    sparse, _ = layer(x)
    layer.top_k = None
    assert_close(sparse, layer(x)[0])


@pytest.mark.parametrize("name", FM)
def test_routing_is_what_the_plots_expect(name):
    layer, x = make(name), some_input()
    theta, phi, slots = layer.route(x)
    affinity = layer.affinity(x)
    assert affinity.shape == (2, 23, layer.num_slots)
    assert torch.allclose(affinity.sum(-1), torch.ones(2, 23, dtype=torch.float64))
    for weight in (theta, phi):
        assert ((weight >= 0) & (weight <= 1)).all() and (weight.sum(-1) <= 1 + 1e-12).all()
    if layer.top_k is None:
        assert slots is None and theta.shape == affinity.shape
    else:
        assert slots.shape == theta.shape == (2, 23, layer.top_k)
        kept, rest = affinity.gather(-1, slots), affinity.scatter(-1, slots, 0.0)
        assert (kept.amin(-1) >= rest.amax(-1)).all()


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("batch, T", [(0, 5), (0, 1), (2, 0), (0, 0)])
def test_no_rows_and_no_tokens(name, batch, T):
    """Forward, backward, and on from a state: nothing comes out, the state stays, no parameter moves."""
    mixer, x = make(name), some_input(batch, T).requires_grad_()
    _, start = mixer(some_input(batch, 3))
    y, end = mixer(x, start)
    assert y.shape == x.shape
    if not T:
        for got, want in zip(tensors(end), tensors(start), strict=True):
            assert torch.equal(got, want)
    y, _ = mixer(x)
    gradients = torch.autograd.grad(y.sum(), [x, *mixer.parameters()])
    assert not any(gradient.any() for gradient in gradients)
    with torch.no_grad():
        assert mixer(x, start)[0].shape == x.shape
    if T == 1:
        assert mixer.step_(x, start)[0].shape == x.shape


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """One process, by the library that several on CPUs use."""
    meeting = tmp_path_factory.mktemp("processes") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("name", MIXERS)
def test_it_trains_distributed(name, process_group):
    """DistributedDataParallel refuses the second step if any parameter had no gradient in the first."""
    mixer, x = make(name), some_input()
    distributed = torch.nn.parallel.DistributedDataParallel(mixer)
    for _ in range(2):
        mixer.zero_grad()
        distributed(x)[0].square().sum().backward()
    gots = [p.grad.clone() for p in mixer.parameters()]
    wants = torch.autograd.grad(mixer(x)[0].square().sum(), list(mixer.parameters()))
    for got, want in zip(gots, wants, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("name", ["dense", "mamba2, no convolution", "gated"])
def test_weights_stored_with_an_empty_convolution_load(name):
    """As they were once stored; a weight that has numbers is refused where there is no convolution, and the reverse."""
    mixer = make(name)
    weights, channels = mixer.state_dict(), mixer.conv.tail_shape[1]
    before = {**weights, "conv.weight": torch.zeros(channels, 0)}
    if mixer.conv.width:
        with pytest.raises(RuntimeError, match=r"size mismatch for conv.weight"):
            mixer.load_state_dict(before)
        return
    assert "conv.weight" not in weights
    fresh = MIXERS[name]().double()
    fresh.load_state_dict(before)
    assert before.keys() - weights.keys() == {"conv.weight"}  # what the caller passed stays as it was
    assert all(torch.equal(value, weights[key]) for key, value in fresh.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"conv.weight\""):
        fresh.load_state_dict({**weights, "conv.weight": torch.zeros(channels, 2)})


@pytest.mark.parametrize("name", MIXERS)
def test_a_state_survives_saving(name, tmp_path):
    """With torch's defaults, which load plain data alone; and the text goes on from it by calls and by steps."""
    mixer, x = make(name), some_input()
    _, kept = mixer(x[:, :20])
    _, spent = mixer.step_(x[:, 20:21], mixer(x[:, :20])[1])
    torch.save((kept, spent), tmp_path / "states.pt")
    kept, spent = torch.load(tmp_path / "states.pt")
    want = mixer(x)[0]
    assert_close(mixer(x[:, 20:], kept)[0], want[:, 20:])
    assert_close(mixer.step_(x[:, 21:22], spent)[0], want[:, 21:22])


BATCH = torch.export.Dim("batch")


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("with_state", [False, True], ids=["from the start", "from a state"])
def test_it_is_exported_for_any_batch(name, with_state, tmp_path):
    mixer = make(name)

    def arguments(batch):
        with torch.no_grad():
            return (some_input(batch), mixer(some_input(batch, 4))[1])[: 1 + with_state]

    of_state = ({1: BATCH}, None) if name == "attention" else ({0: BATCH}, {0: BATCH})
    program = torch.export.export(mixer, arguments(3), dynamic_shapes=({0: BATCH}, of_state)[: 1 + with_state])
    torch.export.save(program, tmp_path / "mixer.pt2")
    run = torch.export.load(tmp_path / "mixer.pt2").module()
    for batch in (1, 2, 5):
        (got, got_state), (want, want_state) = run(*arguments(batch)), mixer(*arguments(batch))
        assert_close(got, want)
        for a, b in zip(tensors(got_state), tensors(want_state), strict=True):
            assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("name", ["dense", "sparse, rates per slot", "mamba2, no convolution", "attention"])
def test_it_is_compiled_once_for_any_batch(name):
    """In one graph, forward and backward, from a state; the backend traces all and generates no code."""
    torch.compiler.reset()
    mixer, traced = make(name), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mixer, backend=traced, dynamic=True, fullgraph=True)
    graphs = []
    for batch in (9, 2, 5):  # 9 is no other size: torch takes equal sizes for the same
        with torch.no_grad():
            _, state = mixer(some_input(batch, 4))
        x, results = some_input(batch, 11).requires_grad_(), []
        for run in (compiled, mixer):
            y, end = run(x, state)
            loss = y.square().sum() + sum(v.square().sum() for v in tensors(end))
            results.append(torch.autograd.grad(loss, [x, *mixer.parameters()]))
        for got, want in zip(*results, strict=True):
            assert_close(got, want)
        graphs.append(traced.frame_count)
    assert graphs == graphs[:1] * 3


def test_the_plain_layer_has_nothing_but_the_equations():
    layer = FactorizationMemory(WIDTH, 5)
    shapes = {name: [*p.shape] for name, p in layer.named_parameters()}
    assert shapes == {
        "in_proj.weight": [WIDTH + 5 + 1 + 1, WIDTH],
        "rate_bias": [2, 1],
        "gain": [WIDTH],
        "out_proj.weight": [WIDTH, WIDTH],
    }


@forward_mode
def test_convolution_has_every_derivative():
    conv = ShortConvolution(3, 4).double()
    x, tail = (torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True) for T in (5, 3))
    more = dict.fromkeys(("check_forward_ad", "check_batched_grad", "check_batched_forward_grad"), True)

    def run(x, tail, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (x, tail))

    assert torch.autograd.gradcheck(run, (x, tail, conv.weight), **more)
    assert torch.autograd.gradgradcheck(run, (x, tail, conv.weight))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps an operator of ours one by one
@pytest.mark.parametrize("name", [*MIXERS, "balanced"])
def test_a_layer_may_be_mapped(name):
    """By torch.func.vmap, over its inputs; torch.autograd finds its way back through it."""
    mixer = FactorizationMemory(WIDTH, 6, top_k=2, conv=3, balance=0.3).double() if name == "balanced" else make(name)
    if name == "balanced":
        mixer.eval()  # its loss is of a whole batch
    x = torch.stack([some_input(), some_input(seed=2)]).requires_grad_()
    inputs = [x, *(p for p in mixer.parameters() if p.numel())]
    results = []
    for run in (lambda f: torch.func.vmap(f)(x), lambda f: torch.stack([f(v) for v in x])):
        y = run(lambda v: mixer(v)[0])
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for got, want in zip(*results, strict=True):
        assert_close(got, want)


@forward_mode
@pytest.mark.parametrize("name", MIXERS)
def test_forward_mode_through_a_layer(name):
    """Refused, or right: never 0."""
    mixer, x = make(name), some_input()
    direction = torch.randn_like(x)

    def along(x, direction):
        return torch.func.jvp(lambda v: mixer(v)[0], (x,), (direction,))[1]

    def differences(x, direction):
        with torch.no_grad():
            return (mixer(x + 1e-6 * direction)[0] - mixer(x - 1e-6 * direction)[0]) / 2e-6

    if name in FM:
        with pytest.raises(NotImplementedError, match=r"^theta must not carry a tangent"):
            along(x, direction)
        with torch.no_grad():  # one token is a step, made of torch's own operators
            x, direction = x[:, :1], direction[:, :1]
            assert_close(along(x, direction), differences(x, direction), 1e-7)
    elif name == "attention":
        with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
            along(x, direction)
    else:
        assert_close(along(x, direction), differences(x, direction), 1e-7)


@pytest.mark.parametrize("name", MIXERS)
def test_a_layer_is_exported_for_any_length(name):
    mixer = make(name).requires_grad_(False)
    length = torch.export.Dim("T", min=2, max=4096)
    exported = torch.export.export(Output(mixer), (some_input(T=20),), dynamic_shapes=({1: length},)).module()
    for T in (2, 17, 31, 32, 33, 64, 100):
        x = some_input(T=T)
        assert_close(exported(x), mixer(x)[0])


class Output(torch.nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        return self.mixer(x)[0]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own doing
@pytest.mark.parametrize("name", ["dense", "gated", "mamba2", "attention"])
def test_two_graphs_of_a_layer_do_for_any_length(name):
    counter, graphs, mixer = CompileCounterWithBackend("aot_eager"), set(), make(name)
    compiled = torch.compile(Output(mixer), fullgraph=True, dynamic=True, backend=counter)
    for T in (3, 17, 31, 32, 33, 64, 100):
        x = some_input(T=T).requires_grad_()
        results = [[y, *torch.autograd.grad(y.square().sum(), x)] for y in (compiled(x), mixer(x)[0])]
        for got, want in zip(*results, strict=True):
            assert_close(got, want, 1e-11)
        graphs.add(counter.frame_count)  # tracing may start twice for one graph
    assert len(graphs) <= 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("name", MIXERS)
def test_a_layer_is_traced_for_any_length(name):
    mixer = make(name).requires_grad_(False)
    traced = torch.jit.trace(Output(mixer), some_input(T=70), check_trace=False)
    for T in (2, 17, 31, 32, 33, 64, 100):
        x = some_input(T=T)
        assert_close(traced(x), mixer(x)[0])


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: FactorizationMemory(8, 4, top_k=5), r"top_k must .* \[1, num_slots = 4\], got 5"),
        (lambda: FactorizationMemory(8, 4, top_k=0), "top_k must .* got 0"),
        (lambda: FactorizationMemory(8, 0), "num_slots must be a positive integer, got 0"),
        (lambda: FactorizationMemory(0), "d_model must be a positive integer, got 0"),
        (lambda: FactorizationMemory(True), "d_model must be a positive integer, got True"),
        (lambda: FactorizationMemory(2**31), "d_model must be below 2.*31, got 2147483648"),
        (lambda: FactorizationMemory(8, 4, 6, expansion=2), "slot_width or expansion, not both: got 6 and 2"),
        (lambda: FactorizationMemory(8, 4, expansion=1.5), "expansion must be a positive integer, got 1.5"),
        (lambda: FactorizationMemory(8, 4, top_k=1.5), "top_k must .* got 1.5"),
        (lambda: FactorizationMemory(8, 4, gate="no"), "gate must be True or False, got 'no'"),
        (lambda: FactorizationMemory(8, 4, temperature="1"), "temperature must be positive and finite, got '1'"),
        (lambda: FactorizationMemory(8, 4, balance=math.inf), "balance must be finite and not negative, got inf"),
        (lambda: FactorizationMemory(8, 4, conv=1.5), "conv must be a width, or 0 for none, got 1.5"),
        (lambda: Mamba2(8, 4, 4, eps=0), "eps must be positive and finite, got 0"),
        (lambda: FactorizationMemory(8, 4, 2.5), "slot_width must be a positive integer, got 2.5"),
        (lambda: FactorizationMemory(8, 4, temperature=0), "temperature must be positive and finite, got 0"),
        (lambda: FactorizationMemory(8, 4, temperature=math.nan), "temperature must be positive and finite, got nan"),
        (
            lambda: FactorizationMemory(8, 4, router_noise=-1.0),
            "router_noise must be finite and not negative, got -1.0",
        ),
        (lambda: FactorizationMemory(8, 4, balance=math.nan), "balance must be finite and not negative, got nan"),
        (lambda: FactorizationMemory(8, 4, rates="head"), "rates must be one of 'token', 'slot', got 'head'"),
        (lambda: FactorizationMemory(8, 4, backend="scan"), "backend must be one of 'auto', 'chu.*, got 'scan'"),
        (
            lambda: FactorizationMemory(8, 4, top_k=2, backend="abc"),
            "backend must be one of 'auto', .*, got 'abc'",
        ),
        (lambda: FactorizationMemory(8, 4, conv=-1), "conv must be a width, or 0 for none, got -1"),
        (lambda: FactorizationMemory(8, 4, eps=0.0), "eps must be positive and finite, got 0.0"),
        (lambda: FactorizationMemory(8, 4)(torch.zeros(1, 2, 7)), r"x needs shape \[B, T, 8\], got \[1, 2, 7\]"),
        (lambda: Mamba2(8, 4, 3), "head_width must divide expansion . d_model = 16, got 3"),
        (lambda: Mamba2(8, 4, 4, num_groups=3), "num_groups must divide the 4 heads, got 3"),
        (lambda: Mamba2(8, 0, 4), "state_width must be a positive integer, got 0"),
        (lambda: Mamba2(8, 4, 4)(torch.zeros(2, 8)), r"x needs shape \[B, T, 8\], got \[2, 8\]"),
        (lambda: Attention(8, 3), "num_heads must cut d_model = 8 into heads of even width, got 3"),
        (lambda: Attention(8, 8), "num_heads must cut d_model = 8 .* got 8"),
        (lambda: Attention(8, 2)(torch.zeros(1, 2, 7)), r"x needs shape \[B, T, 8\], got \[1, 2, 7\]"),
    ],
)
def test_errors_say_what_was_got_and_what_is_needed(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", MIXERS)
def test_a_state_of_another_batch_size_is_refused(name):
    mixer = make(name)
    for T, call in ((23, mixer), (1, mixer), (1, mixer.step_)):
        with pytest.raises(ValueError, match="state holds a batch of 3, but x has 2"):
            call(some_input(T=T), mixer.initial_state(3))


@pytest.mark.parametrize("name", MIXERS)
def test_a_state_of_another_shape_or_kind_is_refused(name):
    mixer, x = make(name), some_input(T=1)
    first, second = mixer(x)[1]
    wrong = [(first[..., 1:], second)]
    if name == "attention":
        wrong += [(first[0], second)]
        with pytest.raises(ValueError, match="state has room for 1 tokens, but is said to hold 2"):
            mixer(x, (first, 2))
    else:
        wrong += [(first, torch.cat([second, second[:, :1], x.new_zeros(2, 1, second.shape[2])], 1))]
    for state in wrong:
        for call in (mixer, mixer.step_):
            with pytest.raises(ValueError, match=r"state (needs a tensor of shape \[2, .*\] here, got|holds a batch)"):
                call(x, state)
    other = make("dense" if name == "attention" else "attention").initial_state(2)
    for state, got in ((other, "a tuple of Tensor, "), (first, "Tensor"), ((first,), "a tuple of Tensor")):
        with pytest.raises(TypeError, match=f"state must be the pair that this mixer returned, .*, got {got}"):
            mixer(x, state)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("T", [0, 2])
def test_a_step_takes_one_token(name, T):
    mixer = make(name)
    with pytest.raises(ValueError, match=rf"step_ takes one token, x \[B, 1, d_model\], got \[2, {T}, 8\]"):
        mixer.step_(some_input(T=T), mixer.initial_state(2))


@pytest.mark.parametrize("top_k", [None, 2])
def test_noise_and_balance_are_of_training_alone(top_k):
    plain, x = FactorizationMemory(WIDTH, 6, top_k=top_k), some_input(dtype=torch.float32)
    noisy, even = (FactorizationMemory(WIDTH, 6, top_k=top_k, **v) for v in ({"router_noise": 1.0}, {"balance": 1.0}))

    def results(layer):
        y, _ = layer(x)
        return y, *torch.autograd.grad(y.square().sum(), layer.in_proj.weight)

    for layer in (noisy, even):
        layer.load_state_dict(plain.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(results(layer.eval()), results(plain), strict=True))
    assert torch.equal(even.train()(x)[0], plain(x)[0])
    torch.manual_seed(0)
    first, second = (noisy.train()(x)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(noisy(x)[0], first)


def test_noise_is_of_the_deviation_asked_for_whatever_the_temperature():
    layer = FactorizationMemory(WIDTH, 5, temperature=0.5, router_noise=0.7)
    torch.nn.init.zeros_(layer.in_proj.weight)
    logits = layer.route(some_input(T=5000, dtype=torch.float32)).theta.log()
    deviation = (logits - logits.mean(-1, keepdim=True)).std((0, 1))  # of a slot's noise, less the mean of all five
    assert torch.allclose(deviation, torch.tensor(0.7 * (1 - 1 / 5) ** 0.5), rtol=0.05)


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_balance_loss_is_its_formula(top_k):
    """Also where the last slot is not used; and its gradient is that of a fixed share."""
    logits = (torch.randn(4, 4, 6, dtype=torch.float64) - 9 * torch.eye(6)[-1]).requires_grad_()
    affinity = logits.softmax(-1).mean((0, 1))
    share, slots = affinity.detach(), None
    if top_k is not None:
        slots = top_slots(logits, top_k)
        share = torch.zeros_like(logits).scatter(-1, slots, 1.0).mean((0, 1)) / top_k
    losses = balance_loss(logits, slots), 6 * (share * affinity).sum()
    assert_close(*losses)
    assert_close(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses))


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_balance_loss_joins_what_the_output_leads_to(top_k):
    layer, x = FactorizationMemory(WIDTH, 6, top_k=top_k, balance=0.3).double(), some_input()
    weight = layer.in_proj.weight
    (joined,) = torch.autograd.grad(layer(x)[0].square().sum(), weight)
    layer.balance = 0.0
    _, logits, _, _ = layer._split(x)
    slots = None if top_k is None else top_slots(logits, top_k)
    (apart,) = torch.autograd.grad(layer(x)[0].square().sum() + 0.3 * balance_loss(logits, slots), weight)
    assert_close(joined, apart)


def test_descending_the_balance_loss_evens_out_the_slots():
    logits = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8.0)
    offset = torch.zeros(8, requires_grad=True)

    def loss():
        return balance_loss(logits + offset, top_slots(logits + offset, 2))

    before = loss().item()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(loss(), offset)
        with torch.no_grad():
            offset -= gradient
    assert before > 2 and 0.95 < loss().item() < 1.2

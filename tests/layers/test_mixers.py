"""All mixers, by the interface alone: prefill against steps and segments, state size, causality, tracing, refusals."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from layers import Attention, FactorizationMemory, SparseConfig
from reference.attention import attention
from tests.support.mixers import FM, GROWING, VARIANTS, WIDTH, assert_close, make, moved, some_input, tensors


@pytest.mark.parametrize("name", VARIANTS)
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


@pytest.mark.parametrize("name", VARIANTS)
@given(cuts=st.lists(st.integers(0, 23), max_size=4))
def test_segments_equal_whole(name, cuts):
    mixer, x, state, ys = make(name), some_input(), None, []
    with torch.no_grad():
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 23], strict=True):
            y, state = mixer(x[:, start:end], state)
            ys.append(y)
        want, _ = mixer(x)
    assert_close(torch.cat(ys, 1), want)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_state_passed_in_stays_as_it_was(name, T, gradients):
    mixer, x = make(name), some_input()
    with torch.set_grad_enabled(gradients):
        _, state = mixer(x)
        before = [v.clone() for v in tensors(state)]
        mixer(x[:, :T], state)
    assert all(torch.equal(a, b) for a, b in zip(tensors(state), before, strict=True))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in GROWING])
def test_step_works_inside_the_state(name):
    mixer, x = make(name), some_input()
    _, state = mixer(x)
    _, after = mixer.step_(x[:, :1], state)
    assert after[0].data_ptr() == state[0].data_ptr()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [0, 1, 23])
def test_state_bytes_are_those_of_its_tensors(name, dtype, T):
    mixer, x = make(name, dtype), some_input(3, T, dtype)
    state = mixer.initial_state(3)
    if T:
        _, state = mixer(x)
    assert mixer.state_bytes(3, T) == sum(v.numel() * v.element_size() for v in tensors(state))


@pytest.mark.parametrize("name", VARIANTS)
def test_only_attention_grows(name):
    mixer = make(name)
    assert (mixer.state_bytes(1, 1000) == mixer.state_bytes(1, 10)) == (name not in GROWING)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("at", [0, 1, 15, 16, 22])
def test_causality(name, at):
    mixer, x = make(name), some_input()
    changed = x.clone()
    changed[:, at:] = 10 * torch.randn_like(changed[:, at:])
    before, after = mixer(x)[0], mixer(changed)[0]
    assert (before[:, :at] - after[:, :at]).abs().sum() <= 1e-12 * before.abs().sum()
    assert (before[:, at] - after[:, at]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_low_precision_parameters(name):
    """bfloat16 carries 8 bits: the layer follows its float64 twin to that, with its memory in float32."""
    mixer = make(name, torch.bfloat16)
    if getattr(mixer, "top_k", None):
        mixer.top_k = None  # a rounded affinity may choose another slot
    x = some_input(dtype=torch.bfloat16)
    y, state = mixer(x)
    assert y.dtype == torch.bfloat16
    if name not in GROWING:
        assert state[0].dtype == torch.float32
    assert_close(y.double(), mixer.double()(x.double())[0], 5e-2)


@pytest.mark.parametrize("name", VARIANTS)
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
@pytest.mark.parametrize("name", VARIANTS)
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


@pytest.mark.parametrize("name", VARIANTS)
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


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("with_state", [False, True], ids=["from the start", "from a state"])
def test_it_is_exported_for_any_batch(name, with_state, tmp_path):
    mixer = make(name)

    def arguments(batch):
        with torch.no_grad():
            return (some_input(batch), mixer(some_input(batch, 4))[1])[: 1 + with_state]

    of_state = ({1: BATCH}, None) if name in GROWING else ({0: BATCH}, {0: BATCH})
    program = torch.export.export(mixer, arguments(3), dynamic_shapes=({0: BATCH}, of_state)[: 1 + with_state])
    torch.export.save(program, tmp_path / "mixer.pt2")
    run = torch.export.load(tmp_path / "mixer.pt2").module()
    for batch in (1, 2, 5):
        (got, got_state), (want, want_state) = run(*arguments(batch)), mixer(*arguments(batch))
        assert_close(got, want)
        for a, b in zip(tensors(got_state), tensors(want_state), strict=True):
            assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize(
    "name", ["dense", "sparse, rates per slot", "mamba2, no convolution", "transformer", "attention, window"]
)
def test_it_is_compiled_once_for_any_batch(name):
    """In one graph, forward and backward, from a state; any length is the test below. The backend generates no code."""
    torch.compiler.reset()
    mixer, traced = make(name), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mixer, backend=traced, dynamic=False, fullgraph=True)
    graphs = []
    for batch in (9, 2, 5):  # 9 is no other size: torch takes equal sizes for the same
        with torch.no_grad():
            _, state = mixer(some_input(batch, 4))
        x, results = some_input(batch, 11).requires_grad_(), []
        torch._dynamo.mark_dynamic(x, 0)
        for v in filter(torch.is_tensor, state):
            torch._dynamo.mark_dynamic(v, 1 if name in GROWING else 0)
        for run in (compiled, mixer):
            y, end = run(x, state)
            loss = y.square().sum() + sum(v.square().sum() for v in tensors(end))
            results.append(torch.autograd.grad(loss, [x, *mixer.parameters()]))
        for got, want in zip(*results, strict=True):
            assert_close(got, want)
        graphs.append(traced.frame_count)
    assert graphs == graphs[:1] * 3


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps an operator of ours one by one
@pytest.mark.parametrize("name", [*VARIANTS, "balanced"])
def test_a_layer_may_be_mapped(name):
    """By torch.func.vmap, over its inputs; torch.autograd finds its way back through it."""
    if name == "balanced":
        config = SparseConfig(num_slots=6, top_k=2, conv=3, balance=0.3)
        mixer = FactorizationMemory(WIDTH, config).double().eval()  # its loss is of a whole batch
    else:
        mixer = make(name)
    x = torch.stack([some_input(), some_input(seed=2)]).requires_grad_()
    inputs = [x, *(p for p in mixer.parameters() if p.numel())]
    results = []
    for run in (lambda f: torch.func.vmap(f)(x), lambda f: torch.stack([f(v) for v in x])):
        y = run(lambda v: mixer(v)[0])
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for got, want in zip(*results, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("name", VARIANTS)
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
    elif name in GROWING and "alibi" not in name:  # whose scores torch adds up by its formula
        with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
            along(x, direction)
    else:
        assert_close(along(x, direction), differences(x, direction), 1e-7)


@pytest.mark.parametrize("name", VARIANTS)
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
@pytest.mark.parametrize("name", ["dense", "fm-sparse", "mamba2", "transformer", "attention, window"])
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
@pytest.mark.parametrize("name", VARIANTS)
def test_a_layer_is_traced_for_any_length(name):
    mixer = make(name).requires_grad_(False)
    traced = torch.jit.trace(Output(mixer), some_input(T=70), check_trace=False)
    for T in (2, 17, 31, 32, 33, 64, 100):
        x = some_input(T=T)
        assert_close(traced(x), mixer(x)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_of_another_batch_size_is_refused(name):
    mixer = make(name)
    for T, call in ((23, mixer), (1, mixer), (1, mixer.step_)):
        with pytest.raises(ValueError, match="state holds a batch of 3, but x has 2"):
            call(some_input(T=T), mixer.initial_state(3))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_of_another_shape_or_kind_is_refused(name):
    mixer, x = make(name), some_input(T=1)
    first, second = mixer(x)[1]
    wrong = [(first[..., 1:], second)]
    if name in GROWING:
        wrong += [(first[0], second)]
        with pytest.raises(ValueError, match="state has room for 1 tokens, but is said to hold 2"):
            mixer(x, (first, 2))
    else:
        wrong += [(first, torch.cat([second, second[:, :1], x.new_zeros(2, 1, second.shape[2])], 1))]
    for state in wrong:
        for call in (mixer, mixer.step_):
            with pytest.raises(ValueError, match=r"state (needs a tensor of shape \[2, .*\] here, got|holds a batch)"):
                call(x, state)
    other = make("dense" if name in GROWING else "transformer").initial_state(2)
    for state, got in ((other, "a tuple of Tensor, "), (first, "Tensor"), ((first,), "a tuple of Tensor")):
        with pytest.raises(TypeError, match=f"state must be the pair that this mixer returned, .*, got {got}"):
            mixer(x, state)


def test_attention_reads_as_it_is_told():
    """Window and positions reach the operator: the layer equals projections around the loop."""
    for config in (VARIANTS[name][1] for name in GROWING):
        torch.manual_seed(0)
        mixer, x = moved(Attention(WIDTH, config).double()), some_input()
        q, k, v = mixer.in_proj(x).unflatten(-1, (3, 2, 4)).unbind(-3)
        assert_close(mixer(x)[0], mixer.out_proj(attention(q, k, v, **how(config)).flatten(-2)))
        other = Attention(WIDTH, replace(config, window=3)).double()  # no weight depends on the window
        other.load_state_dict(mixer.state_dict())
        y = attention(q, k, v, **how(config) | {"window": 3})
        assert_close(other(x)[0], mixer.out_proj(y.flatten(-2)))


def how(config):
    return {"positions": config.positions, "window": config.window}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("T", [0, 2])
def test_a_step_takes_one_token(name, T):
    mixer = make(name)
    with pytest.raises(ValueError, match=rf"step_ takes one token, x \[B, 1, d_model\], got \[2, {T}, 8\]"):
        mixer.step_(some_input(T=T), mixer.initial_state(2))

"""Fast attention against the loop: values, gradients, the cache."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from fast.attention import POSITIONS, attention, cached_attention, cached_attention_, empty_cache, rotary
from reference.attention import attention as loop
from reference.attention import rotary as loop_rotary

kinds = st.sampled_from(POSITIONS)
windows = st.one_of(st.just(0), st.integers(1, 45))  # of all tokens, of fewer than there are and of more
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
shapes = st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(1, 4), st.sampled_from([2, 6, 8]))


def inputs(shape, seed=0):
    """q, k and v in float64, strided as the slices of one projection are."""
    torch.manual_seed(seed)
    B, T, H, P = shape
    return torch.randn(B, T, 3, H, P, dtype=torch.float64).unbind(2)


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@given(shapes, st.integers(0, 99), st.sampled_from(list(TOLERANCE)), kinds, windows)
def test_equals_loop(shape, seed, dtype, positions, window):
    qkv, how = [v.to(dtype) for v in inputs(shape, seed)], {"positions": positions, "window": window}
    y = attention(*qkv, **how)
    assert y.dtype == dtype and y.shape == shape
    assert error(y, loop(*(v.double() for v in qkv), **how)) < TOLERANCE[dtype]


@given(shapes.filter(lambda shape: shape[1]), kinds, st.integers(1, 45))
def test_a_window_is_a_text_that_begins_later(shape, positions, window):
    """Of the loop: a token's result is that of the last token of the window alone, since places count by distance."""
    qkv = inputs(shape)
    y = loop(*qkv, positions=positions, window=window)
    for t in range(shape[1]):
        seen = [v[:, max(0, t - window + 1) : t + 1] for v in qkv]
        assert seen[0].shape[1] == min(window, t + 1)
        assert error(y[:, t], loop(*seen, positions=positions)[:, -1]) < 1e-12


@given(shapes.filter(lambda shape: shape[1]), st.sampled_from([torch.float64, torch.float32]), kinds, windows)
def test_gradients_equal_loop(shape, dtype, positions, window):
    how = {"positions": positions, "window": window}
    wide = [v.requires_grad_() for v in inputs(shape)]
    narrow = [v.detach().to(dtype).requires_grad_() for v in wide]
    weight = torch.randn(shape, dtype=torch.float64)
    wants = torch.autograd.grad((loop(*wide, **how) * weight).sum(), wide)
    gots = torch.autograd.grad((attention(*narrow, **how) * weight.to(dtype)).sum(), narrow)
    for name, got, want in zip("qkv", gots, wants, strict=True):
        # One token attends to itself alone: q and k have no gradient, and what is left is rounding.
        scale = torch.stack(wants).norm()
        assert (got - want).norm() < 10 * TOLERANCE[dtype] * scale.clamp_min(1e-30), name


@given(shapes, st.data(), kinds, windows)
def test_segments_equal_whole(shape, data, positions, window):
    q, k, v = inputs(shape)
    how = {"positions": positions, "window": window}
    cache, ys, start = empty_cache(shape[0], *shape[2:], dtype=q.dtype), [], 0
    while start < shape[1]:
        end = start + data.draw(st.integers(1, shape[1] - start))
        attend = data.draw(st.sampled_from([cached_attention, cached_attention_]))
        y, cache = attend(q[:, start:end], k[:, start:end], v[:, start:end], cache, **how)
        ys.append(y)
        start = end
    if ys:
        assert error(torch.cat(ys, 1), loop(q, k, v, **how)) < 1e-12
    kept, length = cache
    assert length == shape[1]
    assert torch.equal(kept[1, :, :, :length], v.transpose(1, 2))


@given(kinds, windows, st.integers(1, 8))
def test_steps_equal_prefill(positions, window, prefill):
    """Tokens read at once, then one at a time, in the cache's own room and in copies."""
    q, k, v = inputs((2, 12, 2, 4))
    how = {"positions": positions, "window": window}
    want = attention(q, k, v, **how)
    for step in (cached_attention, cached_attention_):
        y, cache = cached_attention(*(u[:, :prefill] for u in (q, k, v)), empty_cache(2, 2, 4, dtype=q.dtype), **how)
        ys = [y]
        for t in range(prefill, 12):
            y, cache = step(*(u[:, t : t + 1] for u in (q, k, v)), cache, **how)
            ys.append(y)
        assert error(torch.cat(ys, 1), want) < 1e-12


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_with_a_window_a_step_reads_the_same_number_of_keys_however_long_the_cache(monkeypatch, positions, tokens):
    read, fused = [], F.scaled_dot_product_attention

    def watched(q, k, v, mask=None, **options):
        read.append((k.shape[2], v.shape[2], None if mask is None else mask.shape[-1]))
        return fused(q, k, v, mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    more = inputs((1, tokens, 2, 4))
    for past in (0, 2, 4, 5, 40, 400):
        cache = torch.randn(2, 1, 2, past, 4, dtype=torch.float64), past
        _, (kept, length) = cached_attention(*more, cache, positions=positions, window=5)
        assert kept.shape[3] == length == past + tokens  # the cache itself is not cut
    masked = positions == "alibi" or tokens > 1
    keys = [min(past, 4) + tokens for past in (0, 2, 4, 5, 40, 400)]
    assert read == [(n, n, n if masked else None) for n in keys]


@pytest.mark.parametrize("window", [0, 4])
def test_segments_carry_gradients(window):
    wide = [v.requires_grad_() for v in inputs((2, 9, 2, 4))]
    y0, cache = cached_attention(*(v[:, :6] for v in wide), empty_cache(2, 2, 4, dtype=torch.float64), window=window)
    y1, _ = cached_attention(*(v[:, 6:] for v in wide), cache, window=window)
    gots = torch.autograd.grad((torch.cat([y0, y1], 1) ** 2).sum(), wide)
    wants = torch.autograd.grad((loop(*wide, window=window) ** 2).sum(), wide)
    for got, want in zip(gots, wants, strict=True):
        assert error(got, want) < 1e-11


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_segments_carry_gradients_of_one_input(which):
    """A cache that a backward may still need is not written into, whichever input asks for it."""
    plain = dict(zip("qkv", inputs((2, 9, 2, 4)), strict=True))
    leaf = plain[which].detach().clone().requires_grad_()
    qkv = list((plain | {which: leaf}).values())
    y0, cache = cached_attention(*(v[:, :5] for v in qkv), empty_cache(2, 2, 4, dtype=torch.float64))
    y1, _ = cached_attention(*(v[:, 5:] for v in qkv), cache)
    (got,) = torch.autograd.grad((torch.cat([y0, y1], 1) ** 2).sum(), leaf)
    (want,) = torch.autograd.grad((loop(*qkv) ** 2).sum(), leaf)
    assert error(got, want) < 1e-11


def segments(q, k, v):
    cache, ys = empty_cache(*q.shape[:1], *q.shape[2:], dtype=q.dtype), []
    for cut in (slice(0, 5), slice(5, 6), slice(6, 9)):
        y, cache = cached_attention(q[:, cut], k[:, cut], v[:, cut], cache)
        ys.append(y)
    return torch.cat(ys, 1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps its own kernel one by one
@pytest.mark.parametrize("which", [attention, segments])
def test_may_be_mapped(which):
    qkv = [v.detach().requires_grad_() for v in inputs((6, 9, 2, 4))]
    mapped = torch.func.vmap(which)(*(v.unflatten(0, (3, 2)) for v in qkv)).flatten(0, 1)
    want = loop(*qkv)
    assert error(mapped, want) < 1e-12
    with torch.no_grad():  # where a cache is written in place, unless it is mapped
        assert torch.equal(torch.func.vmap(which)(*(v.unflatten(0, (3, 2)) for v in qkv)).flatten(0, 1), mapped)
    gots, wants = (torch.autograd.grad(y.square().sum(), qkv) for y in (mapped, want))
    for got, want in zip(gots, wants, strict=True):
        assert error(got, want) < 1e-11


@pytest.mark.parametrize("which", [attention, segments])
def test_forward_mode_is_right_or_refused(which):
    """By torch's fused kernel refused, by its formula right."""
    qkv = tuple(inputs((2, 9, 2, 4)))
    tangents = tuple(torch.randn_like(v) for v in qkv)
    with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
        torch.func.jvp(which, qkv, tangents)
    want = torch.func.jvp(loop, qkv, tangents)[1]
    for context in (torch.enable_grad, torch.no_grad):
        with sdpa_kernel(SDPBackend.MATH), context():
            assert error(torch.func.jvp(which, qkv, tangents)[1], want) < 1e-12


@pytest.mark.parametrize("first_by", [cached_attention, cached_attention_])
def test_caches_that_branch_do_not_disturb_each_other(first_by):
    """Also where the trunk has room behind its tokens."""
    q, k, v = inputs((1, 12, 2, 4))

    def go_on(cache, at, attend=cached_attention):
        return attend(q[:, at], k[:, at], v[:, at], cache)

    _, trunk = go_on(empty_cache(1, 2, 4, dtype=q.dtype), slice(0, 4), first_by)
    before = trunk[0].clone()
    first, _ = go_on(trunk, slice(4, 6))
    other, (kept, length) = go_on(trunk, slice(6, 8))
    again, _ = go_on(trunk, slice(4, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert trunk[1] == 4 and torch.equal(trunk[0].nan_to_num(), before.nan_to_num())
    assert torch.equal(kept[1, :, :, 4:length], v[:, 6:8].transpose(1, 2))


def test_decoding_seldom_allocates():
    q, k, v = inputs((1, 300, 1, 2))
    cache, rooms = empty_cache(1, 1, 2, dtype=q.dtype), set()
    for t in range(300):
        _, cache = cached_attention_(q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1], cache)
        rooms.add(cache[0].shape[3])
    assert max(rooms) < 4 * 300
    assert len(rooms) <= 10


def test_rotary_equals_loop_far_out():
    x = inputs((2, 5, 3, 8))[0]
    positions = torch.tensor([0, 1, 100, 65_536, 1_000_003])
    want = loop_rotary(x, positions)
    assert error(rotary(x, positions), want) < 1e-12
    assert error(rotary(x.float(), positions), want) < 1e-6


def test_scores_depend_on_distance_alone():
    x = inputs((1, 2, 1, 8))[0]
    products = [
        (turned[0, 0] * turned[0, 1]).sum() for turned in (rotary(x, torch.tensor([at, at + 7])) for at in (0, 1000))
    ]
    assert products[0] == pytest.approx(products[1].item(), rel=1e-9)


def with_cache(q, k, v, **options):
    return cached_attention(q, k, v, empty_cache(1, 1, 4), **options)


@pytest.mark.parametrize("which", [attention, with_cache, loop])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_errors_name_the_argument(which, name):
    q = torch.zeros(1, 2, 1, 4)

    def refuses(error, message, wrong):
        with pytest.raises(error, match=rf"^{name} must {message}"):
            which(**dict.fromkeys("qkv", q) | {name: wrong})

    refuses(ValueError, r"have shape \[B, T, H, P\].*, got \[2, 1, 4\]", q[0])
    if name != "q":
        refuses(ValueError, r"have shape .* = \[1, 2, 1, 4\], got \[1, 3, 1, 4\]", torch.zeros(1, 3, 1, 4))
        refuses(ValueError, "be on cpu like q, got meta", q.to("meta"))
    refuses(TypeError, "be a floating tensor, got ndarray", q.numpy())
    refuses(TypeError, "have a floating dtype, got torch.int64", q.long())


@pytest.mark.parametrize("which", [attention, with_cache, loop])
def test_positions_are_of_a_kind_that_is_known(which):
    with pytest.raises(ValueError, match=r"^positions must be one of 'rotary', 'none', 'alibi', got 'learned'"):
        which(*[torch.zeros(1, 2, 1, 4)] * 3, positions="learned")


@pytest.mark.parametrize("which", [attention, with_cache, loop])
def test_a_window_is_a_number_of_tokens(which):
    qkv = [torch.zeros(1, 2, 1, 4)] * 3
    with pytest.raises(ValueError, match=r"^window must not be negative, got -1"):
        which(*qkv, window=-1)
    for wrong, name in ((2.0, "float"), (True, "bool"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"^window must be an integer, got {name}"):
            which(*qkv, window=wrong)


def test_without_positions_the_order_of_the_past_is_lost_and_alibi_prefers_what_is_near():
    """The last token's result: a permutation of those before it changes nothing, or moves weight to the nearer."""
    q, k, v = inputs((1, 6, 2, 4))
    swapped = torch.tensor([1, 0, 2, 3, 4, 5])
    for positions, alike in (("none", True), ("rotary", False), ("alibi", False)):
        plain = attention(q, k, v, positions=positions)[:, -1]
        other = attention(q, k[:, swapped], v[:, swapped], positions=positions)[:, -1]
        assert (error(other, plain) < 1e-12) == alike
    same = torch.zeros_like(q)  # all scores alike but for the distance
    v = torch.eye(6, dtype=v.dtype)[None, :, None].expand(1, 6, 2, 6)
    weights = attention(*(same.expand(1, 6, 2, 4),) * 2, v[..., :4], positions="alibi")[0, -1]
    slopes = torch.tensor([2.0**-4, 2.0**-8], dtype=v.dtype)  # of two heads
    want = (-slopes[:, None] * torch.arange(5, -1, -1)).softmax(-1)[:, :4]
    assert error(weights, want) < 1e-12


@pytest.mark.parametrize("which", [attention, with_cache, loop])
def test_heads_are_turned_in_pairs(which):
    with pytest.raises(ValueError, match=r"^q must have an even P, got 3"):
        which(*[torch.zeros(1, 2, 1, 3)] * 3)


@pytest.mark.parametrize("which", [rotary, loop_rotary])
def test_rotary_errors_name_the_argument(which):
    x, positions = torch.zeros(5, 1, 4), torch.arange(5)
    with pytest.raises(ValueError, match=r"^x must have shape \[..., T, H, P\], P even, got \[5, 1, 3\]"):
        which(x[..., :3], positions)
    with pytest.raises(ValueError, match=r"^x must have shape .*, got \[1, 4\]"):
        which(x[0], positions)
    for wrong in (positions[:1], positions[:, None]):
        with pytest.raises(ValueError, match=r"^positions must have shape \[T\] = \[5\], got \["):
            which(x, wrong)
    with pytest.raises(TypeError, match=r"^x must be a floating tensor, got torch\.int64"):
        which(x.long(), positions)

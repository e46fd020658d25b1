"""Three sequence mixers with one interface: Factorization Memory, Mamba-2 and attention.

    y, state = mixer(x)                x, y [B, T, d]; the state starts empty
    y, state = mixer(x, state)         goes on from a state; the one passed in stays as it was
    y, state = mixer.step_(x, state)   one token, x [B, 1, d], without gradients; works inside the state passed in, which is spent
    mixer.initial_state(batch_size)    the empty state, a named tuple (of tensors, for the recurrent mixers)
    mixer.state_bytes(batch, position) its size after `position` tokens: constant, or growing for attention

A mixer expects RMS-normalised input and adds no residual: lm/model.py does both.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast
from fast.attention import Cache, cached_attention
from fast.mamba2 import mamba2, mamba2_step_


class State(NamedTuple):
    """What a recurrent mixer keeps: its memory, and the last inputs of its short convolution."""

    memory: Tensor  # [B, M, D] or [B, H, N, P], float32 or wider
    tail: Tensor  # [B, width - 1, channels]


class Routing(NamedTuple):
    """Write and read weights [B, T, M], or [B, T, K] with the slots they belong to (None: all M)."""

    theta: Tensor
    phi: Tensor
    slots: Tensor | None


class FactorizationMemory(nn.Module):
    """The layer of arXiv 2511.00315 as docs/equations.md writes it.

        alpha = softmax(W_alpha x / tau)   eta, mu = sigmoid(W_eta x + b_eta), sigmoid(W_mu x + b_mu)
        theta, phi = eta alpha, mu alpha   y = memory(theta, phi, W_i x)   out = W_o (g * y)

    num_slots M, slot_width D (default: expansion * d_model), temperature tau. top_k = K keeps the K largest
    affinities of a token, divided by their sum; None keeps all. rates: one eta and mu per "token" or per "slot".
    What Mamba-2's block has as well, off by default: conv (width of a short causal convolution of the input,
    0 for none) and gate (y becomes norm(y * silu(W_z x)) before g).
    """

    def __init__(
        self, d_model: int, num_slots: int = 64, slot_width: int | None = None, *, temperature: float = 1.0,
        top_k: int | None = None, rates: str = "token", conv: int = 0, gate: bool = False, expansion: int = 1,
        backend: str = "auto", eps: float = 1e-6,
    ):  # fmt: skip
        super().__init__()
        slot_width = expansion * d_model if slot_width is None else slot_width
        _positive(d_model=d_model, num_slots=num_slots, slot_width=slot_width, temperature=temperature)
        if top_k is not None and not 1 <= top_k <= num_slots:
            raise ValueError(f"top_k must lie in [1, num_slots = {num_slots}] or be None, got {top_k}")
        if rates not in ("token", "slot"):
            raise ValueError(f'rates must be "token" or "slot", got {rates!r}')
        self.num_slots, self.slot_width, self.top_k = num_slots, slot_width, top_k
        self.temperature, self.backend, self.eps, self.gate = temperature, backend, eps, gate
        num_rates = 1 if rates == "token" else num_slots
        self.sizes = [slot_width, num_slots, num_rates, num_rates] + [slot_width] * gate
        self.conv = ShortConvolution(d_model, conv)
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)  # W_i, W_alpha, W_eta, W_mu, W_z
        self.rate_bias = nn.Parameter(torch.zeros(2, num_rates))  # b_eta, b_mu
        self.gain = nn.Parameter(torch.ones(slot_width))  # g
        self.out_proj = nn.Linear(slot_width, d_model, bias=False)  # W_o

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(len(x)) if state is None else state
        offer, gates, z, tail = self._project(x, state.tail)
        theta, phi, slots = self._route(*gates)
        if x.shape[1] == 1:
            args = [v if v is None else v[:, 0] for v in (theta, phi, slots, offer)]
            if slots is None:
                y, memory = fast.step(args[0], args[1], args[3], state.memory, eps=self.eps)
            else:
                y, memory = fast.sparse_step(*args, state.memory, eps=self.eps)
            y = y[:, None]
        elif slots is None:
            y, memory = fast.factorization_memory(
                theta, phi, offer, state.memory, eps=self.eps, backend=self.backend
            )
        else:
            y, memory = fast.sparse_factorization_memory(
                theta, phi, slots, offer, self.num_slots, state.memory, eps=self.eps, backend=self.backend
            )
        return self._output(y, z), State(memory, tail)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self(x, state)

    def route(self, x: Tensor, state: State | None = None) -> Routing:
        """The write and read weights that `forward` would use."""
        return self._route(*self._project(x, self._tail(x, state))[1])

    def affinity(self, x: Tensor, state: State | None = None) -> Tensor:
        """alpha [B, T, M] over all slots, before any are dropped: what the router's entropy is of."""
        return self._project(x, self._tail(x, state))[1][0].softmax(-1)

    def initial_state(self, batch_size: int) -> State:
        w = self.in_proj.weight
        memory = w.new_zeros(batch_size, self.num_slots, self.slot_width, dtype=_wide(w.dtype))
        return State(memory, self.conv.initial_tail(batch_size))

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        return _bytes(self.initial_state(batch_size))

    def _tail(self, x: Tensor, state: State | None) -> Tensor:
        return self.conv.initial_tail(len(x)) if state is None else state.tail

    def _project(self, x: Tensor, tail: Tensor) -> tuple[Tensor, tuple, Tensor | None, Tensor]:
        """-> the offered vector, (router logits, eta, mu), the gate's input, the convolution's tail."""
        x, tail = self.conv(x, tail)
        offer, logits, eta, mu, *z = self.in_proj(x).split(self.sizes, -1)
        logits, eta, mu = (v.to(_wide(v.dtype)) for v in (logits, eta, mu))
        eta, mu = (eta + self.rate_bias[0]).sigmoid(), (mu + self.rate_bias[1]).sigmoid()
        return offer, (logits / self.temperature, eta, mu), z[0] if z else None, tail

    def _route(self, logits: Tensor, eta: Tensor, mu: Tensor) -> Routing:
        if self.top_k is None:
            alpha, slots = logits.softmax(-1), None
        else:
            slots = top_slots(logits, self.top_k)
            # The kept affinities over their sum are the softmax of the kept logits.
            alpha = logits.gather(-1, slots).softmax(-1)
            if eta.shape[-1] > 1:
                eta, mu = eta.gather(-1, slots), mu.gather(-1, slots)
        return Routing(eta * alpha, mu * alpha, slots)

    def _output(self, y: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            return self.out_proj(y * self.gain)
        return self.out_proj(F.rms_norm(y * F.silu(z), self.gain.shape, self.gain, self.eps))


class Mamba2(nn.Module):
    """The Mamba-2 mixer (arXiv 2405.21060): H heads of width P = expansion * d_model / H, a state of N x P each.

    z, x, B, C, dt from one projection; a short convolution and SiLU over x, B, C; A and D one number per head;
    out = W_o norm(y * silu(z)). B and C are shared by the H / num_groups heads of a group.
    """

    def __init__(
        self, d_model: int, state_width: int = 64, head_width: int = 64, *, expansion: int = 2,
        num_groups: int = 1, conv: int = 4, eps: float = 1e-6,
    ):  # fmt: skip
        super().__init__()
        inner = expansion * d_model
        _positive(d_model=d_model, state_width=state_width, head_width=head_width, expansion=expansion)
        if inner % head_width or (inner // head_width) % num_groups:
            raise ValueError(
                f"head_width must divide expansion * d_model = {inner} into a multiple of num_groups = {num_groups} heads,"
                f" got {head_width}"
            )
        self.inner, self.num_heads, self.head_width = inner, inner // head_width, head_width
        self.num_groups, self.state_width, self.eps = num_groups, state_width, eps
        shared = num_groups * state_width
        self.sizes = [inner, inner + 2 * shared, self.num_heads]  # z, xBC, dt
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(inner + 2 * shared, conv)
        # As in the Mamba-2 release: A uniform in [1, 16], dt log-uniform in [0.001, 0.1] at zero input.
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        dt = torch.empty(self.num_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt + (-torch.expm1(-dt)).log())  # the inverse of softplus
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.gain = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(len(x)) if state is None else state
        z, inputs, tail = self._project(x, state.tail)
        y, memory = mamba2(*inputs, self.D, state.memory)
        return self._output(y, z), State(memory, tail)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self(x, state)

    def initial_state(self, batch_size: int) -> State:
        w = self.in_proj.weight
        shape = (batch_size, self.num_heads, self.state_width, self.head_width)
        return State(w.new_zeros(shape, dtype=_wide(w.dtype)), self.conv.initial_tail(batch_size))

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        return _bytes(self.initial_state(batch_size))

    def _project(self, x: Tensor, tail: Tensor) -> tuple[Tensor, tuple, Tensor]:
        z, xBC, dt = self.in_proj(x).split(self.sizes, -1)
        xBC, tail = self.conv(xBC, tail)
        shared = self.num_groups * self.state_width
        x, B, C = F.silu(xBC).split([self.inner, shared, shared], -1)
        x = x.unflatten(-1, (self.num_heads, self.head_width))
        B, C = (v.unflatten(-1, (self.num_groups, self.state_width)) for v in (B, C))
        dt = F.softplus(dt.to(_wide(dt.dtype)) + self.dt_bias)
        return z, (x, dt, -self.A_log.exp(), B, C), tail

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        y = y.flatten(-2) * F.silu(z)
        return self.out_proj(F.rms_norm(y, self.gain.shape, self.gain, self.eps))


class Attention(nn.Module):
    """Causal softmax attention with rotary positions and num_heads heads of width d_model / num_heads."""

    def __init__(self, d_model: int, num_heads: int = 4):
        super().__init__()
        _positive(d_model=d_model, num_heads=num_heads)
        if d_model % (2 * num_heads):
            raise ValueError(
                f"num_heads must divide d_model = {d_model} into heads of even width, got {num_heads}"
            )
        self.num_heads, self.head_width = num_heads, d_model // num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache]:
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.num_heads, self.head_width)).unbind(-3)
        y, state = cached_attention(q, k, v, state)
        return self.out_proj(y.flatten(-2)), state

    @torch.no_grad()
    def step_(self, x: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        return self(x, state)

    def initial_state(self, batch_size: int) -> Cache:
        w = self.in_proj.weight
        return Cache.empty(batch_size, self.num_heads, self.head_width, dtype=w.dtype, device=w.device)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        width = self.num_heads * self.head_width
        return 2 * batch_size * position * width * self.in_proj.weight.element_size()


class ShortConvolution(nn.Module):
    """y_t = sum_j w_j * x_{t - width + 1 + j}: causal, one filter per channel; width 0 leaves x alone."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        if width < 0:
            raise ValueError(f"conv must be 0 (off) or a width, got {width}")
        self.channels, self.width = channels, width
        self.weight = nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) / max(width, 1) ** 0.5)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, channels] after tail [B, width - 1, channels], the inputs before it -> y, the next tail."""
        if not self.width:
            return x, tail
        x = torch.cat([tail, x], 1)
        return _Convolve.apply(x, self.weight), x[:, x.shape[1] - tail.shape[1] :]

    def initial_tail(self, batch_size: int) -> Tensor:
        return self.weight.new_zeros(batch_size, max(self.width - 1, 0), self.channels)


class _Convolve(torch.autograd.Function):
    """[B, width - 1 + T, C] -> [B, T, C] in shifts: on a CPU five times as fast as a grouped conv1d."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        T = x.shape[1] - weight.shape[1] + 1
        y = x[:, :T] * weight[:, 0]
        for j in range(1, weight.shape[1]):
            y.addcmul_(x[:, j : j + T], weight[:, j])
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dx, T = torch.zeros_like(x), dy.shape[1]
        for j in range(weight.shape[1]):
            dx[:, j : j + T].addcmul_(dy, weight[:, j])
        dw = [(dy * x[:, j : j + T]).sum((0, 1)) for j in range(weight.shape[1])]
        return dx, torch.stack(dw, 1)


@torch.no_grad()
def top_slots(logits: Tensor, k: int) -> Tensor:
    """The slots of the k largest logits [..., M] -> [..., k], largest first; among equals the lowest slot wins.

    (torch.topk does not say which of several equals it keeps.)

    >>> top_slots(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([1, 0])
    """
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _bytes(state: State) -> int:
    return sum(v.numel() * v.element_size() for v in state)


def _positive(**sizes: float) -> None:
    for name, value in sizes.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")

"""Three sequence mixers with one interface: Factorization Memory, Mamba-2 and attention.

    y, state = mixer(x)                   x, y [B, T, d]; the state starts empty
    y, state = mixer(x, state)            goes on from a state; the one passed in stays as it was
    y, state = mixer.step_(x, state)      one token, x [B, 1, d], without gradients, inside the state: it is spent
    mixer.initial_state(batch_size)       the empty state
    mixer.state_bytes(batch_size, n)      its size after n tokens: constant, or growing for attention

A state is a plain pair, so that torch.save, torch.load and torch.export take it as it is: of a recurrent mixer its
memory [B, M, D] or [B, H, N, P], in float32 or wider, and the last inputs of its short convolution [B, width - 1,
channels]; of attention its keys and values [2, B, H, room, P] and how many of the positions are filled.

A mixer expects RMS-normalised input and adds no residual: lm/model.py does both.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast
from fast.attention import Cache, cached_attention, cached_attention_, empty_cache
from fast.backends import DENSE_BACKENDS, SPARSE_BACKENDS
from fast.mamba2 import mamba2, mamba2_step_
from fast.operators import has_tangent
from fast.validation import one_of

State = tuple[Tensor, Tensor]  # of a recurrent mixer: memory, tail


class Routing(NamedTuple):
    """Write and read weights [B, T, M], or [B, T, K] with the slots they belong to (None: all M, in order)."""

    theta: Tensor
    phi: Tensor
    slots: Tensor | None


class RecurrentMixer(nn.Module):
    """What the two recurrent mixers share: a projection in, a memory of fixed size, a projection out.

    A subclass has d_model, conv, memory_shape, and says how x becomes the memory's inputs (`_project`), what the
    memory makes of them (`_scan`, `_scan_step_`) and how that becomes the output (`_output`).
    """

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        memory, tail = self._checked(x, state)
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._step_(x, memory.clone(), tail)
        inputs, z, tail = self._project(x, tail)
        y, memory = self._scan(inputs, memory)
        return self._output(y, z), (memory, tail)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One token, x [B, 1, d_model] -> y, state, in the memory of the state passed in."""
        _check_one_token(x)
        return self._step_(x, *self._checked(x, state))

    def initial_state(self, batch_size: int) -> State:
        w = self.in_proj.weight
        memory = w.new_zeros(batch_size, *self.memory_shape, dtype=_wide(w.dtype))
        return memory, w.new_zeros(batch_size, *self.conv.tail_shape)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        """Bytes of the state after `position` tokens: the same for any."""
        w = self.in_proj.weight
        memory = math.prod(self.memory_shape) * _wide(w.dtype).itemsize
        return batch_size * (memory + math.prod(self.conv.tail_shape) * w.element_size())

    def _checked(self, x: Tensor, state: State | None) -> State:
        _check_input(x, self.d_model)
        if state is None:
            return self.initial_state(x.shape[0])
        memory, tail = _pair(state, Tensor, "memory and tail")
        for value, shape in ((memory, self.memory_shape), (tail, self.conv.tail_shape)):
            _check_state(value.shape, (x.shape[0], *shape))
        return memory, tail

    def _step_(self, x: Tensor, memory: Tensor, tail: Tensor) -> tuple[Tensor, State]:
        inputs, z, tail = self._project(x, tail)
        y, memory = self._scan_step_([v if v is None else v[:, 0] for v in inputs], memory)
        return self._output(y[:, None], z), (memory, tail)


class FactorizationMemory(RecurrentMixer):
    """The layer of arXiv 2511.00315 around the memory of reference/factorization_memory.py.

        alpha = softmax(W_alpha x / tau)   eta, mu = sigmoid(W_eta x + b_eta), sigmoid(W_mu x + b_mu)
        theta, phi = eta alpha, mu alpha   y = memory(theta, phi, W_i x)   out = W_o (g * y)

    num_slots M, slot_width D (default: expansion * d_model), temperature tau. top_k = K keeps the K largest
    affinities of a token, divided by their sum; None keeps all. rates: one eta and mu per "token" or "slot".
    backend and eps go to fast.factorization_memory.

    For experiments, in training only: router_noise is the standard deviation of Gaussian noise on the logits over tau;
    balance the weight of an auxiliary loss per layer, 1 where all slots are used alike and more where a few are
    preferred (`balance_loss`, arXiv 2101.03961, eq. 4), added to whatever loss the output contributes to.

    Two options that Mamba-2's block has, off by default: conv, the width of a short causal convolution, followed
    by SiLU, over the offered vector W_i x; and gate, which makes y into norm(y * silu(W_z x)) before g.
    """

    def __init__(
        self, d_model: int, num_slots: int = 64, slot_width: int | None = None, *, temperature: float = 1.0,
        top_k: int | None = None, rates: str = "token", conv: int = 0, gate: bool = False, expansion: int | None = None,
        backend: str = "auto", eps: float = 1e-6, router_noise: float = 0.0, balance: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        if slot_width is not None and expansion is not None:
            raise ValueError(f"slot_width or expansion, not both: got {slot_width} and {expansion}")
        expansion = 1 if expansion is None else expansion
        check_sizes(d_model=d_model, num_slots=num_slots, expansion=expansion)
        slot_width = expansion * d_model if slot_width is None else slot_width
        check_sizes(slot_width=slot_width)
        check_positive(temperature=temperature, eps=eps)
        for name, value in (("router_noise", router_noise), ("balance", balance)):
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        if top_k is not None and not (_is_size(top_k) and top_k <= num_slots):
            raise ValueError(f"top_k must be None or lie in [1, num_slots = {num_slots}], got {top_k!r}")
        if not isinstance(gate, bool):
            raise ValueError(f"gate must be True or False, got {gate!r}")
        one_of("rates", rates, ("token", "slot"))
        one_of("backend", backend, DENSE_BACKENDS if top_k is None else SPARSE_BACKENDS)
        self.d_model, self.num_slots, self.slot_width = d_model, num_slots, slot_width
        self.top_k, self.temperature, self.backend, self.eps = top_k, temperature, backend, eps
        self.router_noise, self.balance = router_noise, balance
        self.memory_shape = (num_slots, slot_width)
        num_rates = 1 if rates == "token" else num_slots
        self.sizes = [slot_width, num_slots, num_rates, num_rates, slot_width if gate else 0]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)  # W_i, W_alpha, W_eta, W_mu, W_z
        self.rate_bias = nn.Parameter(torch.zeros(2, num_rates))  # b_eta, b_mu
        self.conv = ShortConvolution(slot_width, conv)
        self.gain = nn.Parameter(torch.ones(slot_width))  # g
        self.out_proj = nn.Linear(slot_width, d_model, bias=False)  # W_o
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """A router that tells tokens apart from the start, and slots that are willing to change.

        Chosen by held-out bits per byte of lm/model.py's default model after 150 steps of 2,048 tokens at the full
        rate of 3e-3, no warm-up, one seed. Router logits before tau of standard deviation 0.29, 0.58 (torch's own),
        1.15: 2.80, 2.78, 2.74. b_eta of -2, 0, 2: 2.86, 2.78, 2.76; b_mu of 2 instead of 0: 2.79. Router at 1.73
        and b_eta 1 together: 2.71. Rates per slot, b_eta all 0 or spread from -4 to 4: 2.82, 2.79.
        A slot forgets half of its content in about ln 2 / mean(theta) tokens. With one rate for all slots the router
        alone spreads these half-lives: from 3 to 400 tokens over 32 slots, median 30, so no spread is built in.
        """
        router = self.in_proj.weight[self.slot_width : self.slot_width + self.num_slots]
        nn.init.normal_(router, std=(3 / self.d_model) ** 0.5)
        nn.init.ones_(self.rate_bias[0])

    def route(self, x: Tensor) -> Routing:
        """The write and read weights of x [B, T, d_model], as `forward` uses them."""
        _, logits, rates, _ = self._split(x)
        return self._route(logits, rates)

    def affinity(self, x: Tensor) -> Tensor:
        """alpha [B, T, M] over all slots, before any are dropped: what the router's entropy is of."""
        return self._split(x)[1].softmax(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        """x -> W_i x, the router's logits over tau, (eta, mu), W_z x."""
        offer, logits, eta, mu, z = self.in_proj(x).split(self.sizes, -1)
        logits, eta, mu = (v.to(_wide(v.dtype)) for v in (logits, eta, mu))
        rates = (eta + self.rate_bias[0]).sigmoid(), (mu + self.rate_bias[1]).sigmoid()
        return offer, logits / self.temperature, rates, z

    def _route(self, logits: Tensor, rates: tuple[Tensor, Tensor]) -> Routing:
        if self.training and self.router_noise:
            logits = logits + self.router_noise * torch.randn_like(logits)
        slots, kept = None, logits
        if self.top_k is not None:
            slots = top_slots(logits, self.top_k)
            # The kept affinities over their sum are the softmax of the kept logits.
            kept = logits.gather(-1, slots)
            rates = [v if v.shape[-1] == 1 else v.gather(-1, slots) for v in rates]
        alpha = kept.softmax(-1)
        if self.training and self.balance:
            alpha = _AddLoss.apply(alpha, self.balance * balance_loss(logits, slots))
        return Routing(rates[0] * alpha, rates[1] * alpha, slots)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[tuple, Tensor, Tensor]:
        offer, logits, rates, z = self._split(x)
        offer, tail = self.conv(offer, tail)
        if self.conv.width:
            offer = F.silu(offer)
        return (*self._route(logits, rates), offer), z, tail

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        theta, phi, slots, offer = inputs
        how = {"eps": self.eps, "backend": self.backend}
        if slots is None:
            return fast.factorization_memory(theta, phi, offer, memory, **how)
        how["check_values"] = False  # top_slots names slots that exist, each once
        return fast.sparse_factorization_memory(theta, phi, slots, offer, self.num_slots, memory, **how)

    def _scan_step_(self, inputs: list, memory: Tensor) -> tuple[Tensor, Tensor]:
        theta, phi, slots, offer = inputs
        if slots is None:
            return fast.step_(theta, phi, offer, memory, eps=self.eps)
        return fast.sparse_step_(theta, phi, slots, offer, memory, eps=self.eps, check_values=False)

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        if not self.sizes[-1]:
            return self.out_proj(y * self.gain)
        return self.out_proj(F.rms_norm(y * F.silu(z), self.gain.shape, self.gain, self.eps))


class Mamba2(RecurrentMixer):
    """The mixer of arXiv 2405.21060: heads of width P with a state of state_width x P each.

    One projection gives z, x, B, C and dt; a short convolution and SiLU go over x, B and C; A, D and the bias of dt
    are one number per head; out = W_o (g * norm(y * silu(z))). P = head_width divides expansion * d_model, and
    the heads of a group share B and C.
    """

    def __init__(
        self, d_model: int, state_width: int = 64, head_width: int = 64, *, expansion: int = 2,
        num_groups: int = 1, conv: int = 4, eps: float = 1e-6,
    ):  # fmt: skip
        super().__init__()
        check_sizes(d_model=d_model, state_width=state_width, head_width=head_width, expansion=expansion)
        check_sizes(num_groups=num_groups)
        check_positive(eps=eps)
        inner = expansion * d_model
        if inner % head_width:
            raise ValueError(f"head_width must divide expansion * d_model = {inner}, got {head_width}")
        num_heads = inner // head_width
        if num_heads % num_groups:
            raise ValueError(f"num_groups must divide the {num_heads} heads, got {num_groups}")
        self.d_model, self.eps = d_model, eps
        self.memory_shape = (num_heads, state_width, head_width)
        self.group_shape = (num_groups, state_width)
        shared = num_groups * state_width
        self.sizes = [inner, inner + 2 * shared, num_heads]  # z, xBC, dt
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(inner + 2 * shared, conv)
        # As its authors do: -A uniform in [1, 16], and dt log-uniform in [0.001, 0.1] where the input is 0.
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        dt = torch.empty(num_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        self.D = nn.Parameter(torch.ones(num_heads))
        self.gain = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[tuple, Tensor, Tensor]:
        z, xBC, dt = self.in_proj(x).split(self.sizes, -1)
        xBC, tail = self.conv(xBC, tail)
        shared = math.prod(self.group_shape)
        x, B, C = F.silu(xBC).split([xBC.shape[-1] - 2 * shared, shared, shared], -1)
        x = x.unflatten(-1, self.memory_shape[::2])
        dt = F.softplus(dt.to(_wide(dt.dtype)) + self.dt_bias)
        return (x, dt, B.unflatten(-1, self.group_shape), C.unflatten(-1, self.group_shape)), z, tail

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, B, C = inputs
        return mamba2(x, dt, -self.A_log.exp(), B, C, self.D, memory)

    def _scan_step_(self, inputs: list, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, B, C = inputs
        return mamba2_step_(x, dt, -self.A_log.exp(), B, C, self.D, memory)

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        y = y.flatten(-2) * F.silu(z)
        return self.out_proj(F.rms_norm(y, self.gain.shape, self.gain, self.eps))


class Attention(nn.Module):
    """Causal softmax attention with rotary positions, in num_heads heads of width d_model / num_heads."""

    def __init__(self, d_model: int, num_heads: int = 4):
        super().__init__()
        check_sizes(d_model=d_model, num_heads=num_heads)
        if d_model % (2 * num_heads):
            raise ValueError(f"num_heads must cut d_model = {d_model} into heads of even width, got {num_heads}")
        self.d_model, self.num_heads, self.head_width = d_model, num_heads, d_model // num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache]:
        return self._attend(cached_attention, x, state)

    @torch.no_grad()
    def step_(self, x: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        _check_one_token(x)
        return self._attend(cached_attention_, x, state)

    def initial_state(self, batch_size: int) -> Cache:
        w = self.in_proj.weight
        return empty_cache(batch_size, self.num_heads, self.head_width, dtype=w.dtype, device=w.device)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        """Bytes of the keys and values of `position` tokens (a cache may have room for up to twice as many)."""
        return 2 * batch_size * position * self.d_model * self.in_proj.weight.element_size()

    def _attend(self, attend: Callable, x: Tensor, state: Cache | None) -> tuple[Tensor, Cache]:
        state = self._checked(x, state)
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.num_heads, self.head_width)).unbind(-3)
        y, state = attend(q, k, v, state)
        return self.out_proj(y.flatten(-2)), state

    def _checked(self, x: Tensor, state: Cache | None) -> Cache:
        _check_input(x, self.d_model)
        if state is None:
            return self.initial_state(x.shape[0])
        kept, length = _pair(state, (int, torch.SymInt), "keys and values, and their number")
        room = kept.shape[3] if kept.ndim == 5 else 0
        _check_state(kept.shape, (2, x.shape[0], self.num_heads, room, self.head_width), batch=1)
        if not 0 <= length <= room:
            raise ValueError(f"state has room for {room} tokens, but is said to hold {length}")
        return kept, length


class ShortConvolution(nn.Module):
    """y_t = sum_j w_j * x_{t - width + 1 + j}: causal, one filter per channel. Width 0: no weight, and x as it is."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        if not (_is_size(width) or width == 0):
            raise ValueError(f"conv must be a width, or 0 for none, got {width!r}")
        self.width = width
        self.tail_shape = (max(width - 1, 0), channels)
        # None, not a weight without numbers: distributed training waits for a gradient of every parameter.
        weight = nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) / width**0.5) if width else None
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, channels] after tail [B, width - 1, channels], the inputs before it -> y, the next tail."""
        if not self.width:
            return x, tail
        x = torch.cat([tail, x], 1)
        # torch.compile does not know a jvp of our own, so that forward mode goes through torch's operators.
        forward_mode = any(map(has_tangent, (x, self.weight)))
        y = (_Convolve.forward if forward_mode else _Convolve.apply)(x, self.weight)
        return y, x[:, x.shape[1] - tail.shape[1] :]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        stored = state_dict.get(f"{prefix}weight")
        if not self.width and stored is not None and not stored.numel():
            del state_dict[f"{prefix}weight"]  # in checkpoints made when no convolution was a weight without numbers
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Convolve(torch.autograd.Function):
    """[B, width - 1 + T, C] -> [B, T, C] by shifts: on a CPU many times as fast as a grouped conv1d."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        T = x.shape[1] - weight.shape[1] + 1
        y = x[:, :T] * weight[:, 0]
        for j in range(1, weight.shape[1]):
            y.addcmul_(x[:, j : j + T], weight[:, j])
        return y

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dx, T = dy.new_zeros(x.shape), dy.shape[1]
        for j in range(weight.shape[1]):
            dx[:, j : j + T].addcmul_(dy, weight[:, j])
        dw = [(dy * x[:, j : j + T]).sum((0, 1)) for j in range(weight.shape[1])]
        return dx, torch.stack(dw, 1)


def balance_loss(logits: Tensor, slots: Tensor | None) -> Tensor:
    """M sum over slots of (share of the pairs kept) * (mean affinity): 1 if all M slots are used alike, at most M.

    logits [..., M], slots [..., K] (None: all are kept, and the mean affinity is the share) -> a scalar. Gradients flow
    through the affinities alone.

    >>> logits = torch.tensor([[9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    >>> balance_loss(logits, torch.tensor([[0], [0]])).round(decimals=2), balance_loss(0 * logits, None)
    (tensor(4.), tensor(1.))
    """
    affinity, num_slots = logits.softmax(-1).flatten(0, -2).mean(0), logits.shape[-1]
    share = affinity.detach()
    if slots is not None:
        share = slots.flatten().bincount(minlength=num_slots) / slots.numel()
    return num_slots * (share * affinity).sum()


class _AddLoss(torch.autograd.Function):
    """x as it is; in the backward the loss given gets a gradient of 1, as if it were added to what x leads to."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, dx: Tensor) -> tuple[Tensor, Tensor]:
        return dx, torch.ones_like(*ctx.saved_tensors)


@torch.no_grad()
def top_slots(logits: Tensor, k: int) -> Tensor:
    """The slots of the k largest of logits [..., M] -> [..., k], largest first; of equals, the lowest slot.

    torch.topk does not say which of several equals it keeps, so it is given integers none of which are equal: a
    logit's bits, which as an integer have the order of the logits, and then the slot.

    >>> top_slots(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([1, 0])
    """
    if logits.dtype == torch.float64:  # no integer is wide enough
        return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    bits = (logits.float() + 0.0).view(torch.int32)  # + 0.0: of -0.0 and 0.0 neither is the larger
    rank = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    num_slots = logits.shape[-1]
    return (rank * num_slots - torch.arange(num_slots, device=logits.device)).topk(k).indices


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not _is_size(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if value >= 2**31:
            raise ValueError(f"{name} must be below 2**31, got {value}")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_input(x: Tensor, d_model: int) -> None:
    if x.ndim != 3 or x.shape[-1] != d_model:
        raise ValueError(f"x needs shape [B, T, {d_model}], got {[*x.shape]}")


def _check_one_token(x: Tensor) -> None:
    if x.ndim == 3 and x.shape[1] != 1:
        raise ValueError(f"step_ takes one token, x [B, 1, d_model], got {[*x.shape]}")


def _pair(state: tuple, second: type | tuple[type, ...], what: str) -> tuple:
    """The state as a pair of a tensor and something of the second type, or a TypeError."""
    pair = isinstance(state, (tuple, list)) and len(state) == 2
    if not (pair and isinstance(state[0], Tensor) and isinstance(state[1], second)):
        raise TypeError(f"state must be the pair that this mixer returned, {what}, got {_described(state)}")
    return tuple(state)


def _described(state: object) -> str:
    name = type(state).__name__
    return f"a {name} of {', '.join(type(v).__name__ for v in state)}" if isinstance(state, (tuple, list)) else name


def _check_state(got: tuple[int, ...], needs: tuple[int, ...], batch: int = 0) -> None:
    """Two shapes that must be the same; `batch` says where the size of the batch stands."""
    if len(got) == len(needs) and got[batch] != needs[batch]:
        raise ValueError(f"state holds a batch of {got[batch]}, but x has {needs[batch]}")
    if got != needs:
        raise ValueError(f"state needs a tensor of shape {[*needs]} here, got {[*got]}")

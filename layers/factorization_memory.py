"""The layer of Factorization Memory, dense and sparse, around the memory of fast.factorization_memory."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast
from fast.backends import DENSE_BACKENDS, SPARSE_BACKENDS
from fast.validation import one_of
from layers.mixer import Mixer, RecurrentMixer, wide
from layers.options import MixerConfig, check_not_negative, check_positive, check_sizes, is_size, option
from layers.router import Routing, route
from layers.short_convolution import ShortConvolution, check_conv

RATES = ("token", "slot")


@dataclass(frozen=True)
class DenseConfig(MixerConfig):
    """Every token writes to all M slots. The slot width D is slot_width, or else expansion * d_model.

    rates: one eta and one mu per "token" or per "slot". backend goes to fast.factorization_memory.

    For experiments, in training only: router_noise is the standard deviation of Gaussian noise on the logits over tau;
    balance the weight of an auxiliary loss per layer, 1 where all slots are used alike and more where a few are
    preferred (`layers.router.balance_loss`, arXiv 2101.03961, eq. 4).

    Two options that Mamba-2's block has, off by default: conv, the width of a short causal convolution, followed
    by SiLU, over the value W_in x; and gate, which makes y into norm(y * silu(W_z x)) before the gain.
    """

    num_slots: int = option(64, "memory slots a layer", flag="slots")
    temperature: float = option(1.0, "temperature of the router", flag="tau")
    rates: str = option("token", "update and merge rates for each", choices=RATES)
    expansion: int | None = option(None, "slot width over the model's")  # None: 1, unless slot_width is given
    conv: int = option(0, "width of the short convolution, 0 for none")
    gate: bool = option(False, "the output gate")
    router_noise: float = option(0.0, "standard deviation of noise on the router's logits in training")
    balance: float = option(0.0, "weight of a loss that evens out the use of slots")
    backend: str = option("auto", "how the memory is computed", choices=SPARSE_BACKENDS)
    slot_width: int | None = None

    top_k: ClassVar[int | None] = None
    backends: ClassVar[tuple[str, ...]] = DENSE_BACKENDS

    def __post_init__(self) -> None:
        if self.slot_width is not None and self.expansion is not None:
            raise ValueError(f"slot_width or expansion, not both: got {self.slot_width} and {self.expansion}")
        if self.slot_width is None and self.expansion is None:
            object.__setattr__(self, "expansion", 1)
        check_sizes(num_slots=self.num_slots)
        for name, size in (("expansion", self.expansion), ("slot_width", self.slot_width)):
            if size is not None:
                check_sizes(**{name: size})
        check_positive(temperature=self.temperature)
        check_not_negative(router_noise=self.router_noise, balance=self.balance)
        if not isinstance(self.gate, bool):
            raise ValueError(f"gate must be True or False, got {self.gate!r}")
        check_conv(self.conv)
        one_of("rates", self.rates, RATES)
        one_of("backend", self.backend, self.backends)

    def width(self, d_model: int) -> int:
        """D, the numbers of a slot."""
        return (self.expansion or 1) * d_model if self.slot_width is None else self.slot_width

    def check_width(self, d_model: int) -> None:
        check_sizes(slot_width=self.width(d_model))


@dataclass(frozen=True)
class SparseConfig(DenseConfig):
    """A token writes to the top_k slots of the largest affinity, whose affinities are divided by their sum."""

    top_k: int = option(None, "slots a token uses", shown="a quarter of the slots")

    backends: ClassVar[tuple[str, ...]] = SPARSE_BACKENDS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k is None:
            object.__setattr__(self, "top_k", max(1, self.num_slots // 4))
        if not (is_size(self.top_k) and self.top_k <= self.num_slots):
            raise ValueError(f"top_k must be None or lie in [1, num_slots = {self.num_slots}], got {self.top_k!r}")


class Inputs(NamedTuple):
    """What the memory is given."""

    routing: Routing
    value: Tensor  # W_in x [B, T, D], after the convolution


class FactorizationMemory(RecurrentMixer):
    """The layer of arXiv 2511.00315; reference/layer.py is the same without conv and gate, as a loop.

        alpha = softmax(W_alpha x / tau)   eta, mu = sigmoid(W_eta x + b_eta), sigmoid(W_mu x + b_mu)
        theta, phi = eta alpha, mu alpha   y = memory(theta, phi, W_in x)   out = W_out (g * y)

    eps goes to the memory, and to the norm of the gate.
    """

    def __init__(self, d_model: int, config: DenseConfig | None = None, *, eps: float = 1e-6):
        super().__init__()
        config = DenseConfig() if config is None else config
        check_sizes(d_model=d_model)
        check_positive(eps=eps)
        config.check_width(d_model)
        self.d_model, self.num_slots, self.slot_width = d_model, config.num_slots, config.width(d_model)
        self.top_k, self.temperature, self.backend, self.eps = config.top_k, config.temperature, config.backend, eps
        self.router_noise, self.balance = config.router_noise, config.balance
        self.memory_shape = (self.num_slots, self.slot_width)
        num_rates = 1 if config.rates == "token" else self.num_slots
        self.sizes = [self.slot_width, self.num_slots, 2 * num_rates, self.slot_width if config.gate else 0]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)  # W_in, W_alpha, W_eta and W_mu, W_z
        self.rate_bias = nn.Parameter(torch.zeros(2, num_rates))  # b_eta, b_mu
        self.conv = ShortConvolution(self.slot_width, config.conv)
        self.gain = nn.Parameter(torch.ones(self.slot_width))  # g
        self.out_proj = nn.Linear(self.slot_width, d_model, bias=False)  # W_out
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
        """x -> the value W_in x, the router's logits over tau, (eta, mu), W_z x."""
        value, logits, rates, z = self.in_proj(x).split(self.sizes, -1)
        logits, rates = (v.to(wide(v.dtype)) for v in (logits, rates))
        eta, mu = (rates + self.rate_bias.flatten()).sigmoid().chunk(2, -1)
        return value, logits / self.temperature, (eta, mu), z

    def _route(self, logits: Tensor, rates: tuple[Tensor, Tensor]) -> Routing:
        noise, balance = (self.router_noise, self.balance) if self.training else (0.0, 0.0)
        return route(logits, rates, self.top_k, noise=noise, balance=balance)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[Inputs, Tensor, Tensor]:
        value, logits, rates, z = self._split(x)
        value, tail = self.conv(value, tail)
        if self.conv.width:
            value = F.silu(value)
        return Inputs(self._route(logits, rates), value), z, tail

    def _scan(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, slots), value = inputs
        how = {"eps": self.eps, "backend": self.backend}
        if slots is None:
            return fast.factorization_memory(theta, phi, value, memory, **how)
        how["check_values"] = False  # top_slots names slots that exist, each once
        return fast.sparse_factorization_memory(theta, phi, slots, value, self.num_slots, memory, **how)

    def _scan_step_(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, slots), value = inputs.routing.at(0), inputs.value[:, 0]
        if slots is None:
            return fast.step_(theta, phi, value, memory, eps=self.eps)
        return fast.sparse_step_(theta, phi, slots, value, memory, eps=self.eps, check_values=False)

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        if not self.sizes[-1]:
            return self.out_proj(y * self.gain)
        return self.out_proj(F.rms_norm(y * F.silu(z), self.gain.shape, self.gain, self.eps))


_MODEL = {"num_slots": 32, "expansion": 2, "conv": 4, "gate": True}
ROWS = (
    Mixer("fm", "FM (dense)", FactorizationMemory, DenseConfig, mlp_width=160, defaults=_MODEL),
    Mixer("fm-sparse", "FM (sparse)", FactorizationMemory, SparseConfig, mlp_width=160, defaults=_MODEL),
)

"""Layers that are Factorization Memory but for one thing, which shows what that thing is good for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast
from layers import FactorizationMemory
from layers.factorization_memory import DenseConfig, Inputs
from layers.router import Routing

FLAT = 1e12  # an eps beside which |h|^2 / D is nothing


class NoUpdateRate(FactorizationMemory):
    """theta = alpha: eta is 1, so every token writes all that it can."""

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        value, logits, (eta, mu), z = super()._split(x)
        return value, logits, (torch.ones_like(eta), mu), z


class NoMergeRate(FactorizationMemory):
    """phi = alpha: mu is 1."""

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        value, logits, (eta, mu), z = super()._split(x)
        return value, logits, (eta, torch.ones_like(mu)), z


class TwoRouters(FactorizationMemory):
    """phi has an affinity of its own, of a second router."""

    def __init__(self, d_model: int, config: DenseConfig | None = None, *, eps: float = 1e-6):
        super().__init__(d_model, config, eps=eps)
        self.read_router = nn.Linear(d_model, self.num_slots, bias=False)
        nn.init.normal_(self.read_router.weight, std=(3 / d_model) ** 0.5)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        value, logits, rates, z = super()._split(x)
        return value, torch.cat([logits, self.read_router(x).to(logits.dtype) / self.temperature], -1), rates, z

    def _route(self, logits: Tensor, rates: tuple[Tensor, Tensor]) -> Routing:
        write, read = logits.chunk(2, -1)
        return Routing(rates[0] * write.softmax(-1), rates[1] * read.softmax(-1), None)


class NoNorm(FactorizationMemory):
    """y = sum_i phi[i] h[i]: slots are read as they are. rms(v) is the root of eps where eps is FLAT."""

    def _scan(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, _), value = inputs
        y, memory = fast.factorization_memory(theta, phi, value, memory, eps=FLAT, backend=self.backend)
        return FLAT**0.5 * y, memory

    def _scan_step_(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, _), value = inputs.routing.at(0), inputs.value[:, 0]
        y, memory = fast.step_(theta, phi, value, memory, eps=FLAT)
        return FLAT**0.5 * y, memory


class NoGateNorm(FactorizationMemory):
    """out = W_out (g * y * silu(z)): the gate multiplies what is read, and no norm follows."""

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(y * F.silu(z) * self.gain)

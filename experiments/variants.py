"""Layers with one thing changed, which shows what that thing is good for: Factorization Memory, and once Mamba-2."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast
from layers import FactorizationMemory, Mamba2, Mamba2Config
from layers.factorization_memory import DenseConfig, Inputs
from layers.router import Routing

FLAT = 1e12  # an eps beside which |h|^2 / D is nothing
TILE = 8  # tokens; larger tiles do more work, smaller ones are more of them


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


class _Tiled(FactorizationMemory):
    """A memory whose slots are divided by sizes of their own, by matrix products over tiles of tokens.

    A subclass says by what the slots are divided: `_size`. It may scale what each slot is written with.
    """

    def _size(self, squares: Tensor, dim: int) -> Tensor:
        """Sums of squares over each slot's numbers, slots along dim -> what each slot is divided by."""
        raise NotImplementedError

    def _scan(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, _), value = inputs
        length = value.shape[1]

        def tiles(x: Tensor) -> Tensor:  # [B, T, N] -> [B, tiles, TILE, N]; tokens beyond the end write nothing
            return F.pad(x, (0, 0, 0, -length % TILE)).unflatten(1, (-1, TILE))

        theta, phi, value = tiles(theta).mT, tiles(phi).mT, tiles(value)
        decays = torch.log1p(-theta.clamp(max=1 - 1e-7)).cumsum(-1)  # [B, tiles, M, t]
        later = torch.ones(TILE, TILE, dtype=torch.bool, device=theta.device).triu(1)
        weights = (decays[..., None] - decays[..., None, :]).masked_fill(later, -torch.inf).exp() * theta[..., None, :]
        starts, states = decays.exp(), [memory]  # weights [B, tiles, M, t, s]: of what s wrote, what is left at t
        written = weights[..., -1, :] @ value
        for start, new in zip(starts[..., -1:].unbind(1), written.unbind(1), strict=True):
            states.append(start * states[-1] + new)
        before = self._scaled(torch.stack(states[:-1], 1))  # [B, tiles, M, D]

        products = self._scaled(before) @ value.mT  # of the memory before, with the values as a slot takes them
        squares = starts.square() * before.square().sum(-1, keepdim=True)
        squares = squares + 2 * starts * (weights @ products[..., None])[..., 0]
        squares = squares + ((weights @ self._gram(value)) * weights).sum(-1)
        phi = phi / self._size(squares.clamp(min=0), 2)
        y = (phi * starts).mT @ before + self._read(phi[..., None] * weights, value)
        return y.flatten(1, 2)[:, :length], states[-1]

    def _scaled(self, slots: Tensor) -> Tensor:
        """Slots [..., M, D] as they are if each is written with a scale of its own."""
        return slots

    def _gram(self, value: Tensor) -> Tensor:
        """Products of the values of a tile [B, tiles, s, D], as each slot takes them: [B, tiles, M or 1, s, s]."""
        return (value @ value.mT)[:, :, None]

    def _read(self, weights: Tensor, value: Tensor) -> Tensor:
        """The sum over slots and s of weights [B, tiles, M, t, s] by values, as each slot takes them."""
        return weights.sum(2) @ value

    def _scan_step_(self, inputs: Inputs, memory: Tensor) -> tuple[Tensor, Tensor]:
        (theta, phi, _), value = inputs.routing.at(0), inputs.value[:, 0]
        slots = self._scaled(memory.add_(theta[..., None] * (value[:, None] - memory)))
        return ((phi / self._size(slots.square().sum(-1), 1))[:, None] @ slots)[:, 0], memory


class OneNorm(_Tiled):
    """y = sum_i phi[i] h[i] / rms(h): one norm over the M D numbers of the state, not one for each slot."""

    def _size(self, squares: Tensor, dim: int) -> Tensor:
        return (squares.sum(dim, keepdim=True) / (self.num_slots * self.slot_width) + self.eps).sqrt()


class ValuePerSlot(_Tiled):
    """Slot i is written with scale[i] * value: D factors of its own, which are learned and begin at random."""

    def __init__(self, d_model: int, config: DenseConfig | None = None, *, eps: float = 1e-6):
        super().__init__(d_model, config, eps=eps)
        self.scale = nn.Parameter(1 + torch.randn(self.memory_shape) / 2)

    def _size(self, squares: Tensor, dim: int) -> Tensor:
        return (squares / self.slot_width + self.eps).sqrt()

    def _scaled(self, slots: Tensor) -> Tensor:
        return slots * self.scale

    def _gram(self, value: Tensor) -> Tensor:
        return ((value[..., None, :] * value[..., None, :, :]) @ self.scale.square().mT).movedim(-1, 2)

    def _read(self, weights: Tensor, value: Tensor) -> Tensor:
        return (weights.movedim(2, -1) @ self.scale * value[:, :, None]).sum(-2)


class LongDt(Mamba2):
    """Mamba-2 whose dt is log-uniform in [0.00001, 0.1] at first, where the input is 0: its authors begin at 0.001.

    A head of the smallest dt with A = -1 has forgotten half after 69,000 tokens, and not after 693.
    """

    def __init__(self, d_model: int, config: Mamba2Config | None = None, *, eps: float = 1e-6):
        super().__init__(d_model, config, eps=eps)
        dt = torch.empty_like(self.dt_bias).uniform_(math.log(1e-5), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt

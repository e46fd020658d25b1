"""One call of a kernel; which calls an option allows; the fixed cases, by name, in few shapes."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, pairwise

import numpy as np
import torch
from torch import Tensor

import reference

FORMS = ("dense", "sparse", "step")
EXACT = (torch.float32, torch.float64)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FLOATING = ("theta", "phi", "value", "initial_state")
LAYOUTS = ("contiguous", "transposed", "gaps", "same in time", "same in batch", "same in all")


@dataclass(frozen=True)
class Case:
    """The arguments of one call; slots and num_slots are None in the dense form."""

    theta: Tensor
    phi: Tensor
    value: Tensor
    initial_state: Tensor | None
    eps: float = 1e-6
    slots: Tensor | None = None
    num_slots: int | None = None
    made_of: dict = field(default_factory=dict)
    cu_seqlens: Tensor | None = None  # packed sequences: their bounds, B = 1

    def __repr__(self) -> str:
        return f"Case({', '.join(f'{name}={value}' for name, value in self.made_of.items())})"

    def _repr_pretty_(self, printer, cycle) -> None:  # what hypothesis prints of a failing case
        printer.text(repr(self))

    def call(self, module, **options) -> tuple[Tensor, Tensor]:
        """The whole-sequence function of `fast`, `fast.chunked` or `reference`."""
        options = {"eps": self.eps, **options}
        if self.slots is None:
            return module.factorization_memory(self.theta, self.phi, self.value, self.initial_state, **options)
        return module.sparse_factorization_memory(
            self.theta, self.phi, self.slots, self.value, self.num_slots, self.initial_state, **options
        )

    def floating(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in FLOATING if getattr(self, name) is not None}

    def map(self, function) -> "Case":
        """function applied to every floating tensor."""
        return replace(self, **{name: function(value) for name, value in self.floating().items()})

    def copy(self) -> "Case":
        """The same numbers in memory of its own, laid out alike."""
        return self.map(_copy)

    def double(self) -> "Case":
        return self.map(Tensor.double)

    def state_shape(self) -> tuple[int, int, int]:
        sequences = len(self.value) if self.cu_seqlens is None else len(self.cu_seqlens) - 1
        return sequences, self.num_slots or self.theta.shape[-1], self.value.shape[-1]

    def start(self) -> Tensor:
        """The state before the first token, in the dtype of the final one."""
        wide = any(v.dtype == torch.float64 for v in self.floating().values())
        state = self.initial_state if self.initial_state is not None else torch.zeros(self.state_shape())
        return state.to(torch.float64 if wide else torch.float32)

    def pick(self, time=slice(None), batch=slice(None), initial_state: Tensor | None = None) -> "Case":
        """Some tokens of some sequences, from another state."""
        tokens = {name: getattr(self, name)[batch, time] for name in ("theta", "phi", "value")}
        slots = None if self.slots is None else self.slots[batch, time]
        return replace(self, **tokens, slots=slots, initial_state=initial_state)

    def dense(self) -> "Case":
        """The dense case a sparse one stands for."""
        if self.slots is None:
            return self
        shape = *self.value.shape[:2], self.num_slots
        theta, phi = (v.new_zeros(shape).scatter(-1, self.slots.long(), v) for v in (self.theta, self.phi))
        return replace(self, theta=theta, phi=phi, slots=None, num_slots=None)

    def unpacked(self) -> list["Case"]:
        """The sequences of a packed case, each with its part of the state."""
        bounds, state = self.cu_seqlens.tolist(), self.initial_state
        return [
            replace(self.pick(slice(*ends), initial_state=None if state is None else state[i : i + 1]), cu_seqlens=None)
            for i, ends in enumerate(pairwise(bounds))
        ]


def _copy(v: Tensor) -> Tensor:
    storage = v.untyped_storage().clone()
    return torch.empty(0, dtype=v.dtype).set_(storage, v.storage_offset(), v.shape, v.stride())


def lay_out(v: Tensor, layout: str) -> Tensor:
    """The values of v (or, expanded, some of them) in another arrangement of memory."""
    match layout:
        case "transposed":
            return v.transpose(0, 1).contiguous().transpose(0, 1)
        case "gaps":
            return torch.stack([v, torch.full_like(v, torch.nan)], -1)[..., 0]
        case "same in time":
            return v[:, :1].expand_as(v)
        case "same in batch":
            return v[:1].expand_as(v)
        case "same in all":
            return v[..., :1].expand_as(v)
    return v


def loop(case: Case) -> tuple[Tensor, Tensor]:
    """What is right."""
    if case.cu_seqlens is None:
        return case.call(reference)
    ys, states = zip(*map(loop, case.unpacked()), strict=True)
    return torch.cat(ys, 1), torch.cat(states)


def gradients(case: Case, way: Callable, on_y: Tensor, on_state: Tensor) -> dict[str, Tensor]:
    """Results of way(case) and gradients of <y, on_y> + <final state, on_state>, by name."""
    leaves = case.map(lambda v: v.detach().requires_grad_())
    y, state = way(leaves)
    loss = (y * on_y.to(y.dtype)).sum() + (state * on_state.to(state.dtype)).sum()
    loss = loss + 0 * leaves.value.sum()  # without tokens the loop's results depend on nothing
    floating = leaves.floating()
    grads = torch.autograd.grad(loss, floating.values(), materialize_grads=True)
    return {
        "y": y.detach(),
        "final state": state.detach(),
        **{f"d{n}": g for n, g in zip(floating, grads, strict=True)},
    }


class Sizes:
    """What a size may be: "64*n", "1..512", "16,32,64", or several of these with commas.

    >>> allowed = Sizes("64*n")
    >>> 128 in allowed, 100 in allowed, allowed.nearest(100), allowed.nearest(1)
    (True, False, 128, 64)
    >>> Sizes("1..512").nearest(600)
    512
    """

    def __init__(self, text: str) -> None:
        self.text, self.parts = text, []
        try:
            for part in text.split(","):
                if part.strip().endswith("*n"):
                    step = int(part.strip()[:-2])
                    self.parts.append(range(step, 1_000_001, step))
                else:
                    first, dots, last = part.partition("..")
                    self.parts.append(range(int(first), int(last if dots else first) + 1))
        except ValueError:
            raise ValueError(f"sizes must be like 64*n, 1..512 or 16,32,64, got {text!r}") from None
        if not any(self.parts):
            raise ValueError(f"sizes must allow at least one, got {text!r}")

    def __contains__(self, size: int) -> bool:
        return any(size in part for part in self.parts)

    def __eq__(self, other) -> bool:
        return isinstance(other, Sizes) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def nearest(self, size: int) -> int:
        """The allowed size next to this one, the larger of two."""
        return next(n for off in count() for n in (size + off, size - off) if n in self)


ANY_LENGTH, ANY_SIZE = Sizes("0..1000000"), Sizes("1..1000000")


@dataclass(frozen=True)
class Limits:
    """What a kernel says that it computes."""

    form: str = "dense"
    dtypes: tuple[torch.dtype, ...] = tuple(DTYPES.values())
    lengths: Sizes = ANY_LENGTH
    widths: Sizes = ANY_SIZE
    slots: Sizes = ANY_SIZE
    packed: bool = False


@dataclass(frozen=True, eq=False)
class Fixed:
    """A case by name. kind is what is special about it. on_y and on_state are the gradients that come back."""

    name: str
    kind: str
    case: Case
    on_y: Tensor
    on_state: Tensor


@cache
def fixed_cases(limits: Limits) -> tuple[Fixed, ...]:
    """The cases of a form within limits. A size that is not allowed becomes the nearest that is."""
    found: dict[tuple, Fixed] = {}
    for fixed in _SETS[limits.form](_Maker(limits)):
        shape = *fixed.case.value.shape, *fixed.case.theta.shape, fixed.case.num_slots
        key = (fixed.kind, shape) if fixed.kind in ("length", "width", "slots") else (fixed.name,)
        found.setdefault(key, fixed)
    return tuple(found.values())


class _Maker:
    """Makes cases in float64 by NumPy, from a seed that is the name's, and rounds them to their dtype."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.dtype = torch.float32 if torch.float32 in limits.dtypes else limits.dtypes[0]

    def length(self, T: int) -> int:
        return self.limits.lengths.nearest(T)

    def make(
        self, name: str, kind: str, T: int = 33, *, B: int = 2, M: int = 3, D: int = 8, K: int | None = None,
        theta: Callable | None = None, scale: float = 1.0, dtype: torch.dtype | None = None,
        gate_dtype: torch.dtype | None = None, route: Callable | None = None, layout: str = "contiguous",
        eps: float = 1e-6, state: bool = True, grads: tuple[float, float] = (1.0, 1.0), cuts: list[int] | None = None,
    ) -> Fixed:  # fmt: skip
        """theta: a function of (uniform numbers [B, T, M or K], the generator). grads: how y and the state count."""
        dtype, limits = dtype or self.dtype, self.limits
        T, M, D = limits.lengths.nearest(T), limits.slots.nearest(M), limits.widths.nearest(D)
        K = None if K is None else min(K, M)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = B, T, K or M
        pace = np.array([1.0, 0.3, 0.03])[np.arange(K or M) % 3]  # slots that forget fast and slowly
        gates, phi = rng.random(shape) * pace, rng.random(shape)
        gates = gates if theta is None else theta(gates, rng)
        value, start = scale * rng.standard_normal((B, T, D)), scale * rng.standard_normal((B, M, D))
        slots = None
        if K is not None:
            slots = rng.random((B, T, M)).argsort(-1)[..., :K] if route is None else route(B, T, M, K)
            slots = torch.from_numpy(np.ascontiguousarray(slots))
        sequences, cu_seqlens = B, None
        if cuts is not None:
            cu_seqlens, sequences = torch.tensor(cuts), len(cuts) - 1
            start = scale * rng.standard_normal((sequences, M, D))
        state_dtype = torch.promote_types(dtype, torch.float32)
        theta_, phi_ = (lay_out(torch.from_numpy(v).to(gate_dtype or dtype), layout) for v in (gates, phi))
        value_ = lay_out(torch.from_numpy(value).to(dtype), layout)
        start_ = lay_out(torch.from_numpy(start).to(state_dtype), layout) if state else None
        on_y = torch.from_numpy(grads[0] * rng.standard_normal((B, T, D))).to(dtype)
        on_state = torch.from_numpy(grads[1] * rng.standard_normal((sequences, M, D))).to(state_dtype)
        case = Case(theta_, phi_, value_, start_, eps, slots, None if K is None else M, {"name": name}, cu_seqlens)
        return Fixed(name, kind, case, on_y, on_state)


LENGTHS = (0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)  # C k - 1, C k, C k + 1 for C of 16 to 128


def _lengths(maker: _Maker, lengths: tuple[int, ...], **how) -> Iterator[Fixed]:
    for T in sorted({maker.length(T) for T in lengths}):
        yield maker.make(f"length {T}", "length", T, **how)


def _widths(maker: _Maker, **how) -> Iterator[Fixed]:
    for D in sorted({maker.limits.widths.nearest(D) for D in (1, 8, 100, 128, 257)}):
        yield maker.make(f"width {D}", "width", 17, D=D, **how)


def _dtypes(maker: _Maker, T: int, **how) -> Iterator[Fixed]:
    for name, dtype in DTYPES.items():
        if dtype in maker.limits.dtypes and dtype != maker.dtype:
            yield maker.make(name, "dtype", T, dtype=dtype, **how)
            if dtype != torch.float64:
                yield maker.make(f"{name}, theta / 100", "dtype", T, dtype=dtype, theta=_over(100), **how)
    if torch.bfloat16 in maker.limits.dtypes and torch.float32 in maker.limits.dtypes:
        both = {"dtype": torch.bfloat16, "gate_dtype": torch.float32}
        yield maker.make("bfloat16 value, float32 gates", "dtype", T, **both, **how)


def _over(divisor: float) -> Callable:
    return lambda theta, rng: theta / divisor


def _all(number: float) -> Callable:
    return lambda theta, rng: np.full_like(theta, number)


def _among(*numbers: float) -> Callable:
    """A third of the gates become one of the numbers."""
    return lambda theta, rng: np.where(rng.random(theta.shape) < 1 / 3, rng.choice(numbers, theta.shape), theta)


def _values(maker: _Maker, T: int, **how) -> Iterator[Fixed]:
    """What numbers may be: gates at their ends, sizes of values, eps."""
    make = maker.make
    yield make("theta 0 and 1 among others", "theta 0 or 1", T, theta=_among(0, 1), **how)
    yield make("theta 0", "theta 0 or 1", T, theta=_all(0.0), **how)
    yield make("theta 1", "theta 0 or 1", T, theta=_all(1.0), **how)
    if maker.dtype in (torch.float32, torch.float64):
        yield make("theta next to 1", "theta next to 1", T, theta=_among(1 - 2**-24), **how)
        yield make("theta denormal", "theta denormal", T, theta=_among(1e-40), **how)
    yield make("theta / 1000", "small theta", 129, theta=_over(1000), **how)
    for text, scale in (("values * 10,000", 1e4), ("values / 10,000", 1e-4)):
        yield make(text, "size of values", T, scale=scale, **how)
    yield make("eps 0.1", "eps", T, eps=0.1, **how)
    yield make("eps 1e-12", "eps", T, eps=1e-12, scale=1e-5, **how)
    yield make("gradient of y alone", "gradient", T, grads=(1.0, 0.0), **how)
    yield make("gradient of the final state alone", "gradient", T, grads=(0.0, 1.0), **how)


def _calls(maker: _Maker, T: int, **how) -> Iterator[Fixed]:
    """How a caller may call."""
    make = maker.make
    yield make("no state given", "no state", T, state=False, **how)
    yield make("one sequence", "batch", T, B=1, **how)
    yield make("three sequences", "batch", T, B=3, **how)
    for layout in ("transposed", "gaps", "same in time"):
        yield make(f"strides: {layout}", "strides", T, layout=layout, **how)
    if maker.limits.packed:
        all_tokens = maker.length(80)
        cuts = [0, 0, *(all_tokens * share // 80 for share in (7, 24, 24, 72)), all_tokens]
        yield make("packed sequences", "packed", all_tokens, B=1, cuts=cuts, **how)
        yield make("packed, one sequence", "packed", 33, B=1, cuts=[0, maker.length(33)], **how)


def _cancels(maker: _Maker) -> Fixed:
    """Every second token takes all slots back to nearly 0. |h|^2 from inner products may then come out below 0."""
    fixed = maker.make("a slot that cancels", "cancels", 17, M=37, eps=1e-30)
    case = fixed.case
    B, T, M = case.theta.shape
    ratio = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2.0, (B, T, 1)))
    writes = (torch.arange(T) % 2 == 0)[:, None]  # all of a value; the next token gives way to its opposite
    theta = torch.where(writes, 1.0, 1 / (1 + ratio) * (1 + 2**-23 * torch.arange(M))).to(case.theta.dtype)
    value = torch.where(writes, case.value, -ratio * case.value.roll(1, 1)).to(case.value.dtype)
    return replace(fixed, case=replace(case, theta=theta, value=value))


def _dense(maker: _Maker) -> Iterator[Fixed]:
    yield from _lengths(maker, LENGTHS)
    yield from _widths(maker)
    for M in sorted({maker.limits.slots.nearest(M) for M in (1, 3, 37, 128)}):
        yield maker.make(f"slots {M}", "slots", 17, M=M)
    yield maker.make("many slots and columns", "large", 65, M=37, D=100)
    yield from _values(maker, 33)
    yield _cancels(maker)
    yield from _calls(maker, 33)
    yield from _dtypes(maker, 129)


ALL = 1 << 30  # slots a token: M, whatever M is allowed


def _sparse(maker: _Maker) -> Iterator[Fixed]:
    make = maker.make
    yield from _lengths(maker, LENGTHS, M=37, K=3)
    yield from _widths(maker, M=37, K=3)
    for M in sorted({maker.limits.slots.nearest(M) for M in (1, 37, 128, 300)}):
        yield make(f"slots {M}", "slots", 17, M=M, K=3)
    yield make("many slots and columns", "large", 65, M=128, D=100, K=8)
    yield make("K = 1", "K = 1", 33, M=37, K=1)
    yield make("K = M, in order", "K = M", 33, M=5, K=ALL, route=lambda B, T, M, K: np.tile(np.arange(M), (B, T, 1)))
    yield make("K = M, in no order", "K = M", 33, M=5, K=ALL)
    yield make("slots in order", "in order", 33, M=37, K=3, route=_in_order)
    yield make("one slot takes all", "one slot", 33, M=37, K=1, route=lambda B, T, M, K: np.full((B, T, K), M // 2))
    yield make("the same slots for every token", "one slot", 33, M=37, K=3, route=_same)
    yield from _values(maker, 33, M=37, K=3)
    yield from _calls(maker, 33, M=37, K=3)
    yield from _dtypes(maker, 129, M=37, K=3)


def _in_order(B: int, T: int, M: int, K: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).random((B, T, M)).argsort(-1)[..., :K], -1)


def _same(B: int, T: int, M: int, K: int) -> np.ndarray:
    return np.tile(np.arange(M)[::-1][:K], (B, T, 1))


def _step(maker: _Maker) -> Iterator[Fixed]:
    """A step is called for every token, so what a length tells is how errors pile up."""
    yield from _lengths(maker, (1, 2, 17, 65))
    yield from _widths(maker)
    for M in sorted({maker.limits.slots.nearest(M) for M in (1, 3, 37, 128)}):
        yield maker.make(f"slots {M}", "slots", 17, M=M)
    yield from _values(maker, 17)
    yield from (fixed for fixed in _calls(maker, 17) if fixed.kind in ("batch", "strides"))
    yield from _dtypes(maker, 65)


_SETS = {"dense": _dense, "sparse": _sparse, "step": _step}

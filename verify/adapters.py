"""A user's function, over arrays of any library, as a function of a Case that torch can differentiate."""

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from verify.cases import ANY_LENGTH, Case, Sizes, loop

LIBRARIES = ("jax", "torch", "numpy")  # in doubt the first that a function names
ARGUMENTS = {
    "dense": ("theta", "phi", "value", "initial_state", "eps"),
    "sparse": ("theta", "phi", "slots", "value", "num_slots", "initial_state", "eps"),
    "step": ("theta", "phi", "value", "state", "eps"),
}


class CannotRun(Exception):
    """Nothing can be said of the kernel, for a reason of one sentence."""


def load(name: str) -> Callable:
    """The function that "module:function" names."""
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise CannotRun(f"a kernel must be named module:function, got {name!r}")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise CannotRun(f"{module} cannot be imported: {type(error).__name__}: {error}") from None
    for part in function.split("."):
        if not hasattr(found, part):
            raise CannotRun(f"{module} has no {function}")
        found = getattr(found, part)
    if not callable(found):
        raise CannotRun(f"{name} cannot be called: it is a {type(found).__name__}")
    return found


class Kernel:
    """The function of a user: call it with a Case, and it gives y and the final state as torch tensors.

    Gradients are torch's where the function is torch's, jax.vjp's where it is JAX's, or those of vjp:
    vjp(the arguments of the function ..., dy, dfinal_state) -> dtheta, dphi, dvalue, dinitial_state.
    A function without a state (state=False) gives y alone; it is lent the loop's final state.
    """

    def __init__(
        self, function: Callable, form: str = "dense", *, vjp: Callable | None = None, arrays: str | None = None,
        state: bool = True, device: str = "cpu", lengths: Sizes = ANY_LENGTH,
    ) -> None:  # fmt: skip
        self.function, self.form, self.vjp, self.state, self.device = function, form, vjp, state, device
        self.arrays = arrays or library_of(function)
        self.parameters = _parameters(function)
        _check_parameters(self.parameters, form)
        self.start_may_be_none = form != "step" and _default_start(self.parameters, form) is None
        self.differentiable = vjp is not None or self.arrays in ("torch", "jax")
        self.library, self.lengths = Library(self.arrays, device), lengths

    def __call__(self, case: Case, *, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        cu_seqlens = case.cu_seqlens if cu_seqlens is None else cu_seqlens
        run = self._steps if self.form == "step" else self._sequence
        y, state = run(case, cu_seqlens)
        return y, (loop(case)[1] if state is None else state)

    def _sequence(self, case: Case, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        arguments = {name: getattr(case, name) for name in ARGUMENTS[self.form]}
        if arguments["initial_state"] is None and not self.start_may_be_none:
            sequences = len(case.value) if cu_seqlens is None else len(cu_seqlens) - 1
            arguments["initial_state"] = case.start().new_zeros(sequences, *case.state_shape()[1:])
        if cu_seqlens is not None:
            arguments["cu_seqlens"] = cu_seqlens
        return self._call(arguments)

    def _steps(self, case: Case, _: None) -> tuple[Tensor, Tensor | None]:
        state, ys = case.start(), []
        for t in range(case.value.shape[1]):
            tokens = {name: getattr(case, name)[:, t] for name in ("theta", "phi", "value")}
            y, state = self._call({**tokens, "state": state, "eps": case.eps})
            ys.append(y)
        return (torch.stack(ys, 1) if ys else case.value), state

    def _call(self, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        if self.arrays == "torch" and self.vjp is None:
            here = {n: v.to(self.device) if isinstance(v, Tensor) else v for n, v in arguments.items()}
            y, state = self.results(self.invoke(self.function, here))
            return y.cpu(), (None if state is None else state.cpu())
        names = [name for name, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point()]
        y, state = _Bridge.apply(self, arguments, names, *(arguments[name] for name in names))
        return y, (state if self.state else None)

    def invoke(self, function: Callable, arguments: dict[str, Any], *more) -> Any:
        """function with the arguments by name where its signature has the names, else in order; then more."""
        parameters = self.parameters if function is self.function else _parameters(function)
        named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not more and {*arguments} <= named:
            return function(**arguments)
        apart = {n for n, p in parameters.items() if p.kind == p.KEYWORD_ONLY} | {"cu_seqlens"}
        by_name = {n: v for n, v in arguments.items() if n in apart}
        return function(*(v for n, v in arguments.items() if n not in apart), *more, **by_name)

    def results(self, out: Any) -> tuple[Any, Any]:
        """y and the final state."""
        if not self.state:
            return (out[0] if isinstance(out, (tuple, list)) else out), None
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            got = f"{len(out)} of them" if isinstance(out, (tuple, list)) else type(out).__name__
            raise TypeError(f"there must be two results, y and the final state (or --no-state), got {got}")
        for name, v in zip(("y", "the final state"), out, strict=True):
            if not hasattr(v, "shape"):
                raise TypeError(f"{name} must be an array, got {type(v).__name__}")
        return out[0], out[1]


class Library:
    """Arrays of one library, to and from torch."""

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        try:
            self.module: ModuleType = importlib.import_module({"jax": "jax.numpy"}.get(name, name))
        except ImportError:
            raise CannotRun(f"the arrays of {name} need {name}, which is not installed") from None
        if name not in LIBRARIES and not hasattr(self.module, "from_dlpack"):
            raise CannotRun(f"{name} has no from_dlpack, so its arrays cannot be made from torch's")

    def missing(self, dtype: torch.dtype) -> str | None:
        """Why there are no arrays of this dtype."""
        if self.name == "numpy" and dtype == torch.bfloat16:
            return "NumPy has no bfloat16"
        if self.name == "jax" and dtype == torch.float64:
            import jax

            return None if jax.config.jax_enable_x64 else "jax_enable_x64 is off"
        return None

    def array(self, v: Any) -> Any:
        """v of torch as an array here; anything else as it is."""
        if not isinstance(v, Tensor):
            return v
        v = v.detach()
        if self.name == "numpy":
            return v.numpy()
        v = v.to(self.device)
        if self.name == "torch":
            return v
        if self.name == "jax":
            v = v.int() if v.dtype == torch.int64 and self.missing(torch.float64) else v
            if not v.numel():  # DLPack has no say in empty arrays
                return self.module.zeros(tuple(v.shape), str(v.dtype).removeprefix("torch."))
            return self.module.array(self.module.from_dlpack(v.contiguous()), copy=True)
        return self.module.from_dlpack(v)

    def tensor(self, v: Any) -> Tensor:
        """An array from here as a tensor of torch."""
        if isinstance(v, Tensor):
            return v.detach().cpu()
        if not v.size:
            return torch.empty(tuple(v.shape), dtype=getattr(torch, str(v.dtype)))
        if self.name == "numpy":
            return torch.from_numpy(self.module.array(v))
        return torch.from_dlpack(v).cpu().clone()


class _Bridge(torch.autograd.Function):
    """Out of torch into another library, or to a vjp, and back."""

    @staticmethod
    def forward(ctx, kernel, arguments, names, *leaves):
        library = kernel.library
        arrays = {name: library.array(v) for name, v in arguments.items()}
        ctx.kernel, ctx.arrays, ctx.names, ctx.back = kernel, arrays, names, None
        if kernel.arrays == "jax" and kernel.vjp is None and any(ctx.needs_input_grad):
            import jax

            def of_floating(*floating):
                here = {**arrays, **dict(zip(names, floating, strict=True))}
                out = kernel.results(kernel.invoke(kernel.function, here))
                return out if kernel.state else out[:1]

            out, ctx.back = jax.vjp(of_floating, *(arrays[name] for name in names))
            y, state = out if kernel.state else (*out, None)
        else:
            y, state = kernel.results(kernel.invoke(kernel.function, arrays))
        ctx.out = y, state
        y = library.tensor(y)
        return y, (library.tensor(state) if kernel.state else y.new_zeros(()))

    @staticmethod
    def backward(ctx, dy, dstate):
        kernel, library = ctx.kernel, ctx.kernel.library
        back = [library.array(dy)] + ([library.array(dstate)] if kernel.state else [])
        if ctx.back is not None:
            grads = ctx.back(tuple(back))
        elif kernel.vjp is not None:
            grads = kernel.invoke(kernel.vjp, ctx.arrays, *back)
        else:
            raise TypeError(f"a function of {kernel.arrays} has no gradients: give a vjp, or --no-grad")
        if not isinstance(grads, (tuple, list)) or len(grads) not in (len(ctx.names), 4):
            got = len(grads) if isinstance(grads, (tuple, list)) else type(grads).__name__
            raise TypeError(f"the vjp must give {', '.join('d' + name for name in ctx.names)}, got {got}")
        return None, None, None, *(None if g is None else library.tensor(g) for g in grads[: len(ctx.names)])


def library_of(function: Callable) -> str:
    """Whose arrays a function takes: found from the modules that its code, and the code it calls, names.

    >>> import numpy
    >>> library_of(lambda theta: numpy.exp(theta))
    'numpy'
    """
    if type(function).__module__.split(".")[0] in ("jax", "jaxlib"):
        return "jax"
    named: set[str] = set()
    _walk(function, named, set())
    return next((name for name in LIBRARIES if name in named), "torch")


def _walk(function: Any, named: set[str], seen: set[int]) -> None:
    """Collect the outermost packages that function uses, through helpers of its own module."""
    function = inspect.unwrap(function) if callable(function) else function
    function = getattr(function, "func", function)  # of a functools.partial
    if isinstance(function, torch.nn.Module):
        function = type(function).forward
    elif not isinstance(function, type) and not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if code is None or id(code) in seen:
        return
    seen.add(id(code))
    codes, names = [code], set()
    while codes:
        code = codes.pop()
        names |= {*code.co_names, *code.co_freevars}
        codes += [c for c in code.co_consts if inspect.iscode(c)]
    held = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for name in names:
        try:
            found = held[name].cell_contents if name in held else function.__globals__.get(name)
        except ValueError:  # a cell that is still empty
            continue
        if isinstance(found, ModuleType):
            named.add(found.__name__.split(".")[0])
        elif callable(found):
            package = (getattr(found, "__module__", None) or "").split(".")[0]
            named.add(package)
            if package not in LIBRARIES:
                _walk(found, named, seen)
        if name in LIBRARIES and found is None:  # imported inside the function
            named.add(name)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """By name; empty where a function does not tell."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _check_parameters(parameters: dict[str, inspect.Parameter], form: str) -> None:
    kinds = [p.kind for p in parameters.values()]
    if not parameters or inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds:
        return
    needs, has = ARGUMENTS[form], [*parameters]
    if len(has) < len(needs):
        raise CannotRun(f"the {form} form is called with {', '.join(needs)}, and the function takes {', '.join(has)}")
    misplaced = [name for i, name in enumerate(needs) if name in has and has.index(name) != i]
    if misplaced and not {*needs} <= {*has}:
        raise CannotRun(f"{misplaced[0]} is not where {', '.join(needs)} has it: name all of these, or keep the order")


def _default_start(parameters: dict[str, inspect.Parameter], form: str) -> Any:
    """The default of initial_state, by name or by its place."""
    place = ARGUMENTS[form].index("initial_state")
    found = parameters.get("initial_state") or dict(enumerate(parameters.values())).get(place)
    return inspect.Parameter.empty if found is None else found.default

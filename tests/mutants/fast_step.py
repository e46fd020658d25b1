"""Faults planted in fast/step.py."""

from tests.mutants.fault import NUMERICS, STEPS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/step.py", STEPS,
        ("step adds without forgetting",
         "    state = torch.lerp(state, *_written(theta, value, state))  # (4)\n",
         "    state = state + torch.mul(*_written(theta, value, state))  # (4)\n"),
        ("step_ reads the old state",
         "    state.lerp_(*_written(theta, value, state))  # (4)\n    return _read(phi, value, state, eps), state\n",
         "    y = _read(phi, value, state, eps)\n    state.lerp_(*_written(theta, value, state))  # (4)\n    return y, state\n"),
        ("step forgets eps", "norm.new_full((), eps**0.5)", "norm.new_full((), 0.0)"),
        ("step sums squares, no mean", "norm / state.shape[-1] ** 0.5", "norm"),
        ("sparse_step_ makes a copy",
         "return y, state.index_put_(at, touched)", "return y, state.index_put(at, touched)"),
        ("sparse_step writes in place",
         "return y, state.index_put(at, touched)", "return y, state.index_put_(at, touched)"),
    ),
    *planted(
        "fast/step.py", NUMERICS,
        ("step: squares its norm",
         "rms = torch.hypot(norm / state.shape[-1] ** 0.5, norm.new_full((), eps**0.5))",
         "rms = 1 / (norm.square() / state.shape[-1] + eps).rsqrt()"),
    ),
]
# fmt: on

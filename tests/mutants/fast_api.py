"""Faults planted in fast/__init__.py."""

from tests.mutants.fault import INIT, KERNELS, NUMERICS, OPERATORS, STEP_KERNELS, STEPS, planted

# fmt: off
FAULTS = [
    *planted(
        INIT, STEPS,
        ("step adds without forgetting",
         "    state = torch.lerp(state, *_offer(theta, x, state))  # (4)\n",
         "    state = state + torch.mul(*_offer(theta, x, state))  # (4)\n"),
        ("step_ reads the old state",
         "    state.lerp_(*_offer(theta, x, state))  # (4)\n    return _read(phi, x, state, eps), state\n",
         "    y = _read(phi, x, state, eps)\n    state.lerp_(*_offer(theta, x, state))  # (4)\n    return y, state\n"),
        ("step forgets eps", "norm.new_full((), eps**0.5)", "norm.new_full((), 0.0)"),
        ("step sums squares, no mean", "norm / state.shape[-1] ** 0.5", "norm"),
        ("sparse_step_ makes a copy",
         "return y, state.index_put_(at, touched)", "return y, state.index_put(at, touched)"),
        ("sparse_step writes in place",
         "return y, state.index_put(at, touched)", "return y, state.index_put_(at, touched)"),
    ),
    *planted(
        INIT, f"{OPERATORS}::test_auto_takes_the_form_that_fits",
        ("auto: sparse however many slots a token uses",
         "if sparse.is_cheaper(slots_per_token, num_slots):", "if True:"),
        ("auto: grouped on a GPU", '"triton" if on_gpu else "grouped"', '"grouped"'),
        ("auto: no kernel for many slots per token", "        elif on_gpu:\n", "        elif False:\n"),
        ("auto: triton takes float64", "inputs[0].is_cuda and not _is_wide(*inputs)", "inputs[0].is_cuda"),
        ("auto: grouped is dense", '{"grouped": sparse, "chunked"', '{"grouped": chunked, "chunked"'),
    ),
    *planted(
        INIT, f"{KERNELS}::test_float64_is_refused",
        ("auto: sparse kernel takes float64",
         '    if backend == "triton":\n        _check_triton(*inputs)\n', '    if backend == "triton":\n'),
    ),
    *planted(
        INIT, f"{OPERATORS} -k forward_mode",
        ("tangents of initial_state let through", "x=x, initial_state=initial_state)", "x=x)"),
    ),
    *planted(
        INIT, NUMERICS,
        ("step: squares its norm",
         "rms = torch.hypot(norm / state.shape[-1] ** 0.5, norm.new_full((), eps**0.5))",
         "rms = 1 / (norm.square() / state.shape[-1] + eps).rsqrt()"),
    ),
    *planted(
        INIT, STEP_KERNELS,
        ("step kernel: taken where gradients are asked for", " and not differentiate\n", "\n"),
        ("step kernel: taken by float64 states", "state.dtype == torch.float32", "True"),
    ),
]
# fmt: on

"""Faults planted in fast/operators.py."""

from tests.mutants.fault import OPERATORS, SPARSE_KERNELS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/operators.py", OPERATORS,
        ("autocast reaches inside", "enabled=False", "enabled=torch.is_autocast_enabled(first.device.type)"),
        ("no gradient of y alone", "value.new_zeros(shape, dtype=dtype) if dfinal is None else dfinal", "dfinal"),
        ("tangents of dy let through", "        differentiable(dy=dy, dfinal=dfinal)\n", ""),
        ("second derivative in torch's words",
         "    backward.register_autograd(refuse_second_derivative)\n", ""),
    ),
    *planted(
        "fast/operators.py", f"{SPARSE_KERNELS}::test_gradients_of_one_result_alone",
        ("sparse kernel: no gradient of y alone",
         "value.new_zeros(shape, dtype=dtype) if dfinal is None else dfinal", "dfinal"),
        ("sparse kernel: no gradient of the state alone", "    dy = torch.zeros_like(value) if dy is None else dy\n", ""),
    ),
    *planted(
        "fast/operators.py", f"{OPERATORS} -k forward_mode",
        ("tangents let through", "        if has_tangent(value):\n", "        if False:\n"),
        ("tangents of an outer jvp let through",
         "_functorch.maybe_get_level(value) < _functorch.maybe_current_level()", "False"),
        ("tangents inside of vmap not looked for",
         "    value = _inside(value)\n    if forward_ad", "    if forward_ad"),
        ("graphs take tangents for none",
         "    if forward_ad._current_level < 0:\n",
         "    if forward_ad._current_level < 0 or torch.compiler.is_compiling():\n"),
    ),
    *planted(
        "fast/operators.py", f"{OPERATORS} -k mapped",
        ("no backward through vmap", "_inside(v).requires_grad", "v.requires_grad"),
    ),
    *planted(
        "fast/operators.py", f"{OPERATORS} -k torch_func",
        ("torch.func let through", "        if _is_tracked(value):\n", "        if False:\n"),
    ),
]
# fmt: on

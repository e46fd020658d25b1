"""Faults planted in fast/backends.py."""

from tests.mutants.fault import KERNELS, OPERATORS, STEP_KERNELS, WALKS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/backends.py", f"{OPERATORS}::test_auto_takes_the_form_that_fits",
        ("auto: sparse however many slots a token uses",
         'return "scan" if scan_is_cheaper(slots_per_token, num_slots) else "chunked"', 'return "scan"'),
        ("auto: walk however many slots a token uses",
         'return "walk" if walk_is_cheaper(slots_per_token, num_slots) else "chunked"', 'return "walk"'),
        ("auto: no walk", "    if compiled.why_not() is None:\n", "    if False:\n"),
        ("auto: walk on a GPU", "        if inputs[0].is_cpu:\n", "        if True:\n"),
        ("auto: no dense kernel for many slots per token",
         "elif scan_is_cheaper(slots_per_token, num_slots):", "elif True:"),
        ("auto: triton takes float64", "inputs[0].is_cuda and not _is_wide(*inputs)", "inputs[0].is_cuda"),
        ("auto: scan is dense", 'Backend(None, scan.sparse', 'Backend(None, chunked.sparse'),
        ("scan: cheaper than it is", "slots_per_token <= 2 + num_slots / 16", "slots_per_token <= num_slots"),
    ),
    *planted(
        "fast/backends.py", f"{KERNELS}::test_float64_is_refused",
        ("auto: sparse kernel takes float64",
         "if _is_wide(*inputs) and not backend.wide:", "if False:"),
    ),
    *planted(
        "fast/backends.py", f"{WALKS} -k 'step or gpu'",
        ("walk: taken on a GPU", "        raise ValueError(f\"backend {name!r} needs", "        print(f\"backend {name!r} needs"),
        ("walk: steps taken where gradients are asked for", "walks and not _differentiated(*inputs) and", "walks and"),
        ("walk: steps taken of what is no plain tensor", " and operators.plain(*inputs, *(() if slots is None else (slots,)))", ""),
        ("walk: all slots of any state", "state.numel() <= WALKED", "True"),
    ),
    *planted(
        "fast/backends.py", STEP_KERNELS,
        ("step kernel: taken where gradients are asked for", "return step if _differentiated(*inputs) else step_kernels", "return step_kernels"),
        ("step kernel: taken by float64 states", "state.dtype == torch.float32", "True"),
    ),
]
# fmt: on

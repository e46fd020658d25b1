"""Faults planted in fast/backends.py."""

from tests.mutants.fault import KERNELS, OPERATORS, STEP_KERNELS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/backends.py", f"{OPERATORS}::test_auto_takes_the_form_that_fits",
        ("auto: sparse however many slots a token uses",
         "if scan_is_cheaper(slots_per_token, num_slots):", "if True:"),
        ("auto: scan on a GPU", '"triton" if on_gpu else "scan"', '"scan"'),
        ("auto: no kernel for many slots per token", "        elif on_gpu:\n", "        elif False:\n"),
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
        "fast/backends.py", STEP_KERNELS,
        ("step kernel: taken where gradients are asked for", " and not differentiate\n", "\n"),
        ("step kernel: taken by float64 states", "state.dtype == torch.float32", "True"),
    ),
]
# fmt: on

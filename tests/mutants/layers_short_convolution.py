"""Faults planted in layers/short_convolution.py."""

from tests.mutants.fault import planted

CONVOLUTION, TESTS, MIXER_TESTS = (
    "layers/short_convolution.py", "tests/layers/test_short_convolution.py", "tests/layers/test_mixers.py",
)  # fmt: skip

# fmt: off
FAULTS = [
    *planted(
        CONVOLUTION, f"{MIXER_TESTS}::test_it_trains_distributed {TESTS}::test_weights_stored_with_an_empty_convolution_load",
        ("layer: a weight without numbers", "/ width**0.5) if width else None", "/ max(width, 1) ** 0.5)"),
        ("layer: an old empty weight is unexpected", "if not self.width and stored is not None", "if False"),
        ("layer: any weight of no convolution is dropped", " and not stored.numel():", ":"),
    ),
    *planted(
        CONVOLUTION, f"{MIXER_TESTS} -k mapped",
        ("convolution: not mapped",
         "    generate_vmap_rule = True\n\n    @staticmethod\n    def forward(x: Tensor, weight",
         "    @staticmethod\n    def forward(x: Tensor, weight"),
    ),
    *planted(
        CONVOLUTION, f"{TESTS} -k every_derivative",
        ("convolution: gradient not mapped", "dy.new_zeros(x.shape)", "torch.zeros_like(x)"),
    ),
    *planted(
        CONVOLUTION, f"{MIXER_TESTS} {TESTS} -k 'forward_mode or every_derivative'",
        ("convolution: no forward mode", "any(map(has_tangent, (x, self.weight)))", "False"),
    ),
    *planted(
        CONVOLUTION, f"{MIXER_TESTS} -k prefill",
        ("convolution: one token by the filter in reverse", "(x * weight.t()).sum", "(x * weight.t().flip(0)).sum"),
    ),
    *planted(
        CONVOLUTION, "tests/layers/test_configs.py::test_errors_say_what_was_got_and_what_is_needed",
        ("convolution: any width", "if not (is_size(width) or width == 0):", "if False:"),
    ),
]
# fmt: on

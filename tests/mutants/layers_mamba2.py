"""Faults planted in layers/mamba2.py."""

from tests.mutants.fault import planted

MAMBA2_LAYER, CONFIG_TESTS = "layers/mamba2.py", "tests/layers/test_configs.py"

# fmt: off
FAULTS = [
    *planted(
        MAMBA2_LAYER, f"{CONFIG_TESTS}::test_errors_say_what_was_got_and_what_is_needed",
        ("mamba2 layer: groups that cut no heads", "if num_heads % self.num_groups:", "if False:"),
        ("mamba2 layer: any eps", "        check_positive(eps=eps)\n", ""),
    ),
    *planted(
        MAMBA2_LAYER, "tests/layers/test_mamba2.py",
        ("mamba2 layer: dt without its bias", " + self.dt_bias)", ")"),
        ("mamba2 layer: no gate", "y.flatten(-2) * F.silu(z)", "y.flatten(-2)"),
        ("mamba2 layer: the key queries", "C.unflatten(-1, self.group_shape))", "B.unflatten(-1, self.group_shape))"),
    ),
]
# fmt: on

"""Faults planted in layers/gated_slots.py."""

from tests.mutants.fault import planted

LAYER, TESTS, CONFIG_TESTS = "layers/gated_slots.py", "tests/layers/test_gated_slots.py", "tests/layers/test_configs.py"

# fmt: off
FAULTS = [
    *planted(
        LAYER, f"{TESTS}::test_the_layer_is_its_formula",
        ("gated layer: no gate", "y = y * F.silu(z)", "pass"),
        ("gated layer: a convolution without SiLU", "            written = F.silu(written)\n", "            pass\n"),
        ("gated layer: the query as it is", "_bounded(gate, self.bound), F.silu(q), written", "_bounded(gate, self.bound), q, written"),
        ("gated layer: gates without their root", "F.logsigmoid(gate.to(wide(gate.dtype))) / self.gate_root", "F.logsigmoid(gate.to(wide(gate.dtype)))"),
        ("gated layer: the value is the key", "chunk(2, -1)\n        return", "flip(-1).chunk(2, -1)\n        return"),
        ("gated layer: gates without a bound", "F.logsigmoid(-bound) + F.logsigmoid(gate)).clamp", "F.logsigmoid(gate)).clamp"),
        ("gated layer: all memories are written", "torch.where(picked[..., None, :, None], log_f, 0.0)", "log_f"),
        ("gated layer: memories without their weights", "read = weight[..., None, :, None] * q", "read = (weight[..., None, :, None] > 0) * q"),
    ),
    *planted(
        LAYER, f"{TESTS}::test_balance_is_added_in_training_alone",
        ("gated layer: balance is always added", "self.balance if self.training else 0.0", "self.balance"),
        ("gated layer: balance is never added", "balance = self.balance if self.training else 0.0", "balance = 0.0"),
    ),
    *planted(
        LAYER, f"{TESTS}::test_gates_begin_between_their_bound_and_1",
        ("gated layer: the bound begins elsewhere", "math.log(share) - math.log1p(-share)", "share"),
    ),
    *planted(
        LAYER, f"{CONFIG_TESTS}::test_errors_say_what_was_got_and_what_is_needed",
        ("gated layer: any eps", "        check_positive(eps=eps)\n", ""),
        ("gated layer: heads of any width", "    config.check_width(d_model)\n", ""),
        ("gated layer: a bound of 1", "if self.lower_bound >= 1:", "if False:"),
        ("gated layer: more memories than there are", " and self.top_k <= self.num_memories):", "):"),
    ),
]
# fmt: on

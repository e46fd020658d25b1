"""Faults planted in layers/factorization_memory.py."""

from tests.mutants.fault import planted

LAYER, TESTS = "layers/factorization_memory.py", "tests/layers/test_factorization_memory.py"
ROUTER_TESTS, CONFIG_TESTS = "tests/layers/test_router.py", "tests/layers/test_configs.py"

# fmt: off
FAULTS = [
    *planted(
        LAYER, f"{TESTS}::test_the_layer_is_its_equations",
        ("layer: no temperature", "logits / self.temperature, (eta, mu), z", "logits, (eta, mu), z"),
        ("layer: b_eta for both rates", "self.rate_bias.flatten()", "self.rate_bias[:1].repeat(2, 1).flatten()"),
        ("layer: no gain", "self.out_proj(y * self.gain)", "self.out_proj(y)"),
        ("layer: its eps is the default", '"eps": self.eps, "backend"', '"backend"'),
        ("layer: from an empty memory", "self.num_slots, memory, **how)", "self.num_slots, None, **how)"),
    ),
    *planted(
        LAYER, f"{TESTS}::test_the_convolution_and_the_gate_are_where_the_formula_has_them",
        ("layer: no SiLU after the convolution", "value = F.silu(value)", "pass"),
        ("layer: the gate after the norm", "F.rms_norm(y * F.silu(z), self.gain.shape, self.gain, self.eps)",
         "F.rms_norm(y, self.gain.shape, self.gain, self.eps) * F.silu(z)"),
    ),
    *planted(
        LAYER, f"{ROUTER_TESTS}::test_noise_and_balance_are_of_training_alone",
        ("router: noise and balance outside of training", " if self.training else (0.0, 0.0)", ""),
    ),
    *planted(
        LAYER, f"{ROUTER_TESTS}::test_noise_is_of_the_deviation_asked_for_whatever_the_temperature",
        ("router: noise over tau", "noise, balance = (self.router_noise, self.balance)",
         "noise, balance = (self.router_noise / self.temperature, self.balance)"),
    ),
    *planted(
        LAYER, CONFIG_TESTS,
        ("config: a dense layer takes a sparse backend", "backends: ClassVar[tuple[str, ...]] = DENSE_BACKENDS",
         "backends: ClassVar[tuple[str, ...]] = SPARSE_BACKENDS"),
        ("config: any width of a slot", "check_sizes(**{name: size})", "pass"),
        ("config: more slots kept than there are", "is_size(self.top_k) and self.top_k <= self.num_slots",
         "is_size(self.top_k)"),
    ),
    *planted(
        LAYER, "tests/lm/test_model.py::test_a_sparse_model_keeps_a_quarter_of_its_slots_where_nothing_else_is_said",
        ("config: eight slots, however few there are", "max(1, self.num_slots // 4)", "8"),
    ),
]
# fmt: on

"""Faults planted in lm/layers.py."""

from tests.mutants.fault import LAYER_TESTS, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_of_equal_affinities_the_lowest_slot_is_kept",
        ("router: of equals the highest slot", "(rank * num_slots - torch.arange", "(rank * num_slots + torch.arange"),
        ("router: 0.0 above -0.0", "(logits.float() + 0.0)", "logits.float()"),
        ("router: negative logits in reverse", "torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)", "bits"),
        ("router: float64 logits ranked in float32", "if logits.dtype == torch.float64:", "if False:"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_noise_and_balance_are_of_training_alone",
        ("router: noise outside of training", "if self.training and self.router_noise:", "if self.router_noise:"),
        ("router: balance outside of training", "if self.training and self.balance:", "if self.balance:"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_noise_is_of_the_deviation_asked_for_whatever_the_temperature",
        ("router: noise of deviation 1", "self.router_noise * torch.randn_like(logits)", "torch.randn_like(logits)"),
        ("router: noise over tau", "self.router_noise * torch", "self.router_noise / self.temperature * torch"),
        ("router: one noise for all tokens", "torch.randn_like(logits)", "torch.randn_like(logits[:1, :1])"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_the_balance_loss_joins_what_the_output_leads_to",
        ("router: balance of all slots", "balance_loss(logits, slots))", "balance_loss(logits, None))"),
        ("router: balance loss not added", "torch.ones_like(*ctx", "torch.zeros_like(*ctx"),
        ("router: balance loss hides the loss", "return dx, torch.ones", "return 0 * dx, torch.ones"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_the_balance_loss_is_its_formula",
        ("router: share has a gradient", "share = affinity.detach()", "share = affinity"),
        ("router: share of tokens, not of pairs", "/ slots.numel()", "/ slots[..., 0].numel()"),
        ("router: last slots unused not counted", "bincount(minlength=num_slots)", "bincount()"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_it_trains_distributed {LAYER_TESTS}::test_weights_stored_with_an_empty_convolution_load",
        ("layer: a weight without numbers", "/ width**0.5) if width else None", "/ max(width, 1) ** 0.5)"),
        ("layer: an old empty weight is unexpected", "if not self.width and stored is not None", "if False"),
        ("layer: any weight of no convolution is dropped", " and not stored.numel():", ":"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS}::test_a_state_of_another_shape_or_kind_is_refused {LAYER_TESTS}::test_a_step_takes_one_token",
        ("layer: a tail of any length", "((memory, self.memory_shape), (tail, self.conv.tail_shape))",
         "((memory, self.memory_shape),)"),
        ("layer: a step of many tokens", "if x.ndim == 3 and x.shape[1] != 1:", "if False:"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS} -k mapped",
        ("convolution: not mapped",
         "    generate_vmap_rule = True\n\n    @staticmethod\n    def forward(x: Tensor, weight",
         "    @staticmethod\n    def forward(x: Tensor, weight"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS} -k every_derivative",
        ("convolution: gradient not mapped", "dy.new_zeros(x.shape)", "torch.zeros_like(x)"),
    ),
    *planted(
        "lm/layers.py", f"{LAYER_TESTS} -k forward_mode",
        ("convolution: no forward mode", "any(map(has_tangent, (x, self.weight)))", "False"),
    ),
]
# fmt: on

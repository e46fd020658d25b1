"""Faults planted in layers/router.py."""

from tests.mutants.fault import planted

ROUTER, TESTS = "layers/router.py", "tests/layers/test_router.py"

# fmt: off
FAULTS = [
    *planted(
        ROUTER, f"{TESTS}::test_of_equal_affinities_the_lowest_slot_is_kept",
        ("router: of equals the highest slot", "(rank * num_slots - torch.arange", "(rank * num_slots + torch.arange"),
        ("router: 0.0 above -0.0", "(logits.float() + 0.0)", "logits.float()"),
        ("router: negative logits in reverse", "torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)", "bits"),
        ("router: float64 logits ranked in float32", "if few or logits.dtype == torch.float64:", "if few:"),
        ("router: of a few the smallest are kept", "dim=-1, descending=True", "dim=-1, descending=False"),
    ),
    *planted(
        ROUTER, f"{TESTS}::test_noise_is_of_the_deviation_asked_for_whatever_the_temperature",
        ("router: noise of deviation 1", "noise * torch.randn_like(logits)", "torch.randn_like(logits)"),
        ("router: one noise for all tokens", "torch.randn_like(logits)", "torch.randn_like(logits[:1, :1])"),
    ),
    *planted(
        ROUTER, f"{TESTS}::test_the_balance_loss_joins_what_the_output_leads_to",
        ("router: balance of all slots", "balance_loss(logits, slots))", "balance_loss(logits, None))"),
        ("router: balance loss not added", "torch.ones_like(*ctx", "torch.zeros_like(*ctx"),
        ("router: balance loss hides the loss", "return dx, torch.ones", "return 0 * dx, torch.ones"),
    ),
    *planted(
        ROUTER, f"{TESTS}::test_the_balance_loss_is_its_formula",
        ("router: share has a gradient", "share = affinity.detach()", "share = affinity"),
        ("router: share of tokens, not of pairs", "/ slots.numel()", "/ slots[..., 0].numel()"),
        ("router: last slots unused not counted", "bincount(minlength=num_slots)", "bincount()"),
    ),
    *planted(
        ROUTER, "tests/layers/test_factorization_memory.py::test_the_layer_is_its_equations",
        ("router: affinities of the kept not divided by their sum", "alpha = kept.softmax(-1)",
         "alpha = logits.softmax(-1) if slots is None else logits.softmax(-1).gather(-1, slots)"),
        ("router: eta reads", "rates[1] * alpha, slots)", "rates[0] * alpha, slots)"),
        ("router: a slot's rate is another's", "v.gather(-1, slots) for v in rates", "v[..., : top_k] for v in rates"),
    ),
]
# fmt: on

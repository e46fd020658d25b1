"""Faults planted in lm/train.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "lm/train.py", "tests/lm/test_train.py -k 'ignored or twice or name or written'",
        ("run: an ignored Ctrl-C is not", "if before in (signal.SIG_IGN, None) or", "if"),
        ("run: the old handler is gone", "        signal.signal(signal.SIGINT, before)", "        pass"),
        ("run: a moved text is forgotten", "        if text is not None:\n            run =", "        if False:\n            run ="),
        ("run: what changed is not looked for", "    if changes:\n", "    if True:\n"),
    ),
    *planted(
        "lm/train.py", "tests/lm/test_train.py -k 'rate_and_its_batch or fills_the_state or vectors or repeats'",
        ("train: a burn-in in every step", "settings.burn_in * (run.step % 2)", "settings.burn_in"),
        ("train: one batch in all steps", "settings.seed, run.step)\n            loss", "settings.seed, 0)\n            loss"),
        ("train: norms decay", '"params": vectors, "weight_decay": 0.0', '"params": vectors, "weight_decay": settings.weight_decay'),
    ),
    *planted(
        "lm/train.py", "tests/lm/test_train.py -k 'diverge or stops_before'",
        ("train: a step that is not finite is taken", "if not torch.isfinite(loss + norm):", "if not torch.isfinite(loss):"),
        ("train: a held-out loss may be NaN", "if not math.isfinite(loss):", "if False:"),
    ),
]
# fmt: on

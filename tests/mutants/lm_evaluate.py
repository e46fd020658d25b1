"""Faults planted in lm/evaluate.py and what it measures with: lm/loss.py, lm/run.py, lm/memory.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "lm/evaluate.py", "tests/lm/test_evaluate.py",
        ("evaluate: reset keeps its state", "None if reset else state", "state"),
        ("evaluate: a loss counts one bucket early", "bucket_of[places]", "bucket_of[(places - 1).clamp(0)]"),
        ("evaluate: windows are drawn, not files", "draws @ count", "draws.sum(1, keepdims=True) * count.mean(0)"),
    ),
    *planted(
        "lm/evaluate.py", "tests/lm/test_evaluate.py",
        ("evaluate: the control keeps its state", "segment, reset=True, label=label and", "segment, label=label and"),
        ("evaluate: a gain is a loss", "(control, control - sums)", "(control, sums - control)"),
        ("evaluate: a model stays in its mode for evaluation", "    model.train(was_training)\n", ""),
        ("evaluate: windows of short files", "count = min(per_file, (len(tokens) - 1) // context)",
         "count = min(per_file, -(-len(tokens) // context))"),
    ),
    *planted(
        "lm/loss.py", "tests/lm/test_train.py -k 'fills_the_state or held_out_loss_is'",
        ("loss: gradients through the burn-in", "        with torch.no_grad():\n            _, state", "        if True:\n            _, state"),
        ("loss: the burn-in is forgotten", "model(tokens[:, :-1], state)", "model(tokens[:, :-1])"),
        ("loss: in nats", "\"mean\") / math.log(2)", "\"mean\")"),
    ),
    *planted(
        "lm/run.py", "tests/lm/test_run.py",
        ("run: its history is not kept", '"history": [asdict(point) for point in self.history]', '"history": []'),
        ("run: its results are not kept", 'record["results"] = asdict(self.results)', "pass"),
        ("run: a record without its settings", 'missing = {"config", "settings", "corpus", "text", "step", "history"} - record.keys()',
         'missing = {"step"} - record.keys()'),
    ),
    *planted(
        "lm/memory.py", "tests/lm/test_memory.py",
        ("memory: activity of the input, not of the normed input", "inputs = block.mixer_norm(x)", "inputs = x"),
        ("memory: a half-life that counts no compounding", "-np.log1p(-theta.mean(0, dtype=np.float64))",
         "theta.mean(0, dtype=np.float64)"),
        ("memory: slots for half in any order", "np.sort(theta.sum(0))[::-1]", "theta.sum(0)"),
    ),
]
# fmt: on

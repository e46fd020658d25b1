"""Faults planted in experiments/short_runs.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/short_runs.py", "tests/experiments/test_short_runs.py",
        ("short runs: the layer of no change", "module=change.module or row.module", "module=row.module"),
        ("short runs: all have one seed", '"steps": sizes.steps, "seed": seed}', '"steps": sizes.steps, "seed": 0}'),
        ("short runs: compared with the first seed", 'base[row["seed"]][NEAR][0]', "base[0][NEAR][0]"),
        ("short runs: an entropy is not a mutual information", "[1]) - entropy(counts)", "[1])"),
        ("short runs: the whole router's use decides who is dead", "use < DEAD * use.mean()", "use < DEAD * use.sum()"),
        ("short runs: reading decides who is dead", "layer.theta.flatten(0, 1)", "layer.affinity.flatten(0, 1)"),
        ("short runs: a token touches all slots", "(options.top_k or options.num_slots)", "options.num_slots"),
        ("short runs: bits of chance count", " - mutual_information(strongest, shuffled)", ""),
    ),
]
# fmt: on

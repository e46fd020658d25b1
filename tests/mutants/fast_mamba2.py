"""Faults planted in fast/mamba2.py."""

from tests.mutants.fault import LAYER_TESTS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/mamba2.py", f"{LAYER_TESTS}::test_no_rows_and_no_tokens",
        ("mamba2: no rows leave a size open", "starts.reshape(batch * n, G, N, H // G * P)",
         "starts.reshape(batch * n, G, N, -1)"),
    ),
    *planted(
        "fast/mamba2.py", "tests/fast/test_mamba2.py",
        ("mamba2: chunks at once start from nothing",
         "torch.cat([state[:, None], updates], 1)", "torch.cat([0 * state[:, None], updates], 1)"),
        ("mamba2: chunks at once a chunk late",
         "F.pad(totals.cumsum(1), (0, 0, 1, 0))", "F.pad(totals.cumsum(1), (0, 0, 0, 1))"),
        ("mamba2: chunks at once return the first state", "states[:, -1]", "states[:, 0]"),
    ),
    *planted(
        "fast/mamba2.py", f"{LAYER_TESTS}::test_two_graphs_of_a_layer_do_for_any_length[mamba2]",
        ("mamba2: a graph for every number of chunks",
         "traced = torch.compiler.is_compiling() or torch.jit.is_tracing()", "traced = False"),
    ),
]
# fmt: on

"""Faults planted in reference/gated_slots.py and fast/gated_slots.py."""

from tests.mutants.fault import LAYER_TESTS, planted

LOOP, FAST, TESTS = "reference/gated_slots.py", "fast/gated_slots.py", "tests/fast/test_gated_slots.py"
FM_LAW = f"{TESTS}::test_one_head_is_factorization_memory_without_its_norm"

# fmt: off
FAULTS = [
    *planted(
        LOOP, FM_LAW,
        ("gated loop: adds without forgetting", "log_f.exp() * state - log_f.expm1() * value", "state - log_f.expm1() * value"),
        ("gated loop: reads before it writes", "    state = _write(log_f, value, state)\n    return (read.to(state.dtype)[..., None] * state)",
         "    state, old = _write(log_f, value, state), state\n    return (read.to(state.dtype)[..., None] * old)"),
    ),
    *planted(
        LOOP, f"{LOOP} {TESTS}",
        ("gated loop: scores without softmax", ".sum(-1).softmax(-1)  # (3)", ".sum(-1)"),
        ("gated loop: any gates", '    if (tokens["log_f"][0] > 0).any():', "    if False:"),
    ),
    *planted(
        FAST, f"{TESTS}::test_equals_loop",
        ("gated slots: the start does not fade across halves", "start_a[..., -1:, :] * start_b], -2)", "start_b], -2)"),
        ("gated slots: what is written does not fade across halves", "end_a * start_b[..., -1:, :], end_b]", "end_a, end_b]"),
        ("gated slots: a token does not read its own", "tile = (read * tree.written).sum(-1)", "tile = (0 * read * tree.written).sum(-1)"),
        ("gated slots: a right half misses the left one", "across = (late * from_start) @ to_end.mT", "across = (late * 0) @ to_end.mT"),
        ("gated slots: no state enters", "+ (read * tree.from_start) @ entering", ""),
        ("gated slots: scores miss the left half", "b + from_start * (late", "b + 0 * from_start * (late"),
        ("gated slots: scores miss the state", "score[..., 0, :, :] + tree.from_start * (q @ keys.mT)", "score[..., 0, :, :]"),
        ("gated slots: chunks without their decay", "torch.addcmul(update, decay, state)", "update + state"),
        ("gated slots: float64 is cut", "wide = torch.float64 if any(", "wide = torch.float32 if any("),
    ),
    *planted(
        FAST, f"{TESTS}::test_no_digits_are_lost_behind_a_small_gate {TESTS}::test_equals_loop",
        ("gated slots: 1 - f loses its digits", "-log_f.expm1()[..., None, :]  # [", "1 - log_f.exp().float().to(log_f.dtype)[..., None, :]  # ["),
    ),
    *planted(
        FAST, f"{TESTS}::test_chunks_at_once_are_chunks_in_turn",
        ("gated slots: chunks at once start from nothing", "torch.cat([state[:, None], updates], 1)", "torch.cat([0 * state[:, None], updates], 1)"),
        ("gated slots: chunks at once a chunk late", "(0, 0, 0, 0, 1, 0)", "(0, 0, 0, 0, 0, 1)"),
        ("gated slots: chunks at once return the first state", "states[:, -1]", "states[:, 0]"),
        ("gated slots: masked after exp",
         ".masked_fill(late, -torch.inf).to(state.dtype).exp()", ".to(state.dtype).exp().masked_fill(late, 0)"),
    ),
    *planted(
        FAST, f"{TESTS}::test_steps_equal_loop",
        ("gated slots: a step adds to the state", "state.mul_(log_f.exp()).addcmul_", "state.addcmul_"),
        ("gated slots: a step without softmax", "[..., 0].softmax(-1)", "[..., 0]"),
    ),
    *planted(
        FAST, f"{TESTS}::test_what_else_is_refused",
        ("gated slots: any chunk", "if chunk_length < 1 or chunk_length & (chunk_length - 1):", "if False:"),
    ),
    *planted(
        FAST, f"{TESTS}::test_errors_name_the_argument",
        ("gated slots: a state of any shape", '        _check_state("initial_state", state, like, log_f, width)\n', "        pass\n"),
        ("gated slots: a step in any state", '    _check_state("state", state, v, log_f, sum(widths))\n', ""),
    ),
    *planted(
        FAST, f"{LAYER_TESTS}::test_a_layer_is_exported_for_any_length[hgrn2]",
        ("gated slots: a graph for one length",
         "traced = torch.compiler.is_compiling() or torch.jit.is_tracing()", "traced = False"),
    ),
]
# fmt: on

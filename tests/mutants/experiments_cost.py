"""Faults planted in experiments/cost.py, and in what it takes from experiments/frame.py."""

from tests.mutants.fault import FRAME, planted

COST, TESTS = "experiments/cost.py", "tests/experiments/test_cost.py"

# fmt: off
FAULTS = [
    *planted(
        COST, f"{TESTS}::test_a_token_is_decoded_after_so_many_however_often",
        ("cost: a token is decoded one place early", "_, state = model(tokens[:, : position - 1])", "_, state = model(tokens[:, : position - 2])"),
        ("cost: the position moves on with every call", "        return model.step_(tokens[:, position:], state)[0]\n",
         "        nonlocal state\n        y, state = model.step_(tokens[:, position:], state)\n        return y\n"),
    ),
    *planted(
        COST, f"{TESTS}::test_a_state_is_that_of_the_position",
        ("cost: the state is the empty one", ".state_bytes(1, position)", ".state_bytes(1, 0)"),
    ),
    *planted(
        COST, f"{TESTS}::test_a_step_has_about_as_many_tokens_and_mixers_take_turns",
        ("cost: longer windows make larger steps", "batch = max(1, sizes.tokens // length)", "batch = 16"),
        ("cost: tokens a step pass for tokens a second", "batch * length / took[mixer]", "batch * length"),
    ),
    *planted(
        COST, f"{TESTS}::test_a_stopped_run_goes_on_and_only_on_the_same_machine",
        ("cost: what is there is measured again", " if (what, at) not in have)", ")"),
        ("cost: rows are stored at the end alone", "            run.save(result)\n", ""),
        ("cost: times of two machines in one table", 'run.resume({"about": known, "rows": []})', 'run.resume({"about": known, "rows": []}, anywhere=True)'),
    ),
    *planted(
        COST, f"{TESTS}::test_the_figure_says_who_is_fastest_at_the_longest",
        ("cost: the title is of the shortest", "last = max(at for", "last = min(at for"),
    ),
    *planted(
        "experiments/frame.py", f"{FRAME}::test_extra_memory_is_what_a_call_takes_beyond_what_is_held",
        ("cost: what is held counts as extra memory", "    return peak - before\n", "    return peak\n"),
        ("cost: a result does not count as extra memory", "    results = run()\n", "    results = None\n"),
    ),
]
# fmt: on

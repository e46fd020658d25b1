"""Faults planted in reference/factorization_memory.py."""

from tests.mutants.fault import LAWS, PARITY, planted

# fmt: off
FAULTS = [
    *planted(
        "reference/factorization_memory.py", PARITY,
        ("loop reads before it writes", "y = (phi * state / rms)", "y = (phi * (state - theta * value) / rms)"),
        ("loop forgets eps", "keepdim=True) + eps).sqrt()", "keepdim=True)).sqrt()"),
    ),
    *planted(
        "reference/factorization_memory.py", f"{LAWS} -k loop",
        ("loop adds without forgetting", "(1 - theta) * state + theta * value", "state + theta * value"),
        ("loop norms over slots", "state.square().mean(-1, keepdim=True)", "state.square().mean(-2, keepdim=True)"),
        ("sparse loop writes to the first slots",
         "state[at], eps)  # (4), (5), (6) on K rows\n    return y, state.index_put(at,",
         "state[at], eps)\n    return y, state.index_put((at[0], slots.sort(-1).values),"),
        ("loop narrows float64",
         "return state.to(torch.float64 if wide else torch.float32)", "return state.to(torch.float32)"),
    ),
]
# fmt: on

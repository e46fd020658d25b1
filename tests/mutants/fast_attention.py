"""Faults planted in fast/attention.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "fast/attention.py", "tests/fast/test_attention.py",
        ("cache: a call appends in place", "(q, k, v, cache, _append)", "(q, k, v, cache, _append_)"),
        ("cache: no room is kept", "2 * end, more.shape[4]", "end, more.shape[4]"),
        ("cache: room is taken for tokens", "keys, values = kept[:, :, :, : past + T]", "keys, values = kept"),
        ("attention: odd widths turned", "x.ndim < 3 or x.shape[-1] % 2", "x.ndim < 3"),
        ("attention: one position for all tokens", "positions.shape != x.shape[-3:-2]", "positions.ndim != 1"),
    ),
]
# fmt: on

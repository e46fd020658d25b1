"""Faults planted in fast/attention.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "fast/attention.py", "tests/fast/test_attention.py",
        ("cache: a call appends in place", "cache, _append, positions)", "cache, _append_, positions)"),
        ("cache: no room is kept", "2 * end, more.shape[4]", "end, more.shape[4]"),
        ("cache: room is taken for tokens", "keys, values = kept[:, :, :, : past + T]", "keys, values = kept"),
        ("attention: alibi of a head is another's", "torch.arange(1, H + 1, dtype", "torch.arange(0, H, dtype"),
        ("attention: alibi forgets the past", "torch.arange(past, past + T, device=q.device)[:, None] -", "torch.arange(T, device=q.device)[:, None] -"),
        ("attention: alibi sees the future", ".masked_fill(steps < 0, -torch.inf)", ""),
        ("attention: turned without positions", 'if positions != "rotary":', "if False:"),
        ("attention: odd widths turned", "x.ndim < 3 or x.shape[-1] % 2", "x.ndim < 3"),
        ("attention: one position for all tokens", "positions.shape != x.shape[-3:-2]", "positions.ndim != 1"),
    ),
]
# fmt: on

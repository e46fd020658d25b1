"""Faults planted in fast/attention.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "fast/attention.py", "tests/fast/test_attention.py",
        ("cache: a call appends in place", "cache, _append, positions, window)", "cache, _append_, positions, window)"),
        ("cache: no room is kept", "2 * end, more.shape[4]", "end, more.shape[4]"),
        ("cache: room is taken for tokens", "keys, values = kept[:, :, :, first : past + T]", "keys, values = kept[:, :, :, first:]"),
        ("attention: a window of one token too many", "(steps < window) if window", "(steps <= window) if window"),
        ("attention: no window without a cache", "mask = _mask(q, 0, 0, positions, window)", "mask = _mask(q, 0, 0, positions, 0)"),
        ("attention: a step sees one key too many", "torch.sym_max(past - window + 1, 0)", "torch.sym_max(past - window, 0)"),
        ("attention: a step sees one key too few", "torch.sym_max(past - window + 1, 0)", "torch.sym_max(past - window + 2, 0)"),
        ("attention: a step reads the whole cache", "torch.sym_max(past - window + 1, 0) if window else 0", "0"),
        ("attention: distances from the first key of the cache", "torch.arange(first, past + T, device=q.device)", "torch.arange(past + T - first, device=q.device)"),
        ("attention: several tokens of a window see all", "not ((past or window) and T > 1)", "not (past and T > 1)"),
        ("attention: a window below 0", "    validation.count(\"window\", window)\n", ""),
        ("attention: alibi of a head is another's", "torch.arange(1, H + 1, dtype", "torch.arange(0, H, dtype"),
        ("attention: alibi forgets the past", "torch.arange(past, past + T, device=q.device)[:, None] -", "torch.arange(T, device=q.device)[:, None] -"),
        ("attention: alibi sees the future", ".masked_fill(~seen, -torch.inf)", ""),
        ("attention: turned without positions", 'if positions != "rotary":', "if False:"),
        ("attention: odd widths turned", "x.ndim < 3 or x.shape[-1] % 2", "x.ndim < 3"),
        ("attention: one position for all tokens", "positions.shape != x.shape[-3:-2]", "positions.ndim != 1"),
    ),
]
# fmt: on

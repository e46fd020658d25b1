"""Faults planted in lm/train.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "lm/train.py", "tests/lm/test_train.py -k 'ignored or twice or name or written'",
        ("run: an ignored Ctrl-C is not", "if before in (signal.SIG_IGN, None) or", "if"),
        ("run: the old handler is gone", "        signal.signal(signal.SIGINT, before)", "        pass"),
        ("run: a moved text is forgotten", "        if text is not None:\n            record |=",
         "        if False:\n            record |="),
        ("run: what changed is not looked for", "    if changes:\n", "    if True:\n"),
    ),
]
# fmt: on

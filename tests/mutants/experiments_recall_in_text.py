"""Faults planted in experiments/recall_in_text.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/recall_in_text.py", "tests/experiments/test_recall_in_text.py",
        ("recall in text: the order stays", "later = lines.gather(1, again[..., None].expand_as(lines))", "later = lines"),
        ("recall in text: a letter is defined twice", "keys, values = LETTERS[order[:, :pairs]]", "keys, values = LETTERS[order[:, :pairs] // 2]"),
        ("recall in text: text after is text before", "max(0, length - 2 * pairs * LINE - gap)", "max(0, length - pairs * LINE - gap)"),
        ("recall in text: the answer is read where it stands", "x[:, VALUE - 1 :: LINE]", "x[:, VALUE::LINE]"),
        ("recall in text: what is told first counts, not what is asked", "first = pairs * LINE + gap", "first = 0"),
        ("recall in text: a state is lost between parts", "x, state = model(part, state)", "x, state = model(part)"),
        ("recall in text: definitions count as text", "[:, told - 1 : told + gap - 1].mean()", "[:, : told + gap - 1].mean()"),
        ("recall in text: tests read what was trained on", 'text("test"), count', 'text("train"), count'),
        ("recall in text: faint writes stay", "with without_faint_writes(model):", "if True:"),
        ("recall in text: all batches of some are long", "rival.stretched > 0 and step % 10 == 0", "rival.stretched > 0"),
        ("recall in text: long batches are as many sequences", "sizes.batch // (4 if far else 1), pairs", "sizes.batch, pairs"),
        ("recall in text: values count no more than bytes", "each.mean() + each[:, asked(pairs, gap)].mean(), each", "each.mean(), each"),
    ),
]
# fmt: on

"""Faults planted in experiments/recall.py and experiments/variants.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/recall.py", "tests/experiments/test_recall.py",
        ("recall: the answers are asked one token late", "return tokens[:, -2 * pairs : -1], tokens[:, 1 - 2 * pairs :: 2]",
         "return tokens[:, -2 * pairs :], tokens[:, 1 - 2 * pairs :: 2]"),
        ("recall: keys come again in the order they were told",
         "told.gather(1, shuffled(pairs)[..., None].expand_as(told)).flatten(1)]", "told.flatten(1)]"),
        ("recall: what is told again comes first", "parts.insert(0,", "parts.insert(1,"),
        ("recall: the pairs between are of the same keys", "others = order[:, pairs:]", "others = order"),
        ("recall: a state is lost between parts of a long gap", "_, state = model(part, state)", "_, state = model(part)"),
        ("recall: half-lives of all slots count alike", "return sum(v * (1 - f) ** fillers for v, f in", "return sum(sum(layer[\"value\"]) / len(layer[\"value\"]) * (1 - f) ** fillers for v, f in"),
        ("recall: noise in what is measured", "model.eval()  # without noise", "model  # without noise"),
        ("recall: all slots until the training is over", "min(1, 2 * progress)", "progress"),
        ("recall: slots that shrink shrink in one layer", "                block.mixer.top_k = rival.kept((step - 1) / steps)",
         "                block.mixer.top_k = rival.kept((step - 1) / steps)\n                break"),
    ),
    *planted(
        "experiments/variants.py", "tests/experiments/test_variants.py",
        ("variants: the wrong rate is 1", "(torch.ones_like(eta), mu), z", "(eta, torch.ones_like(mu)), z"),
        ("variants: one router for both", "write, read = logits.chunk(2, -1)", "write = read = logits.chunk(2, -1)[0]"),
        ("variants: what is read is not brought back to its size", "return FLAT**0.5 * y, memory\n\n    def", "return y, memory\n\n    def"),
        ("variants: the gate has its norm", "return self.out_proj(y * F.silu(z) * self.gain)", "return super()._output(y, z)"),
        ("variants: a step keeps the norm", "y, memory = fast.step_(theta, phi, value, memory, eps=FLAT)",
         "y, memory = fast.step_(theta, phi, value, memory, eps=self.eps)"),
        ("variants: one norm, not over the slots", "(squares.sum(dim, keepdim=True) / (self.num_slots * self.slot_width) + self.eps).sqrt()",
         "(squares / self.slot_width + self.eps).sqrt()"),
        ("variants: a tile forgets the memory before it", "squares = starts.square() * before.square().sum(-1, keepdim=True)", "squares = 0 * starts"),
        ("variants: a tile counts twice the products once", "squares + 2 * starts *", "squares + starts *"),
        ("variants: later tokens of a tile are read", ".triu(1)", ".triu(2)"),
        ("variants: tiles follow without their decay", "states.append(start * states[-1] + new)", "states.append(states[-1] + new)"),
        ("variants: the memory before is not scaled", "        return slots * self.scale", "        return slots"),
        ("variants: a value is scaled once in its norm", "@ self.scale.square().mT).movedim", "@ self.scale.mT).movedim"),
    ),
]
# fmt: on

"""Other answers to the exercises of notebook 4, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% affinity, right: the others at minus infinity
def sparse_affinity(logits, K):
    kept = torch.full_like(logits, -torch.inf)
    slots = logits.argsort(descending=True, stable=True)[:K]
    kept[slots] = logits[slots]
    return kept.softmax(0)


# %% affinity, right: kept affinities over their sum
def sparse_affinity(logits, K):
    alpha = logits.softmax(0)
    kept = torch.zeros_like(alpha)
    kept[top_slots(logits, K)] = 1
    return alpha * kept / (alpha * kept).sum()


# %% affinity, right: in plain Python
def sparse_affinity(logits, K):
    left, row = logits.tolist(), torch.zeros(len(logits))
    largest = max(left)
    for _ in range(K):
        slot = left.index(max(left))
        row[slot] = torch.tensor(left[slot] - largest).exp()
        left[slot] = float("-inf")
    return row / row.sum()


# %% affinity, wrong: exp overflows
def sparse_affinity(logits, K):
    slots = top_slots(logits, K)
    return torch.zeros_like(logits).scatter(0, slots, logits[slots].exp() / logits[slots].exp().sum())


# %% affinity, wrong: not divided by the sum of what is kept
def sparse_affinity(logits, K):
    slots = top_slots(logits, K)
    return torch.zeros_like(logits).scatter(0, slots, logits.softmax(0)[slots])


# %% affinity, wrong: all that equal the last one kept
def sparse_affinity(logits, K):
    least = logits.sort(descending=True).values[K - 1]
    return logits.masked_fill(logits < least, -torch.inf).softmax(0)


# %% affinity, wrong: of equals the highest slots
def sparse_affinity(logits, K):
    slots = len(logits) - 1 - top_slots(logits.flip(0), K)
    return torch.zeros_like(logits).scatter(0, slots, logits[slots].softmax(0))


# %% affinity, wrong: the softmax after zeros are put in
def sparse_affinity(logits, K):
    slots = top_slots(logits, K)
    return torch.zeros_like(logits).scatter(0, slots, logits[slots]).softmax(0)


# %% affinity, wrong: the K weights, and no places
def sparse_affinity(logits, K):
    return logits[top_slots(logits, K)].softmax(0)


# %% place, right: a tile that counts, with sums
def place_in_segment(slot):
    decays = torch.cat([torch.zeros(1), (slot[1:] == slot[:-1]).float()])
    return decay(decays) @ torch.ones(len(slot))


# %% place, right: less the place of the run's first pair
def place_in_segment(slot):
    places = torch.arange(len(slot))
    begins = torch.cat([torch.tensor([True]), slot.diff() != 0])
    return places + 1 - (places * begins).cummax(0).values


# %% place, right: by search
def place_in_segment(slot):
    return torch.arange(1, len(slot) + 1) - torch.searchsorted(slot, slot)


# %% place, right: equal slots up to each pair
def place_in_segment(slot):
    return (slot[:, None] == slot).tril().sum(1)


# %% place, wrong: a loop over pairs
def place_in_segment(slot):
    places = []
    for e, i in enumerate(slot.tolist()):
        places.append(places[-1] + 1 if e and i == slot[e - 1] else 1)
    return torch.tensor(places)


# %% place, wrong: a loop over runs
def place_in_segment(slot):
    return torch.cat([torch.arange(1, n + 1) for n in slot.unique_consecutive(return_counts=True)[1].tolist()])


# %% place, wrong: the loop of the notebook
def place_in_segment(slot):
    decays = torch.ones(len(slot))
    decays[0], decays[1:] = 0, (slot.diff() == 0).float()
    return scan(decays, torch.ones(len(slot), 1))[:, 0]


# %% place, wrong: counted from 0
def place_in_segment(slot):
    return torch.arange(len(slot)) - torch.searchsorted(slot, slot)


# %% place, wrong: never begun again
def place_in_segment(slot):
    return decay(torch.ones(len(slot))).sum(-1)


# %% place, wrong: how many pairs the run has
def place_in_segment(slot):
    return slot.bincount()[slot]


# %% initial, right: slot by slot where a run begins
def with_initial_state(theta, value, first, before):
    decays, written = 1 - theta, theta[:, None] * value
    for e in first.nonzero().flatten().tolist():
        written[e] += decays[e] * before[e]
        decays[e] = 0
    return decays, written


# %% initial, right: with torch.where
def with_initial_state(theta, value, first, before):
    after_first = before + theta[:, None] * (value - before)
    return torch.where(first, 0.0, 1 - theta), torch.where(first[:, None], after_first, theta[:, None] * value)


# %% initial, right: with products
def with_initial_state(theta, value, first, before):
    begins = first.float()
    written = theta[:, None] * value + (begins * (1 - theta))[:, None] * before
    return (1 - begins) * (1 - theta), written


# %% initial, wrong: slots that start at 0
def with_initial_state(theta, value, first, before):
    return (1 - theta).masked_fill(first, 0), theta[:, None] * value


# %% initial, wrong: the start whole, though the first pair writes
def with_initial_state(theta, value, first, before):
    return (1 - theta).masked_fill(first, 0), theta[:, None] * value + first[:, None] * before


# %% initial, wrong: the start again and again
def with_initial_state(theta, value, first, before):
    return (1 - theta).masked_fill(first, 0), theta[:, None] * value + (1 - theta)[:, None] * before


# %% initial, wrong: the first pair writes nothing
def with_initial_state(theta, value, first, before):
    return (1 - theta).masked_fill(first, 0), torch.where(first[:, None], before, theta[:, None] * value)


# %% initial, wrong: no cut
def with_initial_state(theta, value, first, before):
    return 1 - theta, theta[:, None] * value + (first * (1 - theta))[:, None] * before

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


# %% squares, right: all rows of a token at once
def squares_of(theta, slots, value, h):
    sums = []
    for gate, named, v in zip(theta, slots, value, strict=True):
        h[named] += gate[:, None] * (v - h[named])
        sums.append((h[named] ** 2).sum(-1))
    return np.stack(sums)


# %% squares, right: number by number
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        for k in range(theta.shape[1]):
            for d in range(value.shape[1]):
                i = slots[t, k]
                h[i, d] = (1 - theta[t, k]) * h[i, d] + theta[t, k] * value[t, d]
                squares[t, k] += h[i, d] ** 2
    return squares


# %% squares, right: rows in a dictionary, in torch
def squares_of(theta, slots, value, h):
    rows, squares = {}, torch.zeros(theta.shape)
    for t, v in enumerate(torch.from_numpy(value)):
        for k, (gate, i) in enumerate(zip(theta[t].tolist(), slots[t].tolist(), strict=True)):
            row = rows.get(i, torch.from_numpy(h[i]))
            rows[i] = (1 - gate) * row + gate * v
            squares[t, k] = rows[i] @ rows[i]
    return squares


# %% squares, wrong: the mean of the columns that it has
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        h[slots[t]] += theta[t][:, None] * (value[t] - h[slots[t]])
        squares[t] = (h[slots[t]] ** 2).mean(-1)
    return squares


# %% squares, wrong: before the token writes
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        squares[t] = (h[slots[t]] ** 2).sum(-1)
        h[slots[t]] += theta[t][:, None] * (value[t] - h[slots[t]])
    return squares


# %% squares, wrong: a row that is not put back
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        rows = (1 - theta[t])[:, None] * h[slots[t]] + theta[t][:, None] * value[t]
        squares[t] = (rows**2).sum(-1)
    return squares


# %% squares, wrong: all slots, with weights of 0
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        gates = np.zeros(len(h), h.dtype)
        gates[slots[t]] = theta[t]
        h = (1 - gates)[:, None] * h + gates[:, None] * value[t]
        squares[t] = (gates > 0) @ (h**2).sum(-1) / len(slots[t])
    return squares


# %% squares, wrong: roots, which cannot be added
def squares_of(theta, slots, value, h):
    squares = np.zeros(theta.shape)
    for t in range(len(value)):
        h[slots[t]] += theta[t][:, None] * (value[t] - h[slots[t]])
        squares[t] = (h[slots[t]] ** 2).sum(-1) ** 0.5
    return squares


# %% own-auto, right: lines by polyfit, with weights
def fit_auto(rows):
    def line(form, what):
        seconds = np.array([row[form] for row in rows])
        return np.poly1d(np.polyfit([row[what] for row in rows], seconds, 1, w=1 / seconds))

    lines = {"chunked": line("chunked", "M"), "scan": line("scan", "K"), "walk": line("walk", "K")}
    return lambda K, M: min(FORMS, key=lambda form: lines[form](M if form == "chunked" else K))


# %% own-auto, right: between the measured times, in logarithms
def fit_auto(rows):
    def time_at(form, K, M):
        of_size = [row for row in rows if row["M"] == M]
        x, y = [np.log(row["K"] / M) for row in of_size], [np.log(row[form]) for row in of_size]
        return lambda wanted: np.interp(np.log(wanted), x, y)

    def rule(K, M):
        sizes = sorted({row["M"] for row in rows})
        below, above = max(m for m in sizes if m <= M), min(m for m in sizes if m >= M)
        part = np.log(M / below) / np.log(above / below) if below < above else 0
        ends = {form: [time_at(form, K, m)(K / M) for m in (below, above)] for form in FORMS}
        return min(FORMS, key=lambda form: (1 - part) * ends[form][0] + part * ends[form][1])

    return rule


# %% own-auto, right: medians of what a pair and a slot cost, beside what a call costs
def fit_auto(rows):
    def line(form, what):
        ends = [min(rows, key=lambda row: row[what]), max(rows, key=lambda row: row[what])]
        slope = (ends[1][form] - ends[0][form]) / (ends[1][what] - ends[0][what])
        return np.median([row[form] - slope * row[what] for row in rows]), slope

    lines = {"chunked": line("chunked", "M"), "scan": line("scan", "K"), "walk": line("walk", "K")}
    return lambda K, M: min(FORMS, key=lambda form: lines[form][0] + lines[form][1] * (M if form == "chunked" else K))


# %% own-auto, wrong: the rule of the project, whatever was measured
def fit_auto(rows):
    return lambda K, M: "walk" if K <= 8 + 5 * M / 12 else "chunked"


# %% own-auto, wrong: what was fastest at the nearest measurement
def fit_auto(rows):
    def rule(K, M):
        def far(row):
            return abs(np.log(row["M"] / M)) + abs(np.log(row["K"] / row["M"] / (K / M)))

        near = min(rows, key=far)
        return min(FORMS, key=lambda form: near[form])

    return rule


# %% own-auto, wrong: always the form that is fastest most often
def fit_auto(rows):
    fastest = [min(FORMS, key=lambda form: row[form]) for row in rows]
    return lambda K, M: max(FORMS, key=fastest.count)


# %% own-auto, wrong: up to a quarter of the slots
def fit_auto(rows):
    return lambda K, M: "walk" if 4 * K <= M else "chunked"


# %% own-auto, wrong: a pair and a slot have a price, and a call costs nothing
def fit_auto(rows):
    last = max(rows, key=lambda row: row["M"] * row["K"])
    price = {"chunked": last["chunked"] / last["M"], "scan": last["scan"] / last["K"], "walk": last["walk"] / last["K"]}
    return lambda K, M: min(FORMS, key=lambda form: price[form] * (M if form == "chunked" else K))


# %% own-auto, wrong: a name that is no form
def fit_auto(rows):
    return lambda K, M: "auto"

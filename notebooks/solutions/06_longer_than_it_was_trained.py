"""Other answers to the exercises of notebook 6, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% between, right: one after the other
def between(so_far, lasts):
    means, total, at = [], 0.0, 0
    for mean, last in zip(so_far.tolist(), lasts.tolist(), strict=True):
        means.append((mean * last - total) / (last - at))
        total, at = mean * last, last
    return torch.tensor(means, dtype=so_far.dtype)


# %% between, right: with what was before, moved by one place
def between(so_far, lasts):
    sums = so_far * lasts
    sums_before, lasts_before = sums.roll(1), lasts.roll(1)
    sums_before[0], lasts_before[0] = 0, 0
    return (sums - sums_before) / (lasts - lasts_before)


# %% between, right: so far, and what the last tokens add to it
def between(so_far, lasts):
    widths = lasts.diff(prepend=torch.zeros(1, dtype=lasts.dtype))
    before = torch.cat([so_far[:1], so_far[:-1]])
    return so_far + (so_far - before) * (lasts - widths) / widths


# %% between, wrong: differences of means
def between(so_far, lasts):
    return torch.cat([so_far[:1], so_far.diff()])


# %% between, wrong: as if every bucket doubled the position
def between(so_far, lasts):
    return torch.cat([so_far[:1], 2 * so_far[1:] - so_far[:-1]])


# %% between, wrong: sums instead of means
def between(so_far, lasts):
    return (so_far * lasts).diff(prepend=torch.zeros(1))


# %% between, wrong: divided by the position, not by the width
def between(so_far, lasts):
    return (so_far * lasts).diff(prepend=torch.zeros(1)) / lasts


# %% between, wrong: the first bucket as if it were one position wide
def between(so_far, lasts):
    sums = so_far * lasts
    return torch.cat([sums[:1], sums.diff() / lasts.diff()])


# %% interval, right: draw after draw
def paired_interval(a, b, files):
    differences = [(a - b)[files == file] for file in files.unique()]
    sums, counts = (torch.tensor([f(part) for part in differences]) for f in (torch.sum, len))
    means = []
    for _ in range(2000):
        drawn = torch.randint(len(sums), (len(sums),))
        means.append((sums[drawn].sum() / counts[drawn].sum()).item())
    means.sort()
    return means[50], means[-51]


# %% interval, right: by how often each file is drawn, with numpy
def paired_interval(a, b, files):
    import numpy as np

    count = int(files.max()) + 1
    sums, windows = np.bincount(files, (a - b).numpy()), np.bincount(files)
    often = np.random.default_rng(1).multinomial(count, [1 / count] * count, 2000)
    return np.quantile(often @ sums / (often @ windows), [0.025, 0.975])


# %% interval, right: both models' means, from the same draws
def paired_interval(a, b, files):
    count = int(files.max()) + 1
    often = torch.zeros(2000, count).scatter_add(1, torch.randint(count, (2000, count)), torch.ones(2000, count))
    weight = often[:, files]
    means = weight @ a / weight.sum(1) - weight @ b / weight.sum(1)
    return means.quantile(torch.tensor([0.025, 0.975]))


# %% interval, wrong: 90 %
def paired_interval(a, b, files):
    count = int(files.max()) + 1
    sums = torch.zeros(count).index_add(0, files, a - b)
    drawn = torch.randint(count, (2000, count))
    means = sums[drawn].sum(1) / files.bincount()[drawn].sum(1)
    return means.quantile(0.05), means.quantile(0.95)


# %% interval, wrong: 100 draws
def paired_interval(a, b, files):
    count = int(files.max()) + 1
    sums = torch.zeros(count).index_add(0, files, a - b)
    drawn = torch.randint(count, (100, count))
    means = sums[drawn].sum(1) / files.bincount()[drawn].sum(1)
    return means.quantile(0.025), means.quantile(0.975)


# %% interval, wrong: as of a normal distribution
def paired_interval(a, b, files):
    count = int(files.max()) + 1
    sums = torch.zeros(count).index_add(0, files, a - b)
    drawn = torch.randint(count, (2000, count))
    means = sums[drawn].sum(1) / files.bincount()[drawn].sum(1)
    middle, error = (a - b).mean(), means.std()
    return middle - 1.96 * error, middle + 1.96 * error


# %% interval, wrong: windows are drawn
def paired_interval(a, b, files):
    drawn = torch.randint(len(a), (2000, len(a)))
    means = (a - b)[drawn].mean(1)
    return means.quantile(0.025), means.quantile(0.975)


# %% interval, wrong: the files of each model drawn by themselves
def paired_interval(a, b, files):
    count, means = int(files.max()) + 1, []
    for losses in (a, b):
        sums = torch.zeros(count).index_add(0, files, losses)
        drawn = torch.randint(count, (2000, count))
        means.append(sums[drawn].sum(1) / files.bincount()[drawn].sum(1))
    difference = means[0] - means[1]
    return difference.quantile(0.025), difference.quantile(0.975)


# %% interval, wrong: every file counts alike, whatever it has of windows
def paired_interval(a, b, files):
    count = int(files.max()) + 1
    mean_of_file = torch.zeros(count).index_add(0, files, a - b) / files.bincount()
    means = mean_of_file[torch.randint(count, (2000, count))].mean(1)
    return means.quantile(0.025), means.quantile(0.975)


# %% far, right: segment by segment
def far_worth(read, cut, segment):
    parts = []
    for start in range(segment, read.shape[1], segment):
        known = slice(start + segment // 2, start + segment)
        parts.append(cut[:, known] - read[:, known])
    return torch.cat(parts, 1).mean()


# %% far, right: by place
def far_worth(read, cut, segment):
    place = torch.arange(read.shape[1])
    return (cut - read)[:, (place >= segment) & (place % segment >= segment // 2)].mean()


# %% far, right: two means
def far_worth(read, cut, segment):
    means = [v.reshape(len(v), -1, segment)[:, 1:, -(segment // 2) :].double().mean() for v in (cut, read)]
    return (means[0] - means[1]).item()


# %% far, wrong: the first segment is counted
def far_worth(read, cut, segment):
    return (cut - read).unflatten(1, (-1, segment))[:, :, segment // 2 :].mean()


# %% far, wrong: all of every segment
def far_worth(read, cut, segment):
    return (cut - read)[:, segment:].mean()


# %% far, wrong: the first half of every segment
def far_worth(read, cut, segment):
    return (cut - read).unflatten(1, (-1, segment))[:, 1:, : segment // 2].mean()


# %% far, wrong: the other way round
def far_worth(read, cut, segment):
    return (read - cut).unflatten(1, (-1, segment))[:, 1:, segment // 2 :].mean()


# %% far, wrong: the last segment only
def far_worth(read, cut, segment):
    return (cut - read)[:, -(segment // 2) :].mean()


# %% far, wrong: what is less than nothing counts as more
def far_worth(read, cut, segment):
    return (cut - read).abs().unflatten(1, (-1, segment))[:, 1:, segment // 2 :].mean()


# %% paid, right: byte by byte
def paid(mean, first, last, n):
    by_byte = [m for m, begin, end in zip(mean, first, last, strict=True) for _ in range(begin, end + 1)]
    return sum(by_byte[:n]) / sum(by_byte)


# %% paid, right: means of everything so far
def paid(mean, first, last, n):
    mean, first, last = (torch.tensor(v, dtype=torch.float64) for v in (mean, first, last))
    so_far = (mean * (last - first + 1)).cumsum(0)
    return (so_far[last == n] / so_far[-1]).item()


# %% paid, right: with numpy
def paid(mean, first, last, n):
    import numpy as np

    cost = np.array(mean) * np.diff([0, *last])
    return cost[np.array(last) <= n].sum() / cost.sum()


# %% paid, wrong: buckets count alike
def paid(mean, first, last, n):
    return sum(mean[: last.index(n) + 1]) / sum(mean)


# %% paid, wrong: means, not sums
def paid(mean, first, last, n):
    width = [end - begin + 1 for begin, end in zip(first, last, strict=True)]
    cost = [m * w for m, w in zip(mean, width, strict=True)]
    at = last.index(n) + 1
    return (sum(cost[:at]) / n) / (sum(cost) / last[-1])


# %% paid, wrong: without the bucket that ends at n
def paid(mean, first, last, n):
    cost = [m * (end - begin + 1) for m, begin, end in zip(mean, first, last, strict=True)]
    return sum(cost[: last.index(n)]) / sum(cost)


# %% paid, wrong: what comes after n
def paid(mean, first, last, n):
    cost = [m * (end - begin + 1) for m, begin, end in zip(mean, first, last, strict=True)]
    return sum(cost[last.index(n) + 1 :]) / sum(cost)


# %% paid, wrong: what is less than nothing counts as more
def paid(mean, first, last, n):
    cost = [abs(m) * (end - begin + 1) for m, begin, end in zip(mean, first, last, strict=True)]
    return sum(cost[: last.index(n) + 1]) / sum(cost)


# %% copy, right: the longest match of three lengths
def with_copy(p, tokens):
    text, ended = bytes(min(t, 255) for t in tokens.tolist()), {}
    for t in range(len(text)):
        guess = None
        for k in (4, 6, 10):
            key = text[t - k + 1 : t + 1] if t >= k - 1 else None
            if key is not None:
                if key in ended:
                    guess = text[ended[key] + 1], {4: 0.2, 6: 0.3, 10: 0.5}[k]
                ended[key] = t
        if guess:
            p[t] *= 1 - guess[1]
            p[t, guess[0]] += guess[1]
    return p


# %% copy, right: all places at once, the latest counts
def with_copy(p, tokens):
    k, n = 6, len(tokens)
    rows = tokens.unfold(0, k, 1)  # row r ends at place r + k - 1
    same = (rows[:, None] == rows[None]).all(-1).tril(-1)
    latest = (same * torch.arange(1, len(rows) + 1)).amax(1)  # 0: none
    places = latest.nonzero().flatten()
    after = tokens[latest[places] - 1 + k]
    mixed, at = p.clone(), places + k - 1
    mixed[at] *= 0.7
    mixed[at, after] += 0.3
    assert len(mixed) == n
    return mixed


# %% copy, right: as sure as it was right so far
def with_copy(p, tokens):
    text, ended, right, asked, guess = tokens.tolist(), {}, 1, 4, None
    for t in range(len(text)):
        if guess is not None:
            right, asked = right + (guess == text[t]), asked + 1
        key, guess = tuple(text[max(0, t - 4) : t + 1]), None
        if key in ended:
            guess, share = text[ended[key] + 1], 0.6 * right / asked
            p[t] *= 1 - share
            p[t, guess] += share
        ended[key] = t
    return p


# %% copy, wrong: the model as it is
def with_copy(p, tokens):
    return p


# %% copy, wrong: looks at the byte that comes
def with_copy(p, tokens):
    p[:-1] *= 0.5
    p[torch.arange(len(p) - 1), tokens[1:]] += 0.5
    return p


# %% copy, wrong: the dictionary is filled with the whole text first
def with_copy(p, tokens):
    text = tokens.tolist()
    ended = {tuple(text[t - 4 : t + 1]): t for t in range(4, len(text) - 1)}
    for t in range(4, len(text)):
        key = tuple(text[t - 4 : t + 1])
        if key in ended:
            p[t] *= 0.7
            p[t, text[ended[key] + 1]] += 0.3
    return p


# %% copy, wrong: rows that add up to more than 1
def with_copy(p, tokens):
    text, ended = tokens.tolist(), {}
    for t in range(4, len(text)):
        key = tuple(text[t - 4 : t + 1])
        if key in ended:
            p[t, text[ended[key] + 1]] += 0.3
        ended[key] = t
    return p


# %% copy, wrong: too sure
def with_copy(p, tokens):
    text, ended = tokens.tolist(), {}
    for t in range(2, len(text)):
        key = tuple(text[t - 2 : t + 1])
        if key in ended:
            p[t] *= 0.001
            p[t, text[ended[key] + 1]] += 0.999
        ended[key] = t
    return p


# %% copy, wrong: the byte itself again, not the one that came after it
def with_copy(p, tokens):
    p *= 0.7
    p[torch.arange(len(p)), tokens] += 0.3
    return p

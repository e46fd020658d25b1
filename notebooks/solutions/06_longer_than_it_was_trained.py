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

"""Other answers to the exercises of notebook 7, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% luck, right: counted exactly
def luck(p, n):
    chances = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    logs = [c + k * math.log(p) + (n - k) * math.log(1 - p) for k, c in enumerate(chances)]
    so_far = torch.tensor(logs, dtype=torch.double).exp().cumsum(0)
    return tuple((so_far < share).sum().item() / n for share in (0.025, 0.975))


# %% luck, right: drawn
def luck(p, n):
    right = (torch.rand(4000, n) < p).double().mean(1)
    return right.quantile(0.025).item(), right.quantile(0.975).item()


# %% luck, right: by the normal distribution of the standard library
def luck(p, n):
    from statistics import NormalDist

    shares = NormalDist(p, (p * (1 - p) / n) ** 0.5)
    return shares.inv_cdf(0.025), shares.inv_cdf(0.975)


# %% luck, wrong: one standard deviation
def luck(p, n):
    deviation = math.sqrt(p * (1 - p) / n)
    return p - deviation, p + deviation


# %% luck, wrong: the variance
def luck(p, n):
    variance = p * (1 - p) / n
    return p - 1.96 * variance, p + 1.96 * variance


# %% luck, wrong: of one answer
def luck(p, n):
    deviation = math.sqrt(p * (1 - p))
    return p - 1.96 * deviation, p + 1.96 * deviation


# %% luck, wrong: the number of right answers
def luck(p, n):
    deviation = math.sqrt(n * p * (1 - p))
    return n * p - 1.96 * deviation, n * p + 1.96 * deviation


# %% luck, wrong: as if every p were a half
def luck(p, n):
    return p - 0.98 / math.sqrt(n), p + 0.98 / math.sqrt(n)


# %% half-life, right: in float64
def half_life(theta):
    return (-math.log(2) / (1 - theta.double()).log()).abs()


# %% half-life, right: one after the other
def half_life(theta):
    lives = [math.log(0.5) / math.log1p(-t) if 0 < t < 1 else math.inf if t == 0 else 0.0 for t in theta.tolist()]
    return torch.tensor(lives)


# %% half-life, right: with logarithms to the base 2
def half_life(theta):
    return (1 / (1 - theta.double()).log2()).abs()


# %% half-life, wrong: the approximation for small theta
def half_life(theta):
    return math.log(2) / theta


# %% half-life, wrong: 1 - theta in float32
def half_life(theta):
    return -math.log(2) / (1 - theta).log()


# %% half-life, wrong: the mean time, not the half-life
def half_life(theta):
    return -1 / torch.log1p(-theta)


# %% half-life, wrong: of what is written, not of what is left
def half_life(theta):
    return -math.log(2) / theta.log()


# %% half-life, wrong: whole fillers only
def half_life(theta):
    return (-math.log(2) / torch.log1p(-theta)).ceil()


# %% into-bin, right: minus infinity, one mask after the other
def into_bin(logits, kinds, waste):
    out = logits.clone()
    fillers = kinds == 2
    kept = out[fillers][:, waste]
    out[fillers] = -math.inf
    out[..., waste] = -math.inf
    out[..., waste][fillers] = kept
    return out


# %% into-bin, right: a large bias
def into_bin(logits, kinds, waste):
    sign = 2.0 * (kinds == 2) - 1
    bias = torch.zeros_like(logits)
    bias[..., waste] = 200 * sign
    return logits + bias


# %% into-bin, right: the logits of fillers are new
def into_bin(logits, kinds, waste):
    is_bin = torch.arange(logits.shape[-1]) == waste
    fillers = torch.where(is_bin, 0.0, -500.0)
    return torch.where((kinds == 2)[..., None], fillers, torch.where(is_bin, -500.0, logits))


# %% into-bin, wrong: everything goes to the bin
def into_bin(logits, kinds, waste):
    return logits.masked_fill(torch.arange(logits.shape[-1]) != waste, -1e9)


# %% into-bin, wrong: a small bias
def into_bin(logits, kinds, waste):
    sign = 2.0 * (kinds == 2) - 1
    bias = torch.zeros_like(logits)
    bias[..., waste] = 5 * sign
    return logits + bias


# %% into-bin, wrong: keys and values may use the bin
def into_bin(logits, kinds, waste):
    is_bin = torch.arange(logits.shape[-1]) == waste
    return logits.masked_fill((kinds == 2)[..., None] & ~is_bin, -1e9)


# %% into-bin, wrong: the fillers are kept out of the bin
def into_bin(logits, kinds, waste):
    is_bin = torch.arange(logits.shape[-1]) == waste
    return logits.masked_fill((kinds == 2)[..., None] == is_bin, -1e9)


# %% into-bin, wrong: keys and values use the other slots alike
def into_bin(logits, kinds, waste):
    is_bin = torch.arange(logits.shape[-1]) == waste
    return torch.where((kinds == 2)[..., None] != is_bin, -1e9, torch.zeros_like(logits))


# %% into-bin, wrong: fillers are masked everywhere
def into_bin(logits, kinds, waste):
    out = logits.masked_fill((kinds == 2)[..., None], -math.inf)
    out[..., waste] = -math.inf
    return out


# %% last-values, right: a table for each sequence
def last_values(told, keys):
    tables = [dict(zip(row[::2], row[1::2], strict=True)) for row in told.tolist()]
    return torch.tensor([[table[key] for key in row] for table, row in zip(tables, keys.tolist(), strict=True)])


# %% last-values, right: backwards, and the first that matches
def last_values(told, keys):
    pairs = told.unflatten(1, (-1, 2)).flip(1)
    match = keys[:, :, None] == pairs[:, None, :, 0]
    return pairs[..., 1].gather(1, match.int().argmax(-1))


# %% last-values, right: token after token into a memory with a slot for each key
def last_values(told, keys):
    memory, rows = torch.zeros(len(told), KEYS, dtype=told.dtype), torch.arange(len(told))
    for key, value in zip(told[:, ::2].T, told[:, 1::2].T, strict=True):
        memory[rows, key] = value
    return memory.gather(1, keys)


# %% last-values, wrong: the first value
def last_values(told, keys):
    match = keys[:, :, None] == told[:, None, ::2]
    return told[:, 1::2].gather(1, match.int().argmax(-1))


# %% last-values, wrong: the largest value
def last_values(told, keys):
    match = keys[:, :, None] == told[:, None, ::2]
    return (match * told[:, None, 1::2]).amax(-1)


# %% last-values, wrong: the last pairs, whoever asks
def last_values(told, keys):
    return told[:, 1::2][:, -keys.shape[1] :]


# %% last-values, wrong: the keys
def last_values(told, keys):
    return keys


# %% by-hand, right: token after token
def by_hand(tokens):
    B, T = tokens.shape
    theta, phi, value = (torch.zeros(B, T, 64) for _ in range(3))
    for b, row in enumerate(tokens.tolist()):
        for t, token in enumerate(row):
            if token < 64:
                phi[b, t, token] = 1
            elif token < 128:
                theta[b, t, row[t - 1]], value[b, t, token - 64] = 1, 1
    return theta, phi, value


# %% by-hand, right: half of a slot is enough
def by_hand(tokens):
    before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
    codes = torch.eye(192)
    theta = 0.6 * codes[before][..., :64] * ((tokens >= 64) & (tokens < 128))[..., None]
    return theta, 0.5 * codes[tokens][..., :64], codes[tokens][..., 64:128]


# %% by-hand, right: fillers have a waste bin, slot 64, which nothing reads
def by_hand(tokens):
    slot = torch.where(tokens < 128, tokens.roll(1, 1), 64).clamp(max=64)
    theta = torch.eye(65)[slot] * (tokens >= 64)[..., None]
    phi = torch.eye(65)[tokens.clamp(max=64)] * (tokens < 64)[..., None]
    return theta, phi, torch.eye(192)[tokens][..., 64:128]


# %% by-hand, wrong: a slot for each value
def by_hand(tokens):
    codes = torch.eye(192)[tokens]
    return codes[..., 64:128], codes[..., :64], codes[..., 64:128]


# %% by-hand, wrong: a slot for each place
def by_hand(tokens):
    place = torch.eye(tokens.shape[1] + 4)[torch.arange(tokens.shape[1]) // 2].expand(len(tokens), -1, -1)
    codes = torch.eye(192)[tokens]
    return place * codes[..., 64:128].sum(-1, keepdim=True), place, codes[..., 64:128]


# %% by-hand, wrong: fillers write to all slots, a little
def by_hand(tokens):
    codes, before = torch.eye(192), tokens.roll(1, 1)
    is_value, is_filler = ((tokens >= 64) & (tokens < 128))[..., None], (tokens >= 128)[..., None]
    theta = codes[before][..., :64] * is_value + 0.05 * is_filler
    return theta, codes[tokens][..., :64], codes[tokens][..., 64:128] + codes[tokens][..., 128:]


# %% by-hand, wrong: the answer is looked up in the token after
def by_hand(tokens):
    after = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
    one = torch.ones(*tokens.shape, 1)
    return one, one, torch.eye(192)[after][..., 64:128]


# %% by-hand, wrong: what was told first stays
def by_hand(tokens):
    theta, phi, value = (torch.zeros(*tokens.shape, 64) for _ in range(3))
    for b, row in enumerate(tokens.tolist()):
        seen = set()
        for t, token in enumerate(row):
            if token < 64:
                phi[b, t, token] = 1
            elif token < 128 and row[t - 1] not in seen:
                seen.add(row[t - 1])
                theta[b, t, row[t - 1]], value[b, t, token - 64] = 1, 1
    return theta, phi, value

"""Other answers to the exercises of notebook 9, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% chance, right: place by place
def chance(a, b):
    pool, places = [*a, *b], range(len(a) + len(b))
    found = []
    for at in map(set, combinations(places, len(a))):
        first, second = [pool[i] for i in at], [pool[i] for i in places if i not in at]
        found.append(sum(first) / len(first) - sum(second) / len(second))
    return sum(way > found[0] - 1e-9 for way in found) / len(found)  # the first way is the measured one


# %% chance, right: the sum of the first group says it all
def chance(a, b):
    sums = [sum(first) for first in combinations([*a, *b], len(a))]
    return sum(s > sum(a) - 1e-9 for s in sums) / math.comb(len(a) + len(b), len(a))


# %% chance, right: by bits of a number, with tensors
def chance(a, b):
    pool = torch.tensor([*a, *b], dtype=torch.float64)
    codes = torch.arange(2 ** len(pool))
    masks = (codes[:, None] >> torch.arange(len(pool))) & 1
    masks = masks[masks.sum(1) == len(a)].double()
    apart = masks @ pool / len(a) - (1 - masks) @ pool / len(b)
    return (apart >= apart[(masks[:, : len(a)] == 1).all(1)] - 1e-9).double().mean().item()


# %% chance, right: how many ways have each sum, number by number
def chance(a, b):
    ways = {(0, 0.0): 1}
    for x in [*a, *b]:
        longer = dict(ways)
        for (taken, total), count in ways.items():
            key = taken + 1, round(total + x, 9)
            longer[key] = longer.get(key, 0) + count
        ways = longer
    of_size = {total: count for (taken, total), count in ways.items() if taken == len(a)}
    return sum(n for total, n in of_size.items() if total >= sum(a) - 1e-9) / sum(of_size.values())


# %% chance, wrong: further apart only, so the measured way does not count
def chance(a, b):
    sums = [sum(first) for first in combinations([*a, *b], len(a))]
    return sum(s > sum(a) + 1e-9 for s in sums) / len(sums)


# %% chance, wrong: to both sides
def chance(a, b):
    total = sum(a) + sum(b)
    apart = [sum(f) / len(a) - (total - sum(f)) / len(b) for f in combinations([*a, *b], len(a))]
    want = abs(sum(a) / len(a) - sum(b) / len(b))
    return sum(abs(way) >= want - 1e-9 for way in apart) / len(apart)


# %% chance, wrong: equal ways are counted once
def chance(a, b):
    ways = {tuple(sorted(first)) for first in combinations([*a, *b], len(a))}
    return sum(sum(way) >= sum(a) - 1e-9 for way in ways) / len(ways)


# %% chance, wrong: results of equal places are swapped, as if they were pairs
def chance(a, b):
    ways = [0]
    for x, y in zip(a, b, strict=False):
        ways = [way + sign * (x - y) for way in ways for sign in (1, -1)]
    return sum(way >= ways[0] - 1e-9 for way in ways) / len(ways)


# %% chance, wrong: the share of pairs in which b is the larger
def chance(a, b):
    return sum(y >= x for x in a for y in b) / (len(a) * len(b))


# %% chance, wrong: the other direction
def chance(a, b):
    sums = [sum(first) for first in combinations([*a, *b], len(a))]
    return sum(s <= sum(a) + 1e-9 for s in sums) / len(sums)


# %% closed-gate, right: with logarithms
def largest_eta(affinity, gap):
    eta = -math.expm1(-math.log(2) / gap) / affinity
    return torch.where(eta < 1, eta, 1.0)


# %% closed-gate, right: one after the other
def largest_eta(affinity, gap):
    share = 1 - 2 ** (-1 / gap)
    return torch.tensor([share / a if a > share else 1.0 for a in affinity.tolist()], dtype=torch.float64)


# %% closed-gate, right: by halves
def largest_eta(affinity, gap):
    low, high = torch.zeros_like(affinity), torch.ones_like(affinity)
    for _ in range(60):
        middle = (low + high) / 2
        enough = (1 - middle * affinity) ** gap >= 0.5
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where((1 - affinity) ** gap >= 0.5, torch.ones_like(low), low)


# %% closed-gate, wrong: the rule for small rates
def largest_eta(affinity, gap):
    return (math.log(2) / (gap * affinity)).clamp(max=1)


# %% closed-gate, wrong: above 1 where the affinity is small
def largest_eta(affinity, gap):
    return (1 - 0.5 ** (1 / gap)) / affinity


# %% closed-gate, wrong: the write weight, not the rate
def largest_eta(affinity, gap):
    return torch.full_like(affinity, 1 - 0.5 ** (1 / gap))


# %% closed-gate, wrong: what is kept, not what is written
def largest_eta(affinity, gap):
    return (0.5 ** (1 / gap) / affinity).clamp(max=1)


# %% closed-gate, wrong: an equal part of the half for every filler
def largest_eta(affinity, gap):
    return (0.5 / gap / affinity).clamp(max=1)


# %% closed-gate, wrong: always closed
def largest_eta(affinity, gap):
    return torch.zeros_like(affinity)


# %% flat, right: affinities by a softmax of the logarithms
def flat(theta):
    return theta.sum(-1).mean() * theta.log().softmax(-1)


# %% flat, right: text after text
def flat(theta):
    rate = sum(row.sum() for text in theta for row in text) / (theta.shape[0] * theta.shape[1])
    return torch.stack([rate * text / text.sum(1, keepdim=True) for text in theta])


# %% flat, right: the mean rate is M times the mean weight
def flat(theta):
    return F.normalize(theta, p=1, dim=-1) * theta.mean() * theta.shape[-1]


# %% flat, wrong: the mean weight of each slot, so the choice of slots is gone too
def flat(theta):
    return theta.mean((0, 1), keepdim=True).expand_as(theta)


# %% flat, wrong: the rate is 1
def flat(theta):
    return theta / theta.sum(-1, keepdim=True)


# %% flat, wrong: a mean for each text
def flat(theta):
    eta = theta.sum(-1, keepdim=True)
    return eta.mean(1, keepdim=True) * theta / eta


# %% flat, wrong: the largest weight is taken for the rate
def flat(theta):
    eta = theta.amax(-1, keepdim=True)
    return eta.mean() * theta / eta


# %% flat, wrong: the mean weight is taken for the rate
def flat(theta):
    return theta.mean() * theta / theta.sum(-1, keepdim=True)


# %% one-norm, right: read as it is, times the size of the states
def one_norm(theta, phi, value, state, eps=1e-6):
    raw, end = factorization_memory(theta, phi, value, state, eps=FLAT)
    squares = []
    for w, v in zip(theta.unbind(1), value.unbind(1), strict=True):
        state = torch.lerp(state.to(raw.dtype), v[:, None].expand_as(state).to(raw.dtype), w[..., None].to(raw.dtype))
        squares.append(state.flatten(1).square().mean(1))
    return FLAT**0.5 * raw * (torch.stack(squares, 1)[..., None] + eps) ** -0.5, end


# %% one-norm, right: with einsum
def one_norm(theta, phi, value, state, eps=1e-6):
    ys = []
    for t in range(theta.shape[1]):
        keep, write = 1 - theta[:, t], torch.einsum("bm,bd->bmd", theta[:, t], value[:, t])
        state = torch.einsum("bm,bmd->bmd", keep, state) + write
        size = torch.einsum("bmd,bmd->b", state, state) / state[0].numel()
        ys.append(torch.einsum("bm,bmd,b->bd", phi[:, t], state, (size + eps).rsqrt()))
    return torch.stack(ys, 1), state


# %% one-norm, right: the rms of the rms of the slots
def one_norm(theta, phi, value, state, eps=1e-6):
    y = torch.zeros_like(value)
    rows = []
    for t in range(value.shape[1]):
        state = state + theta[:, t, :, None] * (value[:, t, None] - state)
        slots = state.square().mean(2)
        rows.append((phi[:, t, None] @ state)[:, 0] / torch.sqrt(slots.mean(1, keepdim=True) + eps))
    return y + torch.stack(rows, 1), state


# %% one-norm, wrong: a norm for each slot, as in FM
def one_norm(theta, phi, value, state, eps=1e-6):
    return factorization_memory(theta, phi, value, state, eps=eps)


# %% one-norm, wrong: no norm
def one_norm(theta, phi, value, state, eps=1e-6):
    y, end = factorization_memory(theta, phi, value, state, eps=FLAT)
    return FLAT**0.5 * y, end


# %% one-norm, wrong: the norm of what was read
def one_norm(theta, phi, value, state, eps=1e-6):
    y, end = factorization_memory(theta, phi, value, state, eps=FLAT)
    y = FLAT**0.5 * y
    return y / (y.square().mean(-1, keepdim=True) + eps).sqrt(), end


# %% one-norm, wrong: the sum over slots, not their mean
def one_norm(theta, phi, value, state, eps=1e-6):
    ys = []
    for w, r, v in zip(theta.unbind(1), phi.unbind(1), value.unbind(1), strict=True):
        state = (1 - w[..., None]) * state + w[..., None] * v[:, None]
        rms = (state.square().mean(2).sum(1) + eps).sqrt()
        ys.append((r[..., None] * state).sum(1) / rms[:, None])
    return torch.stack(ys, 1), state


# %% one-norm, wrong: over all sequences too
def one_norm(theta, phi, value, state, eps=1e-6):
    ys = []
    for w, r, v in zip(theta.unbind(1), phi.unbind(1), value.unbind(1), strict=True):
        state = (1 - w[..., None]) * state + w[..., None] * v[:, None]
        ys.append((r[..., None] * state).sum(1) / (state.square().mean() + eps).sqrt())
    return torch.stack(ys, 1), state


# %% one-norm, wrong: the size of the last state for all tokens
def one_norm(theta, phi, value, state, eps=1e-6):
    y, end = factorization_memory(theta, phi, value, state, eps=FLAT)
    return FLAT**0.5 * y / (end.square().mean((1, 2)) + eps).sqrt()[:, None, None], end

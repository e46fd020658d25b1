"""Other answers to the exercises of notebook 5, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% age, right: byte by byte
def mean_age(theta):
    held, total = 0.0, 0.0  # sum of shares, and of shares times ages
    for write in theta.tolist():
        total = (1 - write) * (total + held)
        held = (1 - write) * held + write
    return total / held


# %% age, right: products from the end
def mean_age(theta):
    newest_first = theta.flip(0)
    left = torch.cat([torch.ones(1), (1 - newest_first).cumprod(0)[:-1]])
    weights = newest_first * left
    return weights @ torch.arange(len(theta)).float() / weights.sum()


# %% age, right: numpy's average
def mean_age(theta):
    return np.average(np.arange(len(theta))[::-1], weights=shares(theta[:, None])[:, 0].numpy())


# %% age, wrong: not divided by the sum of shares
def mean_age(theta):
    return shares(theta[:, None])[:, 0] @ torch.arange(len(theta)).flip(0).float()


# %% age, wrong: the last byte has age 1
def mean_age(theta):
    weights = shares(theta[:, None])[:, 0]
    return weights @ torch.arange(len(theta), 0, -1).float() / weights.sum()


# %% age, wrong: places, not ages
def mean_age(theta):
    weights = shares(theta[:, None])[:, 0]
    return weights @ torch.arange(len(theta)).float() / weights.sum()


# %% age, wrong: as if nothing were overwritten
def mean_age(theta):
    return theta @ torch.arange(len(theta)).flip(0).float() / theta.sum()


# %% age, wrong: the rule of a constant theta
def mean_age(theta):
    return (1 - theta.mean()) / theta.mean()


# %% bytes-until-half, right: byte by byte
def bytes_until_half(theta, start):
    left = 1.0
    for count, write in enumerate(theta[start:], 1):
        left = left * (1 - write)
        if left <= 0.5:
            return count
    return math.inf


# %% bytes-until-half, right: the first of those at or below a half
def bytes_until_half(theta, start):
    gone = (torch.cumprod(1 - theta[start:], 0) <= 0.5).nonzero()
    return gone[0, 0] + 1 if len(gone) else math.inf


# %% bytes-until-half, right: with numpy, by search
def bytes_until_half(theta, start):
    left = np.cumprod(1 - theta.numpy()[start:])
    count = np.searchsorted(-left, -0.5)
    return count + 1 if count < len(left) else math.inf


# %% bytes-until-half, wrong: counted from 0
def bytes_until_half(theta, start):
    left = (1 - theta[start:]).cumprod(0)
    return math.inf if left[-1] > 0.5 else int((left > 0.5).sum())


# %% bytes-until-half, wrong: exactly a half is not enough
def bytes_until_half(theta, start):
    left = (1 - theta[start:]).cumprod(0)
    return math.inf if left[-1] >= 0.5 else int((left >= 0.5).sum()) + 1


# %% bytes-until-half, wrong: never infinite
def bytes_until_half(theta, start):
    return int(((1 - theta[start:]).cumprod(0) <= 0.5).int().argmax()) + 1


# %% bytes-until-half, wrong: byte `start` is left out
def bytes_until_half(theta, start):
    left = (1 - theta[start + 1 :]).cumprod(0)
    return math.inf if left[-1] > 0.5 else int((left > 0.5).sum()) + 1


# %% bytes-until-half, wrong: shares are added up
def bytes_until_half(theta, start):
    written = theta[start:].cumsum(0)
    return math.inf if written[-1] < 0.5 else int((written < 0.5).sum()) + 1


# %% bytes-until-half, wrong: the rule
def bytes_until_half(theta, start):
    return math.ceil(math.log(2) / theta[start:].mean())


# %% choice, right: with the notebook's entropies
def choice(alpha):
    one, all_of_them = entropies(alpha.numpy()).mean(), entropies(alpha.mean(0, keepdim=True).numpy())
    return all_of_them.item() - one


# %% choice, right: the mean distance of a row from the mean
def choice(alpha):
    mean = alpha.mean(0).clamp(min=1e-30)
    return (alpha * (alpha.clamp(min=1e-30) / mean).log2()).sum(-1).mean()


# %% choice, right: torch's entropy, in bits
def choice(alpha):
    return (torch.special.entr(alpha.mean(0)).sum() - torch.special.entr(alpha).sum(-1).mean()) / math.log(2)


# %% choice, wrong: the entropy of the strongest slots
def choice(alpha):
    share = alpha.argmax(-1).bincount() / len(alpha)
    return torch.special.entr(share).sum() / math.log(2)


# %% choice, wrong: less the entropy of the first row only
def choice(alpha):
    return (torch.special.entr(alpha.mean(0)).sum() - torch.special.entr(alpha[0]).sum()) / math.log(2)


# %% choice, wrong: the entropy of the mean alone
def choice(alpha):
    return torch.special.entr(alpha.mean(0)).sum() / math.log(2)


# %% choice, wrong: natural logarithms
def choice(alpha):
    return torch.special.entr(alpha.mean(0)).sum() - torch.special.entr(alpha).sum(-1).mean()


# %% choice, wrong: not a number where an affinity is 0
def choice(alpha):
    mean = alpha.mean(0)
    return (alpha * alpha.log2()).sum(-1).mean() - (mean * mean.log2()).sum()


# %% choice, wrong: the mean over numbers, not over rows
def choice(alpha):
    return (torch.special.entr(alpha.mean(0)).mean() - torch.special.entr(alpha).mean()) / math.log(2)


# %% beyond, right: what both tell less what the byte tells
def beyond(kinds, text, slots):
    return information(kinds, 1000 * text + slots) - information(kinds, text)


# %% beyond, right: what is open before, less what is open after
def beyond(kinds, text, slots):
    open_before = bits(kinds, text) - bits(text)
    return open_before - (bits(kinds, text, slots) - bits(text, slots))


# %% beyond, right: byte by byte
def beyond(kinds, text, slots):
    told_of = 0.0
    for byte, count in zip(*text.unique(return_counts=True), strict=True):
        told_of += count.item() / len(text) * information(kinds[text == byte], slots[text == byte])
    return told_of


# %% beyond, wrong: what the slot tells of the kind
def beyond(kinds, text, slots):
    return information(kinds, slots)


# %% beyond, wrong: what the slot tells of the kind, less what the byte tells
def beyond(kinds, text, slots):
    return information(kinds, slots) - information(kinds, text)


# %% beyond, wrong: what is open of the slot, and not of the kind
def beyond(kinds, text, slots):
    return bits(text, slots) - bits(text)


# %% beyond, wrong: what is open of the kind
def beyond(kinds, text, slots):
    return bits(kinds, text) - bits(text)


# %% beyond, wrong: what byte and slot tell together
def beyond(kinds, text, slots):
    return bits(kinds) + bits(text, slots) - bits(kinds, text, slots)


# %% beyond, wrong: what the slot tells of the byte
def beyond(kinds, text, slots):
    return information(text, slots)


# %% spare, right: the cheapest, as many as the limit allows
def spare(cost, rises, read):
    order = rises.argsort()
    for count in range(len(order), 0, -1):
        if cost(order[:count]) <= 0.02:
            return order[:count]


# %% spare, right: the half that is read least
def spare(cost, rises, read):
    return read.argsort()[: M // 2]


# %% spare, right: the half that costs least, each alone
def spare(cost, rises, read):
    return rises.argsort()[: len(rises) // 2].tolist()


# %% spare, wrong: the first half
def spare(cost, rises, read):
    return torch.arange(M // 2)


# %% spare, wrong: the half that is read most
def spare(cost, rises, read):
    return read.argsort(descending=True)[: M // 2]


# %% spare, wrong: the one that costs least
def spare(cost, rises, read):
    return [int(rises.argmin())]


# %% spare, wrong: all
def spare(cost, rises, read):
    return range(M)


# %% spare, wrong: the cheapest, again and again
def spare(cost, rises, read):
    return [int(rises.argmin())] * M

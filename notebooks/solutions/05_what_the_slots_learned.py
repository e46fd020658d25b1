"""Other answers to the exercises of notebook 5, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


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
    return bits(alpha.argmax(-1))


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

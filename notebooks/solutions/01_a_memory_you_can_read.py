"""Other answers to the exercises of notebook 1, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% my-step, right: slot by slot
def my_step(theta, phi, value, h, eps=1e-6):
    y, new = torch.zeros(len(value)), torch.empty(h.shape)
    for i in range(len(h)):
        new[i] = h[i] + theta[i] * (value - h[i])
        y += phi[i] * new[i] / math.sqrt((new[i] ** 2).mean() + eps)
    return y, new


# %% my-step, right: the weights divided, then one product
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta[:, None]) * h + torch.outer(theta, value)
    rms = (h.square().sum(-1) / len(value) + eps).sqrt()
    return (phi / rms) @ h, h


# %% my-step, right: torch's own functions
def my_step(theta, phi, value, h, eps=1e-6):
    h = h.lerp(value, theta[:, None])
    return phi @ F.rms_norm(h, (len(value),), eps=eps), h


# %% my-step, wrong: ε outside the root
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta[:, None]) * h + theta[:, None] * value
    return (phi / (h.square().mean(-1).sqrt() + eps)) @ h, h


# %% my-step, wrong: ε forgotten
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta[:, None]) * h + theta[:, None] * value
    return (phi / h.square().mean(-1).sqrt()) @ h, h


# %% my-step, wrong: ε always 10⁻⁶
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta[:, None]) * h + theta[:, None] * value
    return (phi / (h.square().mean(-1) + 1e-6).sqrt()) @ h, h


# %% my-step, wrong: the old state is read
def my_step(theta, phi, value, h, eps=1e-6):
    y = (phi / (h.square().mean(-1) + eps).sqrt()) @ h
    return y, (1 - theta[:, None]) * h + theta[:, None] * value


# %% my-step, wrong: divided by the length instead of the rms
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta[:, None]) * h + theta[:, None] * value
    return (phi / (h.square().sum(-1) + eps).sqrt()) @ h, h


# %% my-step, wrong: θ along the row, no error where M = D
def my_step(theta, phi, value, h, eps=1e-6):
    h = (1 - theta) * h + theta * value
    return (phi / (h.square().mean(-1) + eps).sqrt()) @ h, h


# %% theta-for, right: with exponential and logarithm
def theta_for(n):
    return -math.expm1(-math.log(2) / n)


# %% theta-for, right: a tensor
def theta_for(n):
    return 1 - torch.tensor(0.5).pow(1 / n)


# %% theta-for, right: by halving an interval
def theta_for(n):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** n > 0.5 else (low, middle)
    return low


# %% theta-for, wrong: the rule
def theta_for(n):
    return math.log(2) / n


# %% theta-for, wrong: what is kept instead of what is written
def theta_for(n):
    return 0.5 ** (1 / n)


# %% theta-for, wrong: what is left after n tokens of 1/2, turned round
def theta_for(n):
    return 1 - 0.5**n


# %% theta-for, wrong: an equal part of the half for every token
def theta_for(n):
    return 0.5 / n


# %% theta-for, wrong: one token too many
def theta_for(n):
    return 1 - 0.5 ** (1 / (n + 1))


# %% mean-theta, right: a list
def mean_theta(T):
    return [1 / t for t in range(1, T + 1)]


# %% mean-theta, right: from the weight before
def mean_theta(T):
    theta = torch.ones(T)
    for t in range(1, T):
        theta[t] = theta[t - 1] / (1 + theta[t - 1])  # a share θ of what is kept must be a share θ of all
    return theta


# %% mean-theta, right: by counting, in float64
def mean_theta(T):
    return torch.ones(T, dtype=torch.float64).cumsum(0).reciprocal()


# %% mean-theta, wrong: the start counts as a value
def mean_theta(T):
    return 1 / torch.arange(2, T + 2)


# %% mean-theta, wrong: the mean after the last token only, if nothing faded
def mean_theta(T):
    return torch.full((T,), 1 / T)


# %% mean-theta, wrong: from the last token to the first
def mean_theta(T):
    return 1 / torch.arange(T, 0, -1)


# %% mean-theta, wrong: counted from 0
def mean_theta(T):
    return 1 / torch.arange(T).clamp(min=1)


# %% mean-theta, wrong: halves
def mean_theta(T):
    return torch.tensor([1.0, *[0.5] * (T - 1)])


# %% kind-means, right: token by token
def kind_means(kinds, M):
    count, theta = [0] * M, torch.zeros(len(kinds), M)
    for t, kind in enumerate(kinds.tolist()):
        count[kind] += 1
        theta[t, kind] = 1 / count[kind]
    return theta


# %% kind-means, right: kind by kind
def kind_means(kinds, M):
    theta = torch.zeros(len(kinds), M)
    for i in range(M):
        mine = (kinds == i).nonzero()[:, 0]
        theta[mine, i] = 1 / torch.arange(1.0, len(mine) + 1)
    return theta


# %% kind-means, right: counts of all pairs of tokens
def kind_means(kinds, M):
    same = (kinds[:, None] == kinds).tril().sum(1)  # tokens of its kind so far
    return (kinds[:, None] == torch.arange(M)) / same[:, None]


# %% kind-means, wrong: counts all tokens
def kind_means(kinds, M):
    return F.one_hot(kinds, M) / torch.arange(1, len(kinds) + 1)[:, None]


# %% kind-means, wrong: what has not come yet is divided by 0
def kind_means(kinds, M):
    own = F.one_hot(kinds, M)
    return own / own.cumsum(0)


# %% kind-means, wrong: the last value of a kind, not the mean
def kind_means(kinds, M):
    return F.one_hot(kinds, M).float()


# %% kind-means, wrong: counts what is still to come
def kind_means(kinds, M):
    own = F.one_hot(kinds, M)
    return own / own.sum(0).clamp(min=1)


# %% kind-means, wrong: every slot is written
def kind_means(kinds, M):
    return 1 / F.one_hot(kinds, M).cumsum(0).clamp(min=1)


# %% larger, right: counted up
def first_larger(M, D, d):
    n = 0
    while 2 * d * n <= M * D:
        n += 1
    return n


# %% larger, right: rounded down, and one more
def first_larger(M, D, d):
    return math.floor(M * D / (2 * d)) + 1


# %% larger, right: rounded up from one number more
def first_larger(M, D, d):
    return math.ceil((M * D + 1) / (2 * d))


# %% larger, wrong: where they are equal
def first_larger(M, D, d):
    return math.ceil(M * D / (2 * d))


# %% larger, wrong: rounded down
def first_larger(M, D, d):
    return M * D // (2 * d)


# %% larger, wrong: keys alone
def first_larger(M, D, d):
    return M * D // d + 1


# %% larger, wrong: not a whole number
def first_larger(M, D, d):
    return M * D / (2 * d)


# %% larger, wrong: slots as wide as the layer
def first_larger(M, D, d):
    return M // 2 + 1

"""Other answers to the exercises of notebook 10, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% as-gla, right: the squared norms alone, as in notebook 2
def as_gla(theta, phi, value, eps):
    h, n, squares = value.new_zeros(theta.shape[1], value.shape[1]), value.new_zeros(theta.shape[1]), []
    for w, v in zip(theta, value, strict=True):
        n = (1 - w) ** 2 * n + 2 * w * (1 - w) * (h @ v) + w**2 * (v @ v)
        h = torch.lerp(h, v.expand_as(h), w[:, None])
        squares.append(n)
    mean = torch.stack(squares) / value.shape[1]
    return 1 - theta, theta, phi * (mean + eps) ** -0.5


# %% as-gla, right: the states of all beginnings, by the project's loop
def as_gla(theta, phi, value, eps):
    ends = [
        factorization_memory(theta[None, :t], phi[None, :t], value[None, :t])[1][0] for t in range(1, 1 + len(theta))
    ]
    return 1 - theta, theta, phi / (torch.stack(ends).square().mean(-1) + eps).sqrt()


# %% as-gla, right: gla reads each row by a query of its own
def as_gla(theta, phi, value, eps):
    rows = []
    for i in range(theta.shape[1]):
        only = torch.zeros_like(phi)
        only[:, i] = 1
        rows.append(gla(1 - theta, theta, value, only)[0])
    squares = torch.stack([row.square().mean(-1) for row in rows], 1)
    return 1 - theta, theta, phi / (squares + eps).sqrt()


# %% as-gla, wrong: the read weights alone
def as_gla(theta, phi, value, eps):
    return 1 - theta, theta, phi


# %% as-gla, wrong: the state before the token
def as_gla(theta, phi, value, eps):
    state, rms = value.new_zeros(theta.shape[1], value.shape[1]), []
    for w, v in zip(theta[..., None], value, strict=True):
        rms.append((state.square().mean(-1) + eps).sqrt())
        state = (1 - w) * state + w * v
    return 1 - theta, theta, phi / torch.stack(rms).clamp_min(1e-9)


# %% as-gla, wrong: the rms of the value
def as_gla(theta, phi, value, eps):
    return 1 - theta, theta, phi / (value.square().mean(-1, keepdim=True) + eps).sqrt()


# %% as-gla, wrong: the last state for all tokens
def as_gla(theta, phi, value, eps):
    state = gla(1 - theta, theta, value, phi)[1]
    return 1 - theta, theta, phi / (state.square().mean(-1) + eps).sqrt()


# %% as-gla, wrong: ε stands outside the root
def as_gla(theta, phi, value, eps):
    state, rms = value.new_zeros(theta.shape[1], value.shape[1]), []
    for w, v in zip(theta[..., None], value, strict=True):
        state = (1 - w) * state + w * v
        rms.append(state.square().mean(-1).sqrt() + eps)
    return 1 - theta, theta, phi / torch.stack(rms)


# %% as-gla, wrong: the length of a row, not its rms
def as_gla(theta, phi, value, eps):
    state, rms = value.new_zeros(theta.shape[1], value.shape[1]), []
    for w, v in zip(theta[..., None], value, strict=True):
        state = (1 - w) * state + w * v
        rms.append((state.square().sum(-1) + eps).sqrt())
    return 1 - theta, theta, phi / torch.stack(rms)


# %% mixture, right: what is not written, by a product
def one_table(stays, read, weight):
    chosen = (weight != 0).to(stays)[..., None]
    return (1 - chosen * (1 - stays)).flatten(1), (read * weight.unsqueeze(-1)).reshape(len(read), -1)


# %% mixture, right: memory by memory
def one_table(stays, read, weight):
    gates, reads = [], []
    for j in range(stays.shape[1]):
        gate = stays[:, j].clone()
        gate[weight[:, j] == 0] = 1
        gates.append(gate)
        reads.append(weight[:, j, None] * read[:, j])
    return torch.cat(gates, 1), torch.cat(reads, 1)


# %% mixture, right: a gate to the power of 0 is 1
def one_table(stays, read, weight):
    return (stays ** weight.sign()[..., None]).flatten(1), torch.einsum("tms,tm->tms", read, weight).flatten(1)


# %% mixture, wrong: all memories see all tokens
def one_table(stays, read, weight):
    return stays.flatten(1), (weight[..., None] * read).flatten(1)


# %% mixture, wrong: a memory that is left out forgets all
def one_table(stays, read, weight):
    return (stays * (weight > 0)[..., None]).flatten(1), (weight[..., None] * read).flatten(1)


# %% mixture, wrong: what is read has no weight
def one_table(stays, read, weight):
    chosen = (weight > 0)[..., None]
    return torch.where(chosen, stays, 1).flatten(1), (chosen * read).flatten(1)


# %% mixture, wrong: the weight makes the writing smaller, too
def one_table(stays, read, weight):
    weight = weight[..., None]
    return (1 - weight * (1 - stays)).flatten(1), (weight * read).flatten(1)


# %% mixture, wrong: row 1 of all memories comes first
def one_table(stays, read, weight):
    weight = weight[..., None]
    return torch.where(weight > 0, stays, 1).mT.flatten(1), (weight * read).mT.flatten(1)


# %% gsa, right: from gated_slots, a row at a time
def gsa(stays, query, key, value):
    log, tables = stays.log()[None, :, None], []
    for what in (key, value):
        rows = []
        for i in range(stays.shape[1]):
            only = torch.zeros_like(log)
            only[..., i] = 1
            rows.append(gated_slots(log, only, what[None, :, None])[0][0, :, 0])
        tables.append(torch.stack(rows, 1))  # [T, M, P] and [T, M, D]
    read = (tables[0] @ query[..., None]).softmax(1)
    return (read * tables[1]).sum(1)


# %% gsa, right: from the decays, without a loop over tokens
def gsa(stays, query, key, value):
    T = len(stays)
    weights = torch.zeros(stays.shape[1], T, T).to(stays)
    for t in range(T):
        for s in range(t + 1):
            weights[:, t, s] = (1 - stays[s]) * stays[s + 1 : t + 1].prod(0)
    read = ((weights @ key) * query).sum(-1).softmax(0)
    return (read[..., None] * (weights @ value)).sum(0)


# %% gsa, right: both tables at once
def gsa(stays, query, key, value):
    both, ys = torch.cat([key, value], 1), []
    state = torch.zeros(stays.shape[1], both.shape[1]).to(both)
    for t in range(len(both)):
        state = torch.lerp(both[t].expand_as(state), state, stays[t][:, None])
        keys, values = state.split([key.shape[1], value.shape[1]], 1)
        read = torch.exp(keys @ query[t])
        ys.append((read / read.sum()) @ values)
    return torch.stack(ys)


# %% gsa, wrong: read before the write
def gsa(stays, query, key, value):
    keys, values = key.new_zeros(stays.shape[1], key.shape[1]), value.new_zeros(stays.shape[1], value.shape[1])
    ys = []
    for a, q, k, v in zip(stays[..., None], query, key, value, strict=True):
        ys.append((keys @ q).softmax(0) @ values)
        keys, values = a * keys + (1 - a) * k, a * values + (1 - a) * v
    return torch.stack(ys)


# %% gsa, wrong: scores over the root of the width, as in attention
def gsa(stays, query, key, value):
    keys, values = key.new_zeros(stays.shape[1], key.shape[1]), value.new_zeros(stays.shape[1], value.shape[1])
    ys = []
    for a, q, k, v in zip(stays[..., None], query, key, value, strict=True):
        keys, values = a * keys + (1 - a) * k, a * values + (1 - a) * v
        ys.append((keys @ q / math.sqrt(len(q))).softmax(0) @ values)
    return torch.stack(ys)


# %% gsa, wrong: no softmax
def gsa(stays, query, key, value):
    keys, values = key.new_zeros(stays.shape[1], key.shape[1]), value.new_zeros(stays.shape[1], value.shape[1])
    ys = []
    for a, q, k, v in zip(stays[..., None], query, key, value, strict=True):
        keys, values = a * keys + (1 - a) * k, a * values + (1 - a) * v
        ys.append(keys @ q @ values)
    return torch.stack(ys)


# %% gsa, wrong: gate and write are exchanged
def gsa(stays, query, key, value):
    keys, values = key.new_zeros(stays.shape[1], key.shape[1]), value.new_zeros(stays.shape[1], value.shape[1])
    ys = []
    for a, q, k, v in zip(stays[..., None], query, key, value, strict=True):
        keys, values = (1 - a) * keys + a * k, (1 - a) * values + a * v
        ys.append((keys @ q).softmax(0) @ values)
    return torch.stack(ys)


# %% gsa, wrong: keys are added up, values alone are gated
def gsa(stays, query, key, value):
    keys, values = key.new_zeros(stays.shape[1], key.shape[1]), value.new_zeros(stays.shape[1], value.shape[1])
    ys = []
    for a, q, k, v in zip(stays[..., None], query, key, value, strict=True):
        keys, values = keys + (1 - a) * k, a * values + (1 - a) * v
        ys.append((keys @ q).softmax(0) @ values)
    return torch.stack(ys)


# %% delta, right: with the matrix that erases
def delta(beta, key, value, query):
    state, ys = torch.zeros(key.shape[1], value.shape[1]).to(value), []
    for t in range(len(key)):
        along = beta[t] * torch.outer(key[t], key[t])
        state = state - along @ state + beta[t] * torch.outer(key[t], value[t])
        ys.append(state.T @ query[t])
    return torch.stack(ys), state


# %% delta, right: what each token really writes, then linear attention
def delta(beta, key, value, query):
    written = []
    for t in range(len(key)):
        said = sum(((key[s] @ key[t]) * written[s] for s in range(t)), torch.zeros_like(value[t]))
        written.append(beta[t] * (value[t] - said))
    written = torch.stack(written)
    return (query @ key.T).tril() @ written, key.T @ written


# %% delta, right: by one triangular system
def delta(beta, key, value, query):
    system = torch.eye(len(key)).to(key) + beta[:, None] * (key @ key.T).tril(-1)
    written = torch.linalg.solve_triangular(system, beta[:, None] * value, upper=False)
    return (query @ key.T).tril() @ written, key.T @ written


# %% delta, wrong: only added up
def delta(beta, key, value, query):
    return gla(torch.ones_like(key), beta[:, None] * key, value, query)


# %% delta, wrong: the whole state fades
def delta(beta, key, value, query):
    return gla((1 - beta[:, None]).expand_as(key), beta[:, None] * key, value, query)


# %% delta, wrong: the difference is written whole
def delta(beta, key, value, query):
    state, ys = value.new_zeros(key.shape[1], value.shape[1]), []
    for b, k, v, q in zip(beta, key, value, query, strict=True):
        state = state + torch.outer(k, b * v - k @ state)
        ys.append(q @ state)
    return torch.stack(ys), state


# %% delta, wrong: what is stored is taken back, the value is written whole
def delta(beta, key, value, query):
    state, ys = value.new_zeros(key.shape[1], value.shape[1]), []
    for b, k, v, q in zip(beta, key, value, query, strict=True):
        state = state + torch.outer(k, v - b * (k @ state))
        ys.append(q @ state)
    return torch.stack(ys), state


# %% delta, wrong: read before the write
def delta(beta, key, value, query):
    state, ys = value.new_zeros(key.shape[1], value.shape[1]), []
    for b, k, v, q in zip(beta, key, value, query, strict=True):
        ys.append(q @ state)
        state = state + b * torch.outer(k, v - k @ state)
    return torch.stack(ys), state


# %% delta, wrong: the rows erase for themselves, as gates do
def delta(beta, key, value, query):
    share = beta[:, None] * key.square()
    return gla(1 - share, beta[:, None] * key, value, query)

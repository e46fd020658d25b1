"""Other answers to the exercises of notebook 2, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% decay-between, right: chunk by chunk
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    decay = to_end[s // C, s % C].clone()
    for chunk in range(s // C + 1, t // C):
        decay *= from_start[chunk, -1]
    return decay * from_start[t // C, t % C]


# %% decay-between, right: what is between by the first token of a chunk, which is kept to the end
def decay_between(from_start, to_end, s, t):
    (first, place), (last, end) = divmod(s, from_start.shape[1]), divmod(t, from_start.shape[1])
    whole = from_start[:, 0] * to_end[:, 0]
    return to_end[first, place] * whole[first + 1 : last].prod(0) * from_start[last, end]


# %% decay-between, right: all factors in one table
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    factors = [to_end[s // C, s % C], *from_start[s // C + 1 : t // C, -1], from_start[t // C, t % C]]
    return torch.stack(factors).prod(0)


# %% decay-between, wrong: the chunks between are forgotten
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    return to_end[s // C, s % C] * from_start[t // C, t % C]


# %% decay-between, wrong: the chunk of s counts as between, too
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    return to_end[s // C, s % C] * from_start[s // C : t // C, -1].prod(0) * from_start[t // C, t % C]


# %% decay-between, wrong: the chunk of t counts as between, too
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    return to_end[s // C, s % C] * from_start[s // C + 1 : t // C + 1, -1].prod(0) * from_start[t // C, t % C]


# %% decay-between, wrong: a quotient instead of keep, which fails at θ = 1
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    to_the_end = from_start[s // C, -1] / from_start[s // C, s % C]
    return to_the_end * from_start[s // C + 1 : t // C, -1].prod(0) * from_start[t // C, t % C]


# %% decay-between, wrong: the token t itself is left out
def decay_between(from_start, to_end, s, t):
    C = from_start.shape[1]
    before = from_start[t // C, t % C - 1] if t % C else 1.0
    return to_end[s // C, s % C] * from_start[s // C + 1 : t // C, -1].prod(0) * before


# %% any-length, right: zeros by torch.cat
def any_length(form, theta, phi, value, H, C):
    T = len(value)
    missing = (C - T % C) % C
    theta, phi, value = (torch.cat([v, v.new_zeros(missing, v.shape[1])]) for v in (theta, phi, value))
    y, state = form(theta, phi, value, H, C)
    return y[:T], state


# %% any-length, right: always one more chunk, of vectors that are never written
def any_length(form, theta, phi, value, H, C):
    T, M = theta.shape
    more = C + (-T) % C
    nothing, vectors = theta.new_zeros(more, M), torch.randn(more, value.shape[1], dtype=value.dtype)
    y, state = form(torch.cat([theta, nothing]), torch.cat([phi, nothing]), torch.cat([value, vectors]), H, C)
    return y[:T], state


# %% any-length, right: tokens that change nothing before the first
def any_length(form, theta, phi, value, H, C):
    more = -len(value) % C
    y, state = form(*(F.pad(v, (0, 0, more, 0)) for v in (theta, phi, value)), H, C)
    return y[more:], state


# %% any-length, right: whole chunks first, then the rest
def any_length(form, theta, phi, value, H, C):
    whole, parts = len(value) // C * C, []
    if whole:
        y, H = form(theta[:whole], phi[:whole], value[:whole], H, C)
        parts.append(y)
    if whole < len(value):
        y, H = form(*(F.pad(v[whole:], (0, 0, 0, C - len(v) % C)) for v in (theta, phi, value)), H, C)
        parts.append(y[: len(value) - whole])
    return torch.cat(parts), H


# %% any-length, wrong: the last token again
def any_length(form, theta, phi, value, H, C):
    more = -len(value) % C
    y, state = form(*(torch.cat([v, v[-1:].expand(more, -1)]) for v in (theta, phi, value)), H, C)
    return y[: len(value)], state


# %% any-length, wrong: θ = 1 forgets instead of keeping
def any_length(form, theta, phi, value, H, C):
    more = -len(value) % C
    theta = F.pad(theta, (0, 0, 0, more), value=1.0)
    y, state = form(theta, *(F.pad(v, (0, 0, 0, more)) for v in (phi, value)), H, C)
    return y[: len(value)], state


# %% any-length, wrong: the y of tokens that were added
def any_length(form, theta, phi, value, H, C):
    return form(*(F.pad(v, (0, 0, 0, -len(value) % C)) for v in (theta, phi, value)), H, C)


# %% any-length, wrong: the loop, and no chunks
def any_length(form, theta, phi, value, H, C):
    return loop(theta, phi, value, H)


# %% any-length, wrong: chunks of one token
def any_length(form, theta, phi, value, H, C):
    return form(theta, phi, value, H, 1)


# %% alike, right: number by number
def alike(theta, q, squares, start):
    (T, M), inner, result = theta.shape, start.clone(), torch.empty(*theta.shape, theta.shape[1], dtype=theta.dtype)
    for t in range(T):
        for i in range(M):
            for j in range(M):
                a_i, a_j = 1 - theta[t, i], 1 - theta[t, j]
                crossed = a_i * theta[t, j] * q[t, i] + a_j * theta[t, i] * q[t, j]
                inner[i, j] = a_i * a_j * inner[i, j] + crossed + theta[t, i] * theta[t, j] * squares[t]
        result[t] = inner
    return result


# %% alike, right: on sides of a product
def alike(theta, q, squares, start):
    inner, all_inner = start, []
    for write, dot, square in zip(theta, q, squares, strict=True):
        a = (1 - write).diag()
        crossed = a @ dot[:, None] @ write[None]
        inner = a @ inner @ a + crossed + crossed.mT + square * write[:, None] * write
        all_inner.append(inner)
    return torch.stack(all_inner)


# %% alike, right: by one table of products of decays
def alike(theta, q, squares, start):
    a = 1 - theta
    pairs = a[:, :, None] * a[:, None]  # what one token leaves of an inner product
    crossed = (a * q)[:, :, None] * theta[:, None]
    added = crossed + crossed.mT + squares[:, None, None] * theta[:, :, None] * theta[:, None]
    left = decay_tile(1 - pairs.flatten(1))  # [T, T, M M]
    inner = (left * added.flatten(1)).sum(1) + pairs.flatten(1).cumprod(0) * start.flatten()
    return inner.unflatten(1, start.shape)


# %% alike, wrong: one of the crossed terms
def alike(theta, q, squares, start):
    inner, result = start, []
    for write, dot, square in zip(theta, q, squares, strict=True):
        a = 1 - write
        inner = torch.outer(a, a) * inner + 2 * torch.outer(a * dot, write) + square * torch.outer(write, write)
        result.append(inner)
    return torch.stack(result)


# %% alike, wrong: the decay of the norms, a², for all pairs
def alike(theta, q, squares, start):
    inner, result = start, []
    for write, dot, square in zip(theta, q, squares, strict=True):
        a = 1 - write
        crossed = torch.outer(a * dot, write)
        inner = a[:, None] ** 2 * inner + crossed + crossed.T + square * torch.outer(write, write)
        result.append(inner)
    return torch.stack(result)


# %% alike, wrong: q without its decay
def alike(theta, q, squares, start):
    inner, result = start, []
    for write, dot, square in zip(theta, q, squares, strict=True):
        a = 1 - write
        crossed = torch.outer(dot, write)
        inner = torch.outer(a, a) * inner + crossed + crossed.T + square * torch.outer(write, write)
        result.append(inner)
    return torch.stack(result)


# %% alike, wrong: slots that start at 0
def alike(theta, q, squares, start):
    inner, result = torch.zeros_like(start), []
    for write, dot, square in zip(theta, q, squares, strict=True):
        a = 1 - write
        crossed = torch.outer(a * dot, write)
        inner = torch.outer(a, a) * inner + crossed + crossed.T + square * torch.outer(write, write)
        result.append(inner)
    return torch.stack(result)


# %% alike, wrong: before each token instead of after it
def alike(theta, q, squares, start):
    inner, result = start, []
    for write, dot, square in zip(theta, q, squares, strict=True):
        result.append(inner)
        a = 1 - write
        crossed = torch.outer(a * dot, write)
        inner = torch.outer(a, a) * inner + crossed + crossed.T + square * torch.outer(write, write)
    return torch.stack(result)


# %% dphi, right: token by token, the inner products instead of the state
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    left, rows = torch.zeros_like(theta), []  # left[s]: what is still there of what s wrote
    from_start = torch.ones_like(theta[0])
    for t in range(len(theta)):
        left, from_start = (1 - theta[t]) * left, (1 - theta[t]) * from_start
        left[t] = theta[t]
        rows.append(from_start * H_dy[t] + gram[t] @ left)
    return torch.stack(rows) / (norms / D + 1e-6).sqrt()


# %% dphi, right: q of the chunk, and the token itself
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    decay = decay_tile(theta)
    before = decay_from_start(theta) * H_dy + torch.einsum("tsi,si,ts->ti", decay, theta, gram.tril(-1))
    return (before + theta * gram.diagonal()[:, None]) * (norms / D + 1e-6).rsqrt()


# %% dphi, right: as one product for each slot
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    written = decay_tile(theta) * theta  # [t, s, i]
    h_dy = decay_from_start(theta) * H_dy + (written * gram[..., None]).sum(1)
    return h_dy * D**0.5 / (norms + D * 1e-6).sqrt()


# %% dphi, wrong: the state before the token
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = torch.einsum("tsi,si,ts->ti", decay_tile(theta), theta, gram.tril(-1))
    return (decay_from_start(theta) * H_dy + h_dy) / (norms / D + 1e-6).sqrt()


# %% dphi, wrong: later tokens are read too
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = decay_from_start(theta) * H_dy + gram @ (theta * decay_to_end(theta))
    return h_dy / (norms / D + 1e-6).sqrt()


# %% dphi, wrong: the Gram matrix transposed
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = torch.einsum("tsi,si,ts->ti", decay_tile(theta), theta, gram.mT)
    return (decay_from_start(theta) * H_dy + h_dy) / (norms / D + 1e-6).sqrt()


# %% dphi, wrong: what the chunk starts from does not decay
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = H_dy + torch.einsum("tsi,si,ts->ti", decay_tile(theta), theta, gram)
    return h_dy / (norms / D + 1e-6).sqrt()


# %% dphi, wrong: divided by the mean square
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = decay_from_start(theta) * H_dy + torch.einsum("tsi,si,ts->ti", decay_tile(theta), theta, gram)
    return h_dy / (norms / D + 1e-6)


# %% dphi, wrong: divided by the length instead of the rms
def dphi_of_chunk(theta, norms, H_dy, gram, D):
    h_dy = decay_from_start(theta) * H_dy + torch.einsum("tsi,si,ts->ti", decay_tile(theta), theta, gram)
    return h_dy / (norms + 1e-6).sqrt()

"""Other answers to the exercises of notebook 3, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% lerp, right: from h by a share of the way
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = o < n
    b_h = tl.load(p_h + o, mask=inside, other=0.0)
    tl.store(p_out + o, b_h + theta * (tl.load(p_v + o, mask=inside, other=0.0) - b_h), mask=inside)


# %% lerp, right: masked places stay open, as they are not stored
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_h, b_v = tl.load(p_h + o, mask=o < n), tl.load(p_v + o, mask=o < n)
    tl.store(p_out + o, (1 - theta) * b_h + theta * b_v, mask=o < n)


# %% lerp, right: places beyond the end do the last number once more
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.minimum(tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), n - 1)
    tl.store(p_out + o, (1 - theta) * tl.load(p_h + o) + theta * tl.load(p_v + o))


# %% lerp, wrong: loads without a mask
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + o, (1 - theta) * tl.load(p_h + o) + theta * tl.load(p_v + o), mask=o < n)


# %% lerp, wrong: one load without a mask
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_h = tl.load(p_h + o, mask=o < n, other=0.0)
    tl.store(p_out + o, (1 - theta) * b_h + theta * tl.load(p_v + o), mask=o < n)


# %% lerp, wrong: the store without a mask
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_h = tl.load(p_h + o, mask=o < n, other=0.0)
    b_v = tl.load(p_v + o, mask=o < n, other=0.0)
    tl.store(p_out + o, (1 - theta) * b_h + theta * b_v)


# %% lerp, wrong: a mask that lets one number more through
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_h = tl.load(p_h + o, mask=o <= n, other=0.0)
    b_v = tl.load(p_v + o, mask=o <= n, other=0.0)
    tl.store(p_out + o, (1 - theta) * b_h + theta * b_v, mask=o < n)


# %% lerp, wrong: every program does the first block
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    b_h = tl.load(p_h + o, mask=o < n, other=0.0)
    b_v = tl.load(p_v + o, mask=o < n, other=0.0)
    tl.store(p_out + o, (1 - theta) * b_h + theta * b_v, mask=o < n)


# %% lerp, wrong: θ and 1 − θ exchanged
@triton.jit
def move_kernel(p_h, p_v, p_out, theta, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_h = tl.load(p_h + o, mask=o < n, other=0.0)
    b_v = tl.load(p_v + o, mask=o < n, other=0.0)
    tl.store(p_out + o, theta * b_h + (1 - theta) * b_v, mask=o < n)


# %% rms, right: what is masked is replaced after the load
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    o = tl.arange(0, BD)
    b_h = tl.where(o < D, tl.load(p_h + tl.program_id(0) * D + o, mask=o < D), 0.0)
    tl.store(p_out + tl.program_id(0), tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps))


# %% rms, right: squares are masked
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * D + o, mask=o < D, other=9.0)
    mean = tl.sum(tl.where(o < D, b_h * b_h / D, 0.0), 0)
    tl.store(p_out + i, tl.sqrt(mean + eps))


# %% rms, right: number after number
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i = tl.program_id(0)
    total = 0.0
    for d in range(D):
        number = tl.load(p_h + i * D + d)
        total += number * number
    tl.store(p_out + i, tl.sqrt(total / D + eps))


# %% rms, wrong: no mask
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * D + o)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps))


# %% rms, wrong: masked places are open
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * D + o, mask=o < D)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps))


# %% rms, wrong: read without a mask, though replaced later
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.where(o < D, tl.load(p_h + i * D + o), 0.0)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps))


# %% rms, wrong: the mean over BD
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * D + o, mask=o < D, other=0.0)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / BD + eps))


# %% rms, wrong: ε outside the root
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * D + o, mask=o < D, other=0.0)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / D) + eps)


# %% rms, wrong: rows as far apart as blocks are wide
@triton.jit
def rms_kernel(p_h, p_out, D, eps, BD: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, BD)
    b_h = tl.load(p_h + i * BD + o, mask=o < D, other=0.0)
    tl.store(p_out + i, tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps))


# %% wide, right: the number is written by the second loop
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b, i_m = tl.program_id(0), tl.program_id(1)
    theta = tl.load(p_theta + i_b * M + i_m)
    square = 0.0
    for first in range(0, D, BD):
        o = first + tl.arange(0, BD)
        b_v = tl.load(p_v + i_b * D + o, mask=o < D, other=0.0)
        b_h = (1 - theta) * tl.load(p_before + (i_b * M + i_m) * D + o, mask=o < D, other=0.0) + theta * b_v
        square += tl.sum(b_h * b_h, 0)
    psi = tl.load(p_phi + i_b * M + i_m) / tl.sqrt(square / D + eps)
    for first in range(0, D, BD):
        o = first + tl.arange(0, BD)
        b_v = tl.load(p_v + i_b * D + o, mask=o < D, other=0.0)
        b_h = (1 - theta) * tl.load(p_before + (i_b * M + i_m) * D + o, mask=o < D, other=0.0) + theta * b_v
        tl.store(p_after + (i_b * M + i_m) * D + o, b_h, mask=o < D)
        tl.store(p_shares + (i_b * M + i_m) * D + o, psi * b_h, mask=o < D)


# %% wide, right: the shares hold the state until the norm is known
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b = tl.program_id(0)
    i = i_b * M + tl.program_id(1)
    theta, squares = tl.load(p_theta + i), tl.zeros([BD], tl.float32)
    for block in range(tl.cdiv(D, BD)):
        o = block * BD + tl.arange(0, BD)
        b_h = tl.load(p_before + i * D + o, mask=o < D, other=0.0)
        b_h += theta * (tl.load(p_v + i_b * D + o, mask=o < D, other=0.0) - b_h)
        tl.store(p_after + i * D + o, b_h, mask=o < D)
        tl.store(p_shares + i * D + o, b_h, mask=o < D)
        squares += b_h * b_h
    psi = tl.load(p_phi + i) / tl.sqrt(tl.sum(squares, 0) / D + eps)
    for block in range(tl.cdiv(D, BD)):
        o = block * BD + tl.arange(0, BD)
        tl.store(p_shares + i * D + o, psi * tl.load(p_shares + i * D + o, mask=o < D, other=0.0), mask=o < D)


# %% wide, right: number after number
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b = tl.program_id(0)
    i = i_b * M + tl.program_id(1)
    theta, square = tl.load(p_theta + i), 0.0
    for d in range(D):
        h = (1 - theta) * tl.load(p_before + i * D + d) + theta * tl.load(p_v + i_b * D + d)
        tl.store(p_after + i * D + d, h)
        square += h * h
    psi = tl.load(p_phi + i) / tl.sqrt(square / D + eps)
    for d in range(D):
        tl.store(p_shares + i * D + d, psi * tl.load(p_after + i * D + d))


# %% wide, wrong: the first block alone
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b, o = tl.program_id(0), tl.arange(0, BD)
    i = i_b * M + tl.program_id(1)
    theta = tl.load(p_theta + i)
    b_v = tl.load(p_v + i_b * D + o, mask=o < D, other=0.0)
    b_h = (1 - theta) * tl.load(p_before + i * D + o, mask=o < D, other=0.0) + theta * b_v
    tl.store(p_after + i * D + o, b_h, mask=o < D)
    psi = tl.load(p_phi + i) / tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps)
    tl.store(p_shares + i * D + o, psi * b_h, mask=o < D)


# %% wide, wrong: each block has a norm of its own
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b = tl.program_id(0)
    i = i_b * M + tl.program_id(1)
    theta = tl.load(p_theta + i)
    for first in range(0, D, BD):
        o = first + tl.arange(0, BD)
        b_v = tl.load(p_v + i_b * D + o, mask=o < D, other=0.0)
        b_h = (1 - theta) * tl.load(p_before + i * D + o, mask=o < D, other=0.0) + theta * b_v
        tl.store(p_after + i * D + o, b_h, mask=o < D)
        psi = tl.load(p_phi + i) / tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps)
        tl.store(p_shares + i * D + o, psi * b_h, mask=o < D)


# %% wide, wrong: the mean over whole blocks
@triton.jit
def wide_kernel(p_theta, p_phi, p_v, p_before, p_after, p_shares, M, D, eps, BD: tl.constexpr):
    i_b = tl.program_id(0)
    i = i_b * M + tl.program_id(1)
    theta, squares = tl.load(p_theta + i), tl.zeros([BD], tl.float32)
    for first in range(0, D, BD):
        o = first + tl.arange(0, BD)
        b_v = tl.load(p_v + i_b * D + o, mask=o < D, other=0.0)
        b_h = (1 - theta) * tl.load(p_before + i * D + o, mask=o < D, other=0.0) + theta * b_v
        tl.store(p_after + i * D + o, b_h, mask=o < D)
        squares += b_h * b_h
    psi = tl.load(p_phi + i) / tl.sqrt(tl.sum(squares, 0) / (tl.cdiv(D, BD) * BD) + eps)
    for first in range(0, D, BD):
        o = first + tl.arange(0, BD)
        tl.store(p_shares + i * D + o, psi * tl.load(p_after + i * D + o, mask=o < D, other=0.0), mask=o < D)


# %% chunk, right: the decayed state comes last
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_new = tl.zeros((BM, BD), tl.float32)
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_new += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)
    tl.store(p_out + at, b_h + b_new, mask=mask)


# %% chunk, right: loaded as it is multiplied, without tl.trans
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, T, BT):
        o_s = first + tl.arange(0, BT)
        o_t = o_s[:, None]
        b_write = tl.load(p_write + o_s[None, :] * M + o_m[:, None], mask=(o_s < T)[None, :] & m_m[:, None], other=0.0)
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_h += tl.dot(b_write, b_v, input_precision="ieee")
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, right: token after token, without tl.dot
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for t in range(T):
        b_write = tl.load(p_write + t * M + o_m, mask=m_m, other=0.0)
        b_v = tl.load(p_v + t * D + o_d, mask=m_d, other=0.0)
        b_h += b_write[:, None] * b_v[None, :]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: the first block of tokens alone
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, BT, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_h += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: tokens beyond the end are not masked
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=m_d[None, :], other=0.0)  # [BT, BD]
        b_h += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: 0 times what is not loaded
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :])
        b_h += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: the state decays once per block
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_h = b_decay[:, None] * b_h + tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: the state that enters is forgotten
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_h = tl.zeros((BM, BD), tl.float32)
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * M + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_h += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% chunk, wrong: rows of write are as far apart as those of the values
@triton.jit
def chunk_kernel(p_decay, p_write, p_v, p_h, p_out, T, M, D, BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    o_m, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BD + tl.arange(0, BD)
    m_m, m_d = o_m < M, o_d < D
    at, mask = o_m[:, None] * D + o_d[None, :], m_m[:, None] & m_d[None, :]
    b_decay = tl.load(p_decay + o_m, mask=m_m, other=0.0)  # [BM]
    b_h = b_decay[:, None] * tl.load(p_h + at, mask=mask, other=0.0)  # [BM, BD]
    for first in range(0, T, BT):
        o_t = (first + tl.arange(0, BT))[:, None]
        b_write = tl.load(p_write + o_t * D + o_m[None, :], mask=(o_t < T) & m_m[None, :], other=0.0)  # [BT, BM]
        b_v = tl.load(p_v + o_t * D + o_d[None, :], mask=(o_t < T) & m_d[None, :], other=0.0)  # [BT, BD]
        b_h += tl.dot(tl.trans(b_write), b_v, input_precision="ieee")  # [BM, BD]
    tl.store(p_out + at, b_h, mask=mask)


# %% norm, right: as a step from the norm before
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_square = tl.load(p_squares + t)
        b_n += b_theta * (b_theta * (b_n + b_square - 2 * b_q) + 2 * (b_q - b_n))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, right: slot after slot
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    first = tl.program_id(0) * BM
    for i in range(first, tl.minimum(first + BM, M)):
        n = tl.load(p_first + i)
        for t in range(T):
            theta, q = tl.load(p_theta + t * M + i), tl.load(p_q + t * M + i)
            n = (1 - theta) * ((1 - theta) * n + 2 * theta * q) + theta * theta * tl.load(p_squares + t)
            tl.store(p_norms + t * M + i, n)


# %% norm, right: what was stored is loaded again
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        if t > 0:
            b_n = tl.load(p_norms + (t - 1) * M + o_m, mask=m_m, other=0.0)
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_decay * b_n + b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, wrong: q without its decay
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_decay * b_n + b_theta * (2 * b_q + b_theta * tl.load(p_squares + t))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, wrong: the decay is not squared
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_n + b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, wrong: norms that start at 0
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.zeros((BM,), tl.float32)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_decay * b_n + b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, wrong: before each token instead of after it
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_decay * b_n + b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t))


# %% norm, wrong: divided by what is left, which fails at θ = 1
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_sum = tl.load(p_first + o_m, mask=m_m, other=0.0)
    b_left = tl.full((BM,), 1.0, tl.float32)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_left *= b_decay * b_decay
        b_sum += b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t)) / b_left
        b_n = b_left * b_sum
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% norm, wrong: the slots of the last program are not masked
@triton.jit
def norm_kernel(p_theta, p_q, p_squares, p_first, p_norms, T, M, BM: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m >= 0
    b_n = tl.load(p_first + o_m, mask=m_m, other=0.0)
    for t in range(T):
        b_theta = tl.load(p_theta + t * M + o_m, mask=m_m, other=0.0)
        b_q = tl.load(p_q + t * M + o_m, mask=m_m, other=0.0)
        b_decay = 1 - b_theta
        b_n = b_decay * b_decay * b_n + b_theta * (2 * b_decay * b_q + b_theta * tl.load(p_squares + t))
        tl.store(p_norms + t * M + o_m, b_n, mask=m_m)


# %% sparse, right: moved by a share of the way
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * M + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = tl.load(p_h + at, mask=mask, other=0.0)
    b_h = tl.where(mask, b_h + b_theta * (b_v - b_h), 0.0)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, right: pair after pair
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g, o_d = tl.program_id(0), tl.program_id(1), tl.arange(0, BD)
    m_d = o_d < D
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)
    b_share = tl.zeros((BD,), tl.float32)
    for k in range(i_b * K + i_g * BK, i_b * K + tl.minimum(i_g * BK + BK, K)):
        p_row, theta = p_h + (i_b * M + tl.load(p_slots + k)) * D, tl.load(p_theta + k)
        b_h = (1 - theta) * tl.load(p_row + o_d, mask=m_d, other=0.0) + theta * b_v
        tl.store(p_row + o_d, b_h, mask=m_d)
        b_share += tl.load(p_phi + k) * b_h / tl.sqrt(tl.sum(b_h * b_h, 0) / D + eps)
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, right: pairs that do not exist name the last slot
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=M - 1)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * M + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: slot k instead of the slot that is named
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * M + o_k)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: every sequence writes into the first
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = b_slot[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: the state has rows for K slots
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * K + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: the state before is read
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * M + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    b_before = tl.load(p_h + at, mask=mask, other=0.0)
    tl.store(p_h + at, b_h, mask=mask)
    b_h = b_before
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: the value is not masked
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d)[None, :]
    at, mask = (i_b * M + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    tl.store(p_h + at, b_h, mask=mask)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% sparse, wrong: the state is not written
@triton.jit
def sparse_kernel(p_theta, p_phi, p_slots, p_v, p_h, p_shares, K, M, D, eps, BK: tl.constexpr, BD: tl.constexpr):
    i_b, i_g = tl.program_id(0), tl.program_id(1)
    o_k, o_d = i_g * BK + tl.arange(0, BK), tl.arange(0, BD)
    m_k, m_d = o_k < K, o_d < D
    b_slot = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0)
    b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0)[:, None]
    b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0)
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0)[None, :]
    at, mask = (i_b * M + b_slot)[:, None] * D + o_d[None, :], m_k[:, None] & m_d[None, :]
    b_h = (1 - b_theta) * tl.load(p_h + at, mask=mask, other=0.0) + b_theta * b_v  # (4)
    b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
    b_share = tl.sum(b_psi[:, None] * b_h, 0)  # (6), for these slots
    tl.store(p_shares + (i_b * tl.num_programs(1) + i_g) * D + o_d, b_share, mask=m_d)


# %% fit, right: limit after limit
def programs_at_once(registers, warps, shared):
    fits = 32
    fits = min(fits, 2048 // (32 * warps))
    fits = min(fits, 65_536 // (registers * 32 * warps))
    return min(fits, 227 * 1024 // shared) if shared else fits


# %% fit, right: tried one by one
def programs_at_once(registers, warps, shared):
    count = 0
    while True:
        count += 1
        threads = 32 * warps * count
        if count > 32 or threads > 2048 or threads * registers > 65_536 or shared * count > 227 * 1024:
            return count - 1


# %% fit, right: quotients, rounded down at the end
def programs_at_once(registers, warps, shared):
    warp = min(2048 / 32, 65_536 / registers / 32)
    return int(min(32, warp / warps, 227 * 1024 / max(shared, 1)))


# %% fit, wrong: any number of programs
def programs_at_once(registers, warps, shared):
    threads = 32 * warps
    return min(65_536 // (registers * threads), 2048 // threads, 227 * 1024 // max(shared, 1))


# %% fit, wrong: any number of threads
def programs_at_once(registers, warps, shared):
    return min(65_536 // (registers * 32 * warps), 227 * 1024 // max(shared, 1), 32)


# %% fit, wrong: any number of registers
def programs_at_once(registers, warps, shared):
    return min(2048 // (32 * warps), 227 * 1024 // max(shared, 1), 32)


# %% fit, wrong: a KiB of 1,000 bytes
def programs_at_once(registers, warps, shared):
    threads = 32 * warps
    return min(65_536 // (registers * threads), 2048 // threads, 227_000 // max(shared, 1), 32)


# %% fit, wrong: 228 KiB
def programs_at_once(registers, warps, shared):
    threads = 32 * warps
    return min(65_536 // (registers * threads), 2048 // threads, 228 * 1024 // max(shared, 1), 32)


# %% fit, wrong: rounded to the nearest
def programs_at_once(registers, warps, shared):
    threads = 32 * warps
    return round(min(65_536 / (registers * threads), 2048 / threads, 227 * 1024 / max(shared, 1), 32))

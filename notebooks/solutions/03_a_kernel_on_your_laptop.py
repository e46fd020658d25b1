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

"""Right implementations, written differently from one another. verify/faults.py breaks them, one line at a time.

None of them is fast. Together they have what kernels have: chunks, decays as products, tiles of columns, a backward of
their own, a scan, flat addresses, slots sorted into segments.
"""

import numpy as np
import torch
from torch import Tensor

CHUNK, TILE = 16, 32


def _wide(*inputs: Tensor | None) -> torch.dtype:
    return torch.float64 if any(v is not None and v.dtype == torch.float64 for v in inputs) else torch.float32


def loop(theta, phi, value, initial_state=None, eps=1e-6):
    """A token after the other. The state that is not given is zero."""
    dtype, (B, T, M), D = _wide(theta, phi, value, initial_state), theta.shape, value.shape[-1]
    state = torch.zeros(B, M, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    out = torch.empty(B, T, D, dtype=value.dtype)
    theta, phi, wide = theta.to(dtype), phi.to(dtype), value.to(dtype)
    for t in range(T):
        write, read, v = theta[:, t, :, None], phi[:, t, :, None], wide[:, t, None]
        state = (1 - write) * state + write * v
        rms = torch.sqrt(state.pow(2).mean(-1, keepdim=True) + eps)
        out[:, t] = torch.sum(read * state / rms, dim=1)
    return out, state


def chunk(theta, phi, value, initial_state=None, eps=1e-6):
    """Matrix products in chunks; |h|^2 from inner products."""
    dtype, (B, T, M), D = _wide(theta, phi, value, initial_state), theta.shape, value.shape[-1]
    state = value.new_zeros(B, M, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    ys, final_dtype = [value.new_zeros(B, 0, D, dtype=dtype)], dtype
    for first in range(0, T, CHUNK):
        here = slice(first, first + CHUNK)
        write, read, v = theta[:, here].to(dtype), phi[:, here].to(dtype), value[:, here].to(dtype)
        C = v.shape[1]
        decay = 1 - write
        lower = torch.ones(C, C, dtype=torch.bool).tril()
        after = torch.ones(C, C, dtype=torch.bool).tril(-1)
        factors = torch.where(after[None, :, :, None], decay[:, :, None], 1.0)  # [B, t, s, M]
        between = factors.cumprod(1) * lower[None, :, :, None]
        weight = between * write[:, None]  # what token s wrote, as it is at token t
        entered = decay.cumprod(1)  # [B, t, M]
        gram = v @ v.transpose(1, 2)  # [B, s, s]
        v_dot_state = v @ state.transpose(1, 2)  # [B, s, M]
        own = torch.einsum("btsm,bsu,btum->btm", weight, gram, weight)
        cross = torch.einsum("btsm,bsm->btm", weight, v_dot_state)
        norms = own + 2 * entered * cross + entered.square() * state.square().sum(-1)[:, None]
        psi = read / torch.sqrt(norms.clamp(min=0) / D + eps)
        tile = torch.einsum("btm,btsm->bts", psi, weight)
        y = tile @ v + (psi * entered) @ state
        ys.append(y)
        state = entered[:, -1, :, None] * state + weight[:, -1].transpose(1, 2) @ v
    return torch.cat(ys, 1).to(value.dtype), state.to(final_dtype)


def scan(theta, phi, value, initial_state=None, eps=1e-6):
    """All states at once: log2 T rounds that double the reach of every token."""
    dtype = _wide(theta, phi, value, initial_state)
    write, read = theta.to(dtype)[..., None], phi.to(dtype)[..., None]
    keep = (1 - write).expand(*theta.shape, value.shape[-1])
    state = write * value.to(dtype)[:, :, None]
    if initial_state is None:
        initial_state = torch.zeros_like(state[:, :1].sum(1))
    reach = 1
    while reach < theta.shape[1]:
        state = torch.cat([state[:, :reach], state[:, reach:] + keep[:, reach:] * state[:, :-reach]], 1)
        keep = torch.cat([keep[:, :reach], keep[:, reach:] * keep[:, :-reach]], 1)
        reach *= 2
    start = initial_state.to(dtype)[:, None]
    state = torch.cat([start, keep * start + state], 1)
    h = state[:, 1:]
    y = (read * h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)).sum(2)
    return y.to(value.dtype), state[:, -1]


class ByHand(torch.autograd.Function):
    """The loop with columns in tiles, and its backward from formulas."""

    @staticmethod
    def forward(ctx, theta, phi, value, initial_state, eps):
        (B, T, M), D, dtype = theta.shape, value.shape[-1], initial_state.dtype
        rows = [v.to(dtype).reshape(B * T, v.shape[-1]) for v in (theta, phi, value)]
        states = torch.empty(T + 1, B, M, D, dtype=dtype)
        states[0] = initial_state
        y = torch.empty(B * T, D, dtype=dtype)
        for b in range(B):
            for t in range(T):
                write, read, v = (row[b * T + t] for row in rows)
                norms = torch.zeros(M, dtype=dtype)
                for left in range(0, D, TILE):
                    tile = slice(left, min(left + TILE, D))
                    h = (1 - write)[:, None] * states[t, b, :, tile] + write[:, None] * v[tile]
                    states[t + 1, b, :, tile] = h
                    norms += (h * h).sum(-1)
                psi = read / (norms / D + eps).sqrt()
                y[b * T + t] = psi @ states[t + 1, b]
        ctx.save_for_backward(theta, phi, value, states)
        ctx.eps = eps
        return y.view(B, T, D).to(value.dtype), states[T].clone()

    @staticmethod
    def backward(ctx, dy, dstate):
        theta, phi, value, states = ctx.saved_tensors
        T, D, dtype = theta.shape[1], value.shape[-1], states.dtype
        dtheta, dphi, dvalue = (torch.empty(v.shape, dtype=dtype) for v in (theta, phi, value))
        adjoint = dstate.to(dtype).clone()
        for t in reversed(range(T)):
            h, before, g = states[t + 1], states[t], dy[:, t, None].to(dtype)
            write, read = (x[:, t, :, None].to(dtype) for x in (theta, phi))
            v = value[:, t, None].to(dtype)
            rms = (h.square().mean(-1, keepdim=True) + ctx.eps).sqrt()
            dphi[:, t] = (h * g / rms).sum(-1)
            pull = (h * g).sum(-1, keepdim=True) / (D * rms.square())
            adjoint = adjoint + read / rms * (g - pull * h)
            dtheta[:, t] = (adjoint * (v - before)).sum(-1)
            dvalue[:, t] = (write * adjoint).sum(1)
            adjoint = (1 - write) * adjoint
        return dtheta.to(theta.dtype), dphi.to(phi.dtype), dvalue.to(value.dtype), adjoint, None


def by_hand(theta, phi, value, initial_state, eps):
    dtype = _wide(theta, phi, value, initial_state)
    return ByHand.apply(theta, phi, value, initial_state.to(dtype), eps)


def in_numpy(theta, phi, value, initial_state, eps):
    """A loop that keeps every state, in NumPy."""
    dtype = np.float64 if np.float64 in (theta.dtype, phi.dtype, value.dtype, initial_state.dtype) else np.float32
    write, read, v, start = (x.astype(dtype) for x in (theta, phi, value, initial_state))
    h = np.empty((theta.shape[1] + 1, *start.shape), dtype)
    h[0] = start
    for t in range(theta.shape[1]):
        h[t + 1] = (1 - write[:, t, :, None]) * h[t] + write[:, t, :, None] * v[:, t, None]
    rms = np.sqrt(np.mean(h[1:] ** 2, -1) + dtype(eps))  # [T, B, M]
    y = np.einsum("btm,tbmd->btd", read / rms.transpose(1, 0, 2), h[1:])
    return y.astype(value.dtype), h[-1]


def in_numpy_vjp(theta, phi, value, initial_state, eps, dy, dstate):
    """Its gradients, in float64."""
    write, read, v, g, adjoint = (x.astype(np.float64) for x in (theta, phi, value, dy, dstate))
    h = [initial_state.astype(np.float64)]
    for t in range(theta.shape[1]):
        h.append(h[t] + write[:, t, :, None] * (v[:, t, None] - h[t]))
    grads = [np.zeros(x.shape) for x in (theta, phi, value)]
    for t in reversed(range(theta.shape[1])):
        square = (h[t + 1] ** 2).mean(-1) + eps
        along = np.einsum("bmd,bd->bm", h[t + 1], g[:, t])
        grads[1][:, t] = along / np.sqrt(square)
        psi = read[:, t] / np.sqrt(square)
        slope = psi * along / square / v.shape[-1]
        adjoint = adjoint + psi[..., None] * g[:, t, None] - slope[..., None] * h[t + 1]
        grads[0][:, t] = np.einsum("bmd,bmd->bm", adjoint, v[:, t, None] - h[t])
        grads[2][:, t] = np.einsum("bm,bmd->bd", write[:, t], adjoint)
        adjoint = (1 - write[:, t, :, None]) * adjoint
    inputs = theta, phi, value, initial_state
    return tuple(grad.astype(x.dtype) for grad, x in zip([*grads, adjoint], inputs, strict=True))


def in_jax():
    """A function of JAX, compiled: a scan over the tokens."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def fm(theta, phi, value, initial_state, eps):
        dtype = jnp.promote_types(jnp.result_type(theta, phi, value, initial_state), jnp.float32)

        def step(state, token):
            write, read, v = token
            state = (1 - write)[..., None] * state + write[..., None] * v[:, None]
            rms = jnp.sqrt(jnp.mean(state**2, -1, keepdims=True) + eps)
            return state, jnp.sum(read[..., None] * state / rms, 1)

        tokens = tuple(jnp.moveaxis(v.astype(dtype), 1, 0) for v in (theta, phi, value))
        state, y = jax.lax.scan(step, initial_state.astype(dtype), tokens)
        return jnp.moveaxis(y, 0, 1).astype(value.dtype), state

    return fm


# The sparse form.


def gather(theta, phi, slots, value, num_slots, initial_state=None, eps=1e-6):
    """A token after the other: its slots are taken out, moved, and put back."""
    dtype, (B, T, K), D = _wide(theta, phi, value, initial_state), theta.shape, value.shape[-1]
    start = torch.zeros(B, num_slots, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    state, ys = start.clone(), [value.new_zeros(B, 0, D)]
    for t in range(T):
        at = slots[:, t].long()
        index = at[..., None].expand(B, K, D)
        held = state.gather(1, index)
        write, read = theta[:, t, :, None].to(dtype), phi[:, t, :, None].to(dtype)
        held = (1 - write) * held + write * value[:, t, None].to(dtype)
        rms = (held.square().mean(-1, keepdim=True) + eps).sqrt()
        ys.append((read * held / rms).sum(1, keepdim=True).to(value.dtype))
        state = state.scatter(1, index, held)
    return torch.cat(ys, 1), state


def spread(theta, phi, slots, value, num_slots, initial_state=None, eps=1e-6):
    """The dense form over gates that are mostly 0."""
    shape = *theta.shape[:2], num_slots
    where = slots.long()
    write = theta.new_zeros(shape).scatter(-1, where, theta)
    read = phi.new_zeros(shape).scatter(-1, where, phi)
    return chunk(write, read, value, initial_state, eps)


def segments(theta, phi, slots, value, num_slots, initial_state=None, eps=1e-6):
    """One slot after the other: the tokens that name it, in order."""
    dtype, (B, T, K), D = _wide(theta, phi, value, initial_state), theta.shape, value.shape[-1]
    start = value.new_zeros(B, num_slots, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    rows, finals = [], []
    for b in range(B):
        segment = [[] for _ in range(num_slots)]
        for pair, slot in enumerate(slots[b].flatten().tolist()):
            segment[slot].append(pair)
        write, read = theta[b].to(dtype).flatten(), phi[b].to(dtype).flatten()
        tokens, parts = [], []
        for slot in range(num_slots):
            h = start[b, slot]
            for pair in segment[slot]:
                h = (1 - write[pair]) * h + write[pair] * value[b, pair // K].to(dtype)
                parts.append(read[pair] * h / (h.square().mean() + eps).sqrt())
                tokens.append(pair // K)
            finals.append(h)
        row = torch.zeros(T, D, dtype=dtype)
        rows.append(row.index_add(0, torch.tensor(tokens), torch.stack(parts)) if tokens else row)
    return torch.stack(rows).to(value.dtype), torch.stack(finals).view(B, num_slots, D)


# One token.


def step(theta, phi, value, state, eps):
    write, read = theta[..., None].to(state.dtype), phi[..., None].to(state.dtype)
    state = torch.lerp(state, value[:, None].to(state.dtype).expand_as(state), write)
    y = (read * state * (state.square().mean(-1, keepdim=True) + eps).rsqrt()).sum(1)
    return y.to(value.dtype), state

"""Planted faults: one-line changes to the code, each of which the tests must notice.

Run as `python tests/mutants.py [part of a name]`. Copies the project, applies one fault at a time, runs the tests
that should catch it, and exits with 1 if one survives. A fault that survives means that a test is missing.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("reference", "fast", "lm", "tests", "pyproject.toml", "LICENSE")
CHUNKED, LOOP, LOOP_CHECKS, INIT, CHECKS, TRITON, TRITON_STEP = (
    "fast/chunked.py", "reference/factorization_memory.py", "reference/checks.py", "fast/__init__.py", "fast/checks.py",
    "fast/triton_dense.py", "fast/triton_step.py",
)  # fmt: skip

LAWS, OPERATORS, NUMERICS, ERRORS = (f"tests/test_{name}.py" for name in ("laws", "operators", "numerics", "errors"))
PARITY = f"{LAWS}::test_equals_the_loop"
CHUNKS = f"{LAWS}::test_neither_chunk_length_nor_segment_size_matters"
PACKED = f"{LAWS}::test_packed_sequences_are_separate_sequences"
STEPS = f"{LAWS}::test_decode_steps_are_a_prefill"
KERNELS = "tests/test_triton.py"
PACKED_BLOCKS = f"{KERNELS}::test_obeys[packed_sequences_are_separate_sequences]"
BLOCKS = f"{KERNELS}::test_more_slots_and_columns_than_a_block {PACKED_BLOCKS}"
STEP_KERNELS = "tests/test_triton_step.py"
TRITON_SPARSE, SPARSE_KERNELS = "fast/triton_sparse.py", "tests/test_triton_sparse.py"
MAMBA2 = "fast/mamba2.py"
GROUPED, PAIRS = "fast/sparse.py", f"{PARITY}[sparse-grouped]"
PIECES = f"{LAWS}::test_neither_chunks_nor_lines_nor_blocks_matter[sparse-grouped]"
LAYERS, LAYER_TESTS, PUBLISHED = "lm/layers.py", "tests/test_layers.py", "tests/test_published.py"


class Fault(NamedTuple):
    name: str
    file: str
    old: str  # occurs exactly once in file
    new: str
    tests: str  # what should fail, as pytest arguments


def planted(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Fault]:
    return [Fault(name, file, old, new, tests) for name, old, new in changes]


# fmt: off
FAULTS = [
    *planted(
        CHUNKED, PARITY,
        ("decay left out of reach", "        above *= lower\n", ""),
        ("decay left out of write", "        below *= upper\n", ""),
        ("upper decay taken a token too early", "above[:, -1:].clone()", "above[:, :1].clone()"),
        ("lower half where the upper belongs",
         "_half(psi[:, None], level.width, 1)", "_half(psi[:, None], level.width, 0)"),
        ("tile above the diagonal, not below", "[:, :, :, 1, :, :, 0]", "[:, :, :, 0, :, :, 1]"),
        ("diagonal of the tile forgotten",
         "    _diagonal(tile).copy_((psi * theta).sum(-1, keepdim=True))\n    for", "    for"),
        ("theta of the diagonal forgotten",
         "    _diagonal(tile).copy_((psi * theta).sum(-1, keepdim=True))\n    for",
         "    _diagonal(tile).copy_(psi.sum(-1, keepdim=True))\n    for"),
        ("entering state read without decay", "baddbmm_(psi * reach, entering)", "baddbmm_(psi, entering)"),
        ("state handed on without decay",
         "torch.addcmul(added[:, c], decay[:, c], states[:, c], out=place)",
         "torch.add(added[:, c], states[:, c], out=place)"),
        ("theta not squared in |h|^2",
         "addcmul_(theta, _diagonal(gram)).mul_(theta)", "add_(_diagonal(gram)).mul_(theta)"),
        ("cross term of |h|^2 halved", "(2 * keep * before)", "(keep * before)"),
        ("decay of |h|^2 not squared", "    keep.square_()\n", ""),
        ("|h|^2 starts at 0 in every chunk",
         "    norms[:, 0] = torch.linalg.vector_norm(entering, dim=-1).square_()\n", ""),
    ),
    *planted(
        CHUNKED, NUMERICS,
        ("|h|^2 may be negative", "return norms.clamp_(min=0)", "return norms"),
    ),
    *planted(
        CHUNKED, PARITY,
        ("norm before the token, not after", "(norms[:, 1:] / width)", "(norms[:, :-1] / width)"),
        ("sum of squares, not their mean", "(norms[:, 1:] / width)", "(norms[:, 1:] / 1)"),
        ("eps forgotten", ".add_(eps).rsqrt_()", ".rsqrt_()"),
        ("second term of a product of two dropped", ".addcmul_(a[..., 1:], b[:, 1:])", ""),
        ("x not decayed into the upper half",
         "level.lower.view(*upper.shape[:2], 1, 1, -1), out=upper",
         "torch.ones_like(level.lower).view(*upper.shape[:2], 1, 1, -1), out=upper"),
        ("pull of the norm has the wrong sign", ".div_(-width)", ".div_(width)"),
        ("pull of the norm not divided by the width", ".div_(-width)", ".neg_()"),
        ("pull of the norm decays with a, not a^2", "squares = keep.square()", "squares = keep.clone()"),
        ("pull of later norms decayed by the wrong token", "squares[:, t + 1], pull", "squares[:, t], pull"),
        ("pull of later norms stops a token early",
         "reversed(range(theta.shape[1] - 1))", "reversed(range(theta.shape[1] - 2))"),
        ("pull of the norm not carried over chunks",
         "    added.addcmul_((squares[:, 0] * pull[:, 0]).view(*states.shape[:3], 1), states)\n", ""),
        ("diagonal of the second tile not halved", ".sum(-1, keepdim=True).div_(2))", ".sum(-1, keepdim=True))"),
        ("second tile not symmetric", "tile[:, 1] + tile[:, 1].transpose(1, 2)", "tile[:, 1] * 2"),
        ("tile not transposed for dx",
         "torch.bmm(tile.flatten(1, 2).transpose(1, 2), pair)",
         "torch.bmm(tile.transpose(2, 3).flatten(1, 2).transpose(1, 2), pair)"),
        ("dx forgets the adjoint from the right", ".baddbmm_(write, leaving)", ""),
        ("dx forgets the entering state", ".baddbmm_(rows[:, 1], entering)", ""),
        ("dtheta forgets the state", "dtheta = (x_l - l_h)", "dtheta = x_l"),
        ("dtheta forgets dy on h", "addcmul_(psi, dy_x - dy_h)", "addcmul_(psi, dy_x)"),
        ("dtheta takes the norm after the token", "keep.mul_(norms[:, :-1])", "keep.mul_(norms[:, 1:])"),
        ("theta left out of <h, x>", "((keep - theta) * x_h)", "(keep * x_h)"),
        ("dphi forgets the token itself", "dphi = (keep * dy_h).addcmul_(theta, dy_x)", "dphi = (keep * dy_h)"),
        ("<L, h> forgets the lower half's writes",
         "            (level.write * lower.reshape(level.write.shape)).sum(1),\n",
         "            torch.zeros_like(level.lower[:, 0]),\n"),
        ("<L, h> forgets what the upper half injects",
         "torch.addcmul((rows * inner.view(rows.shape)).sum(1), level",
         "torch.addcmul(torch.zeros_like(parent[:, 0]), level"),
        ("halves of <L, h> exchanged", "out=l_h[:, 0])", "out=l_h[:, 1])"),
        ("<L, x> not decayed",
         "torch.addcmul(injected, lower, level.upper.view(*lower.shape[:2], 1, 1, -1), out=lower)",
         "torch.add(injected, lower, out=lower)"),
    ),
    *planted(
        CHUNKED, CHUNKS,
        ("gradient of the state in the state's place", "leaving[:, -1] = adjoint", "leaving[:, 0] = adjoint"),
        ("segments forget the state",
         "        if begin == 0:\n            state = source[chunks.starts[0][0], rows]",
         "        if True:\n            state = source[chunks.starts[0][0], rows]"),
        ("segments forget the adjoint", "if end == chunks.count:", "if True:"),
        ("segments of the backward run forwards", "in reversed(chunks.segments()):", "in chunks.segments():"),
        ("a row lost between segments", "range(0, self.rows, together)", "range(0, self.rows, together + 1)"),
        ("states of the last segment cut off", "min(c + step, self.count)", "min(c + step, self.count - 1)"),
    ),
    *planted(
        CHUNKED, f"{PARITY} {CHUNKS}",
        ("last chunk of a length that does not divide T lost",
         "-(-(end - begin) // length)", "max(1, (end - begin) // length)"),
    ),
    *planted(
        CHUNKED, CHUNKS,
        ("chunk of odd length not padded to a power of two",
         "self.length, self.tile = length, 1 << (length - 1).bit_length()", "self.length, self.tile = length, length"),
    ),
    *planted(
        CHUNKED, f"{LAWS} -k chunked",
        ("strided inputs taken as views", "self.tile).contiguous()", "self.tile)"),
    ),
    *planted(
        CHUNKED, PACKED,
        ("absent tokens of packed sequences are read", ".masked_fill_((index < 0)[:, None], 0)", ""),
        ("a packed sequence ends a token late", "p.masked_fill(p >= end, -1)", "p.masked_fill(p > end, -1)"),
        ("next packed sequence goes on from the last",
         "            if following is not None:\n                state.copy_(source[following])\n", ""),
        ("packed sequences start in each other's state",
         "zip(present, [*present[1:], None], strict=False)", "zip(present, [*present[:-1], None], strict=False)"),
        ("adjoint crosses packed sequences",
         "zip(present, [None, *present], strict=False)", "zip(present, [None] * len(present), strict=False)"),
    ),
    *planted(
        CHUNKED, f"{PACKED} {CHUNKS}",
        ("edges counted from the segment", "if begin + c in edges:", "if c in edges:"),
    ),
    *planted(
        CHUNKED, f"{OPERATORS} {PACKED}",
        ("places of chunks not needed left unwritten", "        v[:, chunks.count :] = 0  #", "        pass  #"),
    ),
    *planted(
        CHUNKED, PARITY,
        ("initial state ignored", "        final.copy_(initial_state)\n", "        final.zero_()\n"),
        ("state never wider than float32", "dtype = torch.float64 if wide else torch.float32", "dtype = torch.float32"),
    ),
    *planted(
        CHUNKED, OPERATORS,
        ("theta written in the caller's place",
         "reach, write, levels, w = 1 - theta, theta.clone(), [], 1",
         "reach, write, levels, w = 1 - theta, theta, [], 1"),
        ("everything saved for every token",
         "sequences, chunks = batch, -(-tokens // length)", "sequences, chunks = batch, tokens"),
        ("saved without gradients", "chunks if save else 0, *shape", "chunks, *shape"),
        ("chunk of one token everywhere", "torch.sym_min(longest, x.shape[1])", "torch.sym_min(1, x.shape[1])"),
        ("autocast reaches inside", "enabled=False", "enabled=torch.is_autocast_enabled(first.device.type)"),
    ),
    *planted(
        CHUNKED, PARITY,
        ("gradient of the state in the wrong dtype", "dinitial.to(dtype) if dtype", "dinitial.half() if dtype"),
    ),
    *planted(
        CHUNKED, OPERATORS,
        ("no gradient of y alone", "    dfinal = saved[0].new_zeros(shape) if dfinal is None else dfinal\n", ""),
    ),
    *planted(
        CHUNKED, PARITY,
        ("sparse weights in the wrong slots", ".scatter(-1, slots, v)", ".scatter(-1, slots.sort(-1).values, v)"),
    ),
    *planted(
        LOOP, PARITY,
        ("loop reads before it writes", "y = (read * state / rms)", "y = (read * (state - write * offer) / rms)"),
    ),
    *planted(
        LOOP, f"{LAWS} -k loop",
        ("loop adds without forgetting", "(1 - write) * state + write * offer", "state + write * offer"),
    ),
    *planted(
        LOOP, PARITY,
        ("loop forgets eps", "keepdim=True) + eps).sqrt()", "keepdim=True)).sqrt()"),
    ),
    *planted(
        LOOP, f"{LAWS} -k loop",
        ("loop norms over slots", "state.square().mean(-1, keepdim=True)", "state.square().mean(-2, keepdim=True)"),
        ("sparse loop writes to the first slots",
         "state[at], eps)  # (4), (5), (6) on K rows\n    return y, state.index_put(at,",
         "state[at], eps)\n    return y, state.index_put((at[0], slots.sort(-1).values),"),
        ("loop narrows float64",
         "return state.to(torch.float64 if wide else torch.float32)", "return state.to(torch.float32)"),
    ),
    *planted(
        LOOP_CHECKS, ERRORS,
        ("loop takes any theta", "if not ((theta >= 0) & (theta <= 1) | theta.isnan()).all():", "if False:"),
        ("loop takes a slot too many", "(value >= M)", "(value > M)"),
        ("loop takes a slot twice", "if twice.any():", "if False:"),
        ("loop takes a letter of two sizes", "k not in (letter, g)", "False"),
        ("loop takes half-precision states", "value.dtype not in (torch.float32, torch.float64)", "False"),
        ("loop compares no devices", "if value.device != like.device:", "if False:"),
        ("loop takes more slots per token than slots", "if K > M:", "if False:"),
        ("loop takes an eps below 0", "if not eps >= 0:", "if False:"),
    ),
    *planted(
        INIT, STEPS,
        ("step adds without forgetting",
         "    state = torch.lerp(state, *_offer(theta, x, state))  # (4)\n",
         "    state = state + torch.mul(*_offer(theta, x, state))  # (4)\n"),
        ("step_ reads the old state",
         "    state.lerp_(*_offer(theta, x, state))  # (4)\n    return _read(phi, x, state, eps), state\n",
         "    y = _read(phi, x, state, eps)\n    state.lerp_(*_offer(theta, x, state))  # (4)\n    return y, state\n"),
        ("step forgets eps", "norm.new_full((), eps**0.5)", "norm.new_full((), 0.0)"),
        ("step sums squares, no mean", "norm / state.shape[-1] ** 0.5", "norm"),
        ("sparse_step_ makes a copy",
         "return y, state.index_put_(at, touched)", "return y, state.index_put(at, touched)"),
        ("sparse_step writes in place",
         "return y, state.index_put(at, touched)", "return y, state.index_put_(at, touched)"),
    ),
    *planted(
        GROUPED, PAIRS,
        ("grouped: rows share their slots", "(slots + num_slots * sequence)", "(slots + 0 * sequence)"),
        ("grouped: pairs in turn are of tokens in turn",
         "(self.order // per_token)", "(self.order % (slots.numel() // per_token))"),
        ("grouped: put takes",
         "out.view(-1)[self.order] = v.view(self.rows, self.length)[:, : self.size].flatten().to(out.dtype)",
         "out.view(-1)[:] = v.view(self.rows, self.length)[:, : self.size].flatten()[self.order].to(out.dtype)"),
        ("grouped: inverse of the order saved", "order.copy_(pairs.order)", "order.copy_(pairs.order.argsort())"),
        ("grouped: carry forgotten", "        _carry(local, block.reach, carried[:, :-1])\n", ""),
        ("grouped: carry undecayed", "addcmul_(decay, entering", "addcmul_(torch.ones_like(decay), entering"),
        ("grouped: a run goes on from the last one",
         "self.keep[pairs.start_at], self.write[pairs.start_at] = 0, 1", "self.write[pairs.start_at] = 1"),
        ("grouped: first pair's offer weighted twice",
         "self.keep[pairs.start_at], self.write[pairs.start_at] = 0, 1", "self.keep[pairs.start_at] = 0"),
        ("grouped: initial state forgotten",
         "if initial_state is not None:\n            before", "if False:\n            before"),
        ("grouped: unnamed slots forgotten",
         "final.copy_(torch.zeros((), dtype=dtype) if initial_state is None else initial_state)", "final.zero_()"),
        ("grouped: final state a pair too early",
         "h.index_select(0, pairs.end[block.ends])", "h.index_select(0, (pairs.end[block.ends] - 1).clamp(min=0))"),
        ("grouped: sum of squares, not their mean", "(squares / width + eps)", "(squares + eps)"),
        ("grouped: state in half precision",
         "        squares = torch", "        h.copy_(h.half())\n        squares = torch"),
        ("grouped: |h|^2 kept in the dtype of x", "x.new_empty(pairs, dtype=dtype)", "x.new_empty(pairs)"),
        ("grouped: pull of the norm has the wrong sign", " / -width", " / width"),
        ("grouped: gradient of the final state forgotten",
         "        pull.index_add_(0, pairs.end[block.ends], dlast[block.ends])\n", ""),
        ("grouped: dtheta takes the state after", "offers[1:] -= h[:-1]", "offers[1:] -= h[1:]"),
        ("grouped: dtheta of first pairs from the run before",
         "        offers.index_copy_(0, pairs.start[block.starts], given.step[block.starts])\n", ""),
        ("grouped: dtheta of first pairs forgets h_0", "self.step = first - before", "self.step = first"),
        ("grouped: first pairs hand all to dx", "mul_(given.theta[at, None])", "mul_(given.write[at, None])"),
        ("grouped: dh_0 undecayed", "dfirst.mul_(1 - given.theta[pairs.start_at, None])", "dfirst"),
    ),
    *planted(
        GROUPED, PIECES,
        ("grouped: runs counted to a pair beyond the block",
         "torch.searchsorted(v, bounds)", "torch.searchsorted(v, bounds, right=True)"),
        ("grouped: decays of a part's first block for all",
         "(begin - begins[i]) // self.line, (end - begins[i]) // self.line", "0, (end - begin) // self.line"),
        ("grouped: lines of a row side by side", "max(1, _most(width) // line) if lines == 1 else 1",
         "max(1, _most(width) // line)"),
        ("grouped: state not carried over lines",
         "torch.cat([start[:, None], last], 1)", "torch.cat([0 * start[:, None], last], 1)"),
        ("grouped: adjoint not carried over lines", " if block.closes else after\n", "\n"),
        ("grouped: adjoint of a line's end handed on", "return leaving[:, 0]", "return leaving[:, -1]"),
        ("grouped: dtheta forgets the state before a block", "        offers[0] -= carried[0, 0]\n", ""),
    ),
    *planted(
        GROUPED, f"{PACKED}[sparse-grouped]",
        ("grouped: a packed sequence begins a token late",
         "at, right=True", "at, right=False"),
    ),
    *planted(
        GROUPED, f"{ERRORS}::test_cu_seqlens",
        ("grouped: a packed sequence may end late",
         "        checks.bounds(cu_seqlens, x.shape[1])\n", "        pass\n"),
    ),
    *planted(
        GROUPED, f"{OPERATORS} -k nan",
        ("grouped: padding belongs to the first row", "[:, None] * tokens  # a padding", "[:, None] * 0  # a padding"),
        ("grouped: a row goes on from the last one", "begin % self.length == 0", "begin == 0"),
        ("grouped: adjoint crosses rows", "end % self.length == 0", "end == len(keep)"),
    ),
    *planted(
        GROUPED, f"{OPERATORS} -k saved",
        ("grouped: saved without gradients", "lines * line * CHUNK if save else 0", "lines * line * CHUNK"),
        ("grouped: asked to save without gradients", "save = checks.needs_grad(*inputs)", "save = True"),
        ("grouped: a state saved for every pair", "x.new_empty(pairs // CHUNK, width", "x.new_empty(pairs, width"),
    ),
    *planted(
        GROUPED, f"{OPERATORS} -k blocks",
        ("grouped: decays of all pairs at once", "max(1, PART_PAIRS // self.block)", "max(1, len(begins))"),
        ("grouped: states of all pairs at once", "min(pairs.block, len(given.keep))", "len(given.keep)"),
        ("grouped: a line too few", "-(-chunks // min(_most(width), LINE_CHUNKS))",
         "chunks // min(_most(width), LINE_CHUNKS)"),
    ),
    *planted(
        GROUPED, f"{ERRORS}::test_slots",
        ("grouped: slots not looked into",
         "_checked_slots(slots, num_slots, check_values)", "_checked_slots(slots, num_slots, False)"),
    ),
    *planted(
        GROUPED, f"{OPERATORS}::test_auto_takes_the_form_that_fits",
        ("grouped: cheaper than it is", "slots_per_token <= 2 + num_slots / 16", "slots_per_token <= num_slots"),
    ),
    *planted(
        INIT, f"{OPERATORS}::test_auto_takes_the_form_that_fits",
        ("auto: sparse however many slots a token uses",
         "if sparse.is_cheaper(slots_per_token, num_slots):", "if True:"),
        ("auto: grouped on a GPU", '"triton" if on_gpu else "grouped"', '"grouped"'),
        ("auto: no kernel for many slots per token", "        elif on_gpu:\n", "        elif False:\n"),
        ("auto: triton takes float64", "inputs[0].is_cuda and not _is_wide(*inputs)", "inputs[0].is_cuda"),
        ("auto: grouped is dense", '{"grouped": sparse, "chunked"', '{"grouped": chunked, "chunked"'),
    ),
    *planted(
        INIT, f"{KERNELS}::test_float64_is_refused",
        ("auto: sparse kernel takes float64",
         '    if backend == "triton":\n        _check_triton(*inputs)\n', '    if backend == "triton":\n'),
    ),
    *planted(
        LAYERS, f"{LAYER_TESTS}::test_of_equal_affinities_the_lowest_slot_is_kept",
        ("router: of equals the highest slot", "(rank * num_slots - torch.arange", "(rank * num_slots + torch.arange"),
        ("router: 0.0 above -0.0", "(logits.float() + 0.0)", "logits.float()"),
        ("router: negative logits in reverse", "torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)", "bits"),
        ("router: float64 logits ranked in float32", "if logits.dtype == torch.float64:", "if False:"),
    ),
    *planted(
        LAYERS, f"{LAYER_TESTS}::test_noise_and_balance_are_of_training_alone",
        ("router: noise outside of training", "if self.training and self.router_noise:", "if self.router_noise:"),
        ("router: balance outside of training", "if self.training and self.balance:", "if self.balance:"),
    ),
    *planted(
        LAYERS, f"{LAYER_TESTS}::test_noise_is_of_the_deviation_asked_for_whatever_the_temperature",
        ("router: noise of deviation 1", "self.router_noise * torch.randn_like(logits)", "torch.randn_like(logits)"),
        ("router: noise over tau", "self.router_noise * torch", "self.router_noise / self.temperature * torch"),
        ("router: one noise for all tokens", "torch.randn_like(logits)", "torch.randn_like(logits[:1, :1])"),
    ),
    *planted(
        LAYERS, f"{LAYER_TESTS}::test_the_balance_loss_joins_what_the_output_leads_to",
        ("router: balance of all slots", "balance_loss(logits, slots))", "balance_loss(logits, None))"),
        ("router: balance loss not added", "torch.ones_like(*ctx", "torch.zeros_like(*ctx"),
        ("router: balance loss hides the loss", "return dx, torch.ones", "return 0 * dx, torch.ones"),
    ),
    *planted(
        LAYERS, f"{LAYER_TESTS}::test_the_balance_loss_is_its_formula",
        ("router: share has a gradient", "share = affinity.detach()", "share = affinity"),
        ("router: share of tokens, not of pairs", "/ slots.numel()", "/ slots[..., 0].numel()"),
        ("router: last slots unused not counted", "bincount(minlength=num_slots)", "bincount()"),
    ),
    *planted(
        CHECKS, ERRORS,
        ("last slot refused", "(slots >= num_slots)", "(slots >= num_slots - 1)"),
        ("slot out of range accepted", "(slots >= num_slots)", "(slots > num_slots)"),
        ("slots compared in their own dtype", "    slots = slots.long()  # num_slots", "    # num_slots"),
        ("only neighbours are duplicates", "slots.sort(-1).values.diff(dim=-1)", "slots.diff(dim=-1)"),
        ("more slots per token than slots", "if slots_per_token > num_slots:", "if False:"),
        ("cu_seqlens may fall", "values != sorted(values) or ", ""),
        ("cu_seqlens may end early", " or values[-1] != total", ""),
        ("cu_seqlens takes a batch", "if x.shape[0] != 1:", "if False:"),
        ("eps may be 0", "if not value > 0:", "if value < 0:"),
        ("half-precision states accepted", "if value.dtype not in (torch.float32, torch.float64):", "if False:"),
        ("devices not compared", "if value.device != like.device:", "if False:"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k forward_mode",
        ("tangents let through", "        if has_tangent(value):\n", "        if False:\n"),
        ("tangents of an outer jvp let through",
         "_functorch.maybe_get_level(value) < _functorch.maybe_current_level()", "False"),
        ("tangents inside of vmap not looked for",
         "    value = _inside(value)\n    if forward_ad", "    if forward_ad"),
        ("graphs take tangents for none",
         "    if forward_ad._current_level < 0:\n",
         "    if forward_ad._current_level < 0 or torch.compiler.is_compiling():\n"),
    ),
    *planted(
        INIT, f"{OPERATORS} -k forward_mode",
        ("tangents of initial_state let through", "x=x, initial_state=initial_state)", "x=x)"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k mapped",
        ("no backward through vmap", "_inside(v).requires_grad", "v.requires_grad"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k torch_func",
        ("torch.func let through", "        if _is_tracked(value):\n", "        if False:\n"),
    ),
    *planted(
        CHUNKED, OPERATORS,
        ("tangents of dy let through", "    checks.differentiable(dy=dy, dfinal=dfinal)\n", ""),
        ("second derivative in torch's words",
         "_backward_op.register_autograd(checks.refuse_second_derivative)\n", ""),
        ("a graph for every short length",
         "torch.sym_max(1, torch.sym_min(longest, x.shape[1]))",
         "min(longest, 1 << max(int(x.shape[1]) - 1, 0).bit_length())"),
        ("a trace keeps a short length", "    if torch.jit.is_tracing():", "    if False:"),
    ),
    *planted(
        CHUNKED, f"{CHUNKS} {OPERATORS}",
        ("norms of missing tokens are not the last one",
         "norms[:, last], F.pad(gram", "_pad_time(norms, self.tile + 1), F.pad(gram"),
    ),
    *planted(
        GROUPED, NUMERICS,
        ("grouped: pull of the norm underflows",
         "radial = psi * inverse / -width", "radial = psi * inverse.square() / -width / inverse"),
        ("grouped: pull of the norm by |h|, not by rms",
         "_dot(h, pull, adjoint).mul_(inverse[at])", "_dot(h, pull, adjoint)"),
    ),
    *planted(
        INIT, NUMERICS,
        ("step: squares its norm",
         "rms = torch.hypot(norm / state.shape[-1] ** 0.5, norm.new_full((), eps**0.5))",
         "rms = 1 / (norm.square() / state.shape[-1] + eps).rsqrt()"),
    ),
    *planted(
        MAMBA2, "tests/test_mamba2.py",
        ("mamba2: chunks at once start from nothing",
         "torch.cat([state[:, None], updates], 1)", "torch.cat([0 * state[:, None], updates], 1)"),
        ("mamba2: chunks at once a chunk late",
         "F.pad(totals.cumsum(1), (0, 0, 1, 0))", "F.pad(totals.cumsum(1), (0, 0, 0, 1))"),
        ("mamba2: state after the last chunk but one", "states[:, -1]", "states[:, -2]"),
    ),
    *planted(
        MAMBA2, f"{LAYER_TESTS}::test_two_graphs_of_a_layer_do_for_any_length[mamba2]",
        ("mamba2: a graph for every number of chunks",
         "traced = torch.compiler.is_compiling() or torch.jit.is_tracing()", "traced = False"),
    ),
    *planted(
        "fast/attention.py", "tests/test_attention.py",
        ("attention: a buffer written that queries still need", "keys, values, queries\n", "keys, values\n"),
        ("attention: a buffer written that is mapped", " or checks.is_mapped(*inputs)", ""),
        ("attention: odd widths turned", "x.ndim < 3 or x.shape[-1] % 2", "x.ndim < 3"),
        ("attention: one position for all tokens", "positions.shape != x.shape[-3:-2]", "positions.ndim != 1"),
    ),
    *planted(
        LAYERS, LAYER_TESTS,
        ("convolution: not mapped",
         "    generate_vmap_rule = True\n\n    @staticmethod\n    def forward(x: Tensor, weight",
         "    @staticmethod\n    def forward(x: Tensor, weight"),
        ("convolution: gradient not mapped", "dy.new_zeros(x.shape)", "torch.zeros_like(x)"),
        ("convolution: no forward mode", "any(map(fast.checks.has_tangent, (x, self.weight)))", "False"),
    ),
    *planted(
        TRITON, BLOCKS,
        ("kernel: columns beyond the width are read",
         "    mask = m_row[:, None] & (o_col < n_col)[None, :]\n    return",
         "    mask = m_row[:, None] & (o_col <= n_col)[None, :]\n    return"),
        ("kernel: stride of a row off by one", "o_row[:, None].to(tl.int64) * n_col + o_col[None, :], mask=mask, other",
         "o_row[:, None].to(tl.int64) * (n_col + 1) + o_col[None, :], mask=mask, other"),
        ("kernel: chunks reach into the next sequence",
         "return o_t, o_t < tl.load(p_end + i_c)",
         "return o_t, o_t >= 0"),
        ("kernel: next token's decay taken from this one",
         "1.0 - _load(p_theta, o_t + 1, m_next", "1.0 - _load(p_theta, o_t, m_next"),
        ("kernel: decay reaches beyond the chunk's end",
         "m_next = (o_t + 1 < tl.load(p_end + i_c)) & m_t", "m_next = m_t"),
        ("kernel: keep does not restart in every half", "tl.where(last, 1.0, b_next)", "b_next"),
        ("kernel: reach and keep on the wrong halves",
         "        tl.where(above, tl.reshape(reach, (BT, BM)), 0.0),",
         "        tl.where(above, 0.0, tl.reshape(reach, (BT, BM))),"),
        ("kernel: total of the wrong half",
         "_segment_sum(tl.where(above, 0.0, ends)",
         "_segment_sum(tl.where(above, ends, 0.0)"),
        ("kernel: pairs of different blocks mixed",
         "b_same = tl.where(_same_block(BT >> i, BT), b_tile, 0.0)", "b_same = b_tile"),
        ("kernel: state not squared in its norm", "b_square += tl.sum(b_h * b_h, 1)", "b_square += tl.sum(b_h, 1)"),
        ("kernel: last block of columns forgotten",
         "b_gram = tl.zeros((BT, BT), tl.float32)\n    for i_d in range(0, tl.cdiv(D, BD)):",
         "b_gram = tl.zeros((BT, BT), tl.float32)\n    for i_d in range(0, D // BD):"),
        ("kernel: last block of slots forgotten",
         "    for i_m in range(0, tl.cdiv(M, BM)):\n        o_m = i_m * BM + tl.arange(0, BM)\n        b_reach",
         "    for i_m in range(0, M // BM):\n        o_m = i_m * BM + tl.arange(0, BM)\n        b_reach"),
        ("kernel: decay of |h|^2 not squared", "(b_keep * b_keep, b_gain)", "(b_keep, b_gain)"),
        ("kernel: cross term of |h|^2 halved", "2.0 * b_keep * b_inner", "b_keep * b_inner"),
        ("kernel: diagonal of B counted twice",
         "    if SYMMETRIC:\n        b_tile += tl.trans(b_tile)\n",
         "    if SYMMETRIC:\n        b_tile += b_tile\n"),
        ("kernel: read without decay",
         "_load(p_psi, o_t, m_t, o_m, M) * b_reach, b_h",
         "_load(p_psi, o_t, m_t, o_m, M), b_h"),
        ("kernel: A not transposed for dx", "tl.dot(tl.trans(b_tile), _load(p_dy", "tl.dot(b_tile, _load(p_dy"),
        ("kernel: N runs forwards", ", 0, _linear, reverse=True)", ", 0, _linear)"),
        ("kernel: norm's pull on the state forgotten", "b_radial[:, None] * _load(p_states", "0.0 * _load(p_states"),
        ("kernel: chunks of the adjoint in forward order",
         "i_c = (after - 1 - i).to(tl.int64)",
         "i_c = (first + i).to(tl.int64)"),
        ("kernel: norm before the token is that after it", "_load(p_norm - M, o_t", "_load(p_norm, o_t"),
        ("kernel: norm before the chunk forgotten",
         "    b_before = tl.where((o == 0)[:, None], b_norm0[None, :], b_before)\n", ""),
        ("kernel: dy and x swapped in what is injected",
         "tl.dot(tl.trans(b_cross_w), b_p", "tl.dot(tl.trans(b_gram_w), b_p"),
        ("kernel: state in half precision",
         "b_h = b_total[:, None] * b_h + tl.dot(",
         "b_h = b_total[:, None] * b_h.to(tl.float16).to(tl.float32) + tl.dot("),
    ),
    *planted(
        TRITON_STEP, STEP_KERNELS,
        ("step kernel: offsets of sequences in 32 bits",
         "i_b, i_g = tl.program_id(0).to(tl.int64)", "i_b, i_g = tl.program_id(0)"),
        ("step kernel: offsets of slots in 32 bits", "o_m = o_k.to(tl.int64)", "o_m = o_k"),
        ("step kernel: slots named in 32 bits", "mask=m_k, other=0).to(tl.int64)", "mask=m_k, other=0).to(tl.int32)"),
        ("step kernel: offsets of columns in 32 bits", "o_d[None, :].to(tl.int64) * s_d", "o_d[None, :] * s_d"),
        ("step kernel: columns beyond the width are touched", "m_d = o_d < D\n    b_x", "m_d = o_d < BD\n    b_x"),
        ("step kernel: slots beyond the last are touched", "m_k = o_k < K", "m_k = o_k < K + BM"),
        ("step kernel: groups overlap", "i_g * BG + i + tl", "i_g * BM + i + tl"),
        ("step kernel: every turn takes the first slots", "i_g * BG + i + tl", "i_g * BG + tl"),
        ("step kernel: old state kept whole", "(1.0 - b_theta)[:, None] * b_h", "b_h"),
        ("step kernel: state in half precision",
         "b_theta[:, None] * b_x[None, :]  # (4)",
         "b_theta[:, None] * b_x[None, :]\n        b_h = b_h.to(tl.float16).to(tl.float32)"),
        ("step kernel: theta in half precision",
         "p_theta + i_b * K + o_k, mask=m_k, other=0.0)",
         "p_theta + i_b * K + o_k, mask=m_k, other=0.0).to(tl.float16)"),
        ("step kernel: phi of the first sequence", "p_phi + i_b * K + o_k", "p_phi + o_k"),
        ("step kernel: one norm for all slots", "tl.sum(b_h * b_h, 1) / D", "tl.sum(tl.sum(b_h * b_h, 0)) / D"),
        ("step kernel: mean over the block, not the width", "tl.sum(b_h * b_h, 1) / D", "tl.sum(b_h * b_h, 1) / BD"),
        ("step kernel: eps forgotten", " / D + eps)", " / D)"),
        ("step kernel: only the last turn is read",
         "b_y += tl.sum(b_psi[:, None] * b_h, 0)", "b_y = tl.sum(b_psi[:, None] * b_h, 0)"),
        ("step kernel: old state read",
         "tl.sum(b_psi[:, None] * b_h, 0)  # (6)",
         "tl.sum(b_psi[:, None] * tl.load(p_before + at, mask=mask, other=0.0), 0)  # (6)"),
        ("step kernel: old state overwritten", "tl.store(p_after + at", "tl.store(p_before + at"),
        ("step kernel: groups share one place", "tl.num_programs(1) + i_g) * D", "tl.num_programs(1)) * D"),
        ("step kernel: slots ignored",
         "        if SPARSE:\n            o_m = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0).to(tl.int64)\n",
         ""),
        ("step kernel: slots of the first sequence", "p_slots + i_b * K + o_k", "p_slots + o_k"),
        ("step kernel: a slot too many is inside", "(o_m >= 0) & (o_m < M)", "(o_m >= 0) & (o_m <= M)"),
        ("step kernel: negative slots are inside", "(o_m >= 0) & (o_m < M)", "o_m < M"),
        ("step kernel: a slot outside does not show",
         "        b_psi = tl.where(m_k & ~inside, float(\"nan\"), b_psi)\n", ""),
        ("step kernel: sequences of the state side by side", "at = i_b * s_b", "at = i_b * M * D"),
        ("step kernel: slots of the state side by side", "o_m[:, None] * s_m", "o_m[:, None] * D"),
        ("step kernel: columns of the state side by side",
         "o_d[None, :].to(tl.int64) * s_d", "o_d[None, :].to(tl.int64)"),
        ("step kernel: only the first groups are merged",
         "for i in range(0, groups, BS):", "for i in range(0, BS, BS):"),
        ("step kernel: a group too many is merged",
         "mask=(o_g < groups)[:, None] & m_d[None, :]", "mask=(o_g < groups + 1)[:, None] & m_d[None, :]"),
        ("step kernel: only the first columns are merged",
         "tl.program_id(1) * BD + tl.arange(0, BD)\n    m_d", "tl.arange(0, BD)\n    m_d"),
        ("step kernel: group size follows the batch",
         "constants = blocks.constants(K, D)",
         "constants = blocks._replace(slots=triton.next_power_of_2(4 * B)).constants(K, D)"),
        ("step kernel: sparse_step writes in place", "state.clone(memory_format=torch.contiguous_format)", "state"),
        ("step kernel: strided x taken as it lies",
         "theta, phi, x = (v.contiguous() for v in (theta, phi, x))",
         "theta, phi = (v.contiguous() for v in (theta, phi))"),
        ("step kernel: strided slots taken as they lie",
         "None if slots is None else slots.contiguous()", "slots"),
        ("step kernel: expanded state written", "if any(size > 1 and stride == 0", "if any(size > 1 and stride < 0"),
        ("step kernel: mutation not declared", 'mutates_args={"state"}', "mutates_args=()"),
        ("step kernel: new state has the shape of x when traced",
         "return x.new_empty(x.shape), state.new_empty(state.shape)",
         "return x.new_empty(x.shape), x.new_empty(x.shape)"),
    ),
    *planted(
        INIT, STEP_KERNELS,
        ("step kernel: taken where gradients are asked for", " and not differentiate\n", "\n"),
        ("step kernel: taken by float64 states", "state.dtype == torch.float32", "True"),
    ),
    *planted(
        TRITON_SPARSE, SPARSE_KERNELS,
        ("sparse kernel: chunks reach into the next row", "tl.minimum(begin + BP, (row + 1) * L)", "begin + BP"),
        ("sparse kernel: chunks do not begin with a row",
         "begin = row * L + o_c % tl.cdiv(L, BP) * BP", "begin = o_c * BP"),
        ("sparse kernel: last chunk of a row lost",
         "row = o_c // tl.cdiv(L, BP)", "row = o_c // tl.maximum(L // BP, 1)"),
        ("sparse kernel: chunks of a pair counted short", "o_p // L * tl.cdiv(L, BP)", "o_p // L * (L // BP)"),
        ("sparse kernel: only the list's first pair begins a run",
         "m_p & (run != _run(p_run, o_p - 1, m_p, n))", "m_p & (o_p == 0)"),
        ("sparse kernel: only the list's last pair ends a run",
         "m_p & (run != _run(p_run, o_p + 1, m_p, n))", "m_p & (o_p == n - 1)"),
        ("sparse kernel: theta taken in the list's order", "p_theta + o_k, mask=m_p", "p_theta + o_p, mask=m_p"),
        ("sparse kernel: initial state ignored",
         "tl.where(first[:, None], _load(p_initial, run, first, o_d, D), b_h)", "tl.where(first[:, None], 0.0, b_h)"),
        ("sparse kernel: a run goes on from the last one",
         "        return tl.where(first[:, None], 0.0, b_h)", "        return b_h"),
        ("sparse kernel: sum of squares, not their mean",
         "1.0 / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)", "1.0 / tl.sqrt(tl.sum(b_h * b_h, 1) + eps)"),
        ("sparse kernel: mean over the block, not the width",
         "b_gate / tl.sqrt(tl.sum(b_row * b_row, 1) / D", "b_gate / tl.sqrt(tl.sum(b_row * b_row, 1) / BD"),
        ("sparse kernel: eps forgotten", "tl.sum(b_row * b_row, 1) / D + eps)", "tl.sum(b_row * b_row, 1) / D)"),
        ("sparse kernel: one <h, dy> for all chunks",
         "tl.sum(b_h * b_dy, 1) * b_inverse", "tl.sum(tl.sum(b_h * b_dy, 1)) * b_inverse"),
        ("sparse kernel: pull of the norm forgotten", " - (b_psi * b_dphi * b_inverse / D)[:, None] * b_h", ""),
        ("sparse kernel: decay of a chunk forgotten", "b_total *= 1.0 - b_theta", "b_total *= 1.0"),
        ("sparse kernel: initial state in every chunk",
         "m_c & (run != _run(p_run, begin - 1, m_c, n)), o_d, D)", "m_c, o_d, D)"),
        ("sparse kernel: runs of a chunk mixed at its end",
         "begin = end - _count(p_run, run, begin, end, BP)",
         "begin = tl.where(_count(p_run, run, begin, end, BP) > 0, begin, end)"),
        ("sparse kernel: nothing enters a run's last chunk",
         "b_h, o_c, i <= steps, o_d, D)", "b_h, o_c, i < steps, o_d, D)"),
        ("sparse kernel: state carried without decay", "b_h = b_total[:, None] * b_h + _load", "b_h = b_h + _load"),
        ("sparse kernel: only the first programs of runs carry",
         "o_r, o_d = tl.program_id(0).to(tl.int64) * BG + tl", "o_r, o_d = tl.program_id(0).to(tl.int64) * 0 + tl"),
        ("sparse kernel: gradient carried from the left", "    if REVERSE:\n        o_c = last\n", ""),
        ("sparse kernel: what enters a chunk not read",
         "b_h = _load(p_entering, o_c, begin < end, o_d, D)", "b_h = _load(p_entering, o_c, begin > end, o_d, D)"),
        ("sparse kernel: state in half precision",
         "        _store(p_h, b_h, o_p, m_p, o_d, D)\n",
         "        b_h = b_h.to(tl.float16).to(tl.float32)\n        _store(p_h, b_h, o_p, m_p, o_d, D)\n"),
        ("sparse kernel: chunk's last state in half precision",
         "        b_total *= 1.0 - b_theta\n",
         "        b_total *= 1.0 - b_theta\n        b_h = b_h.to(tl.float16).to(tl.float32)\n"),
        ("sparse kernel: final state after a run's first pair",
         "_store(p_final, b_h, run, last, o_d, D)", "_store(p_final, b_h, run, first, o_d, D)"),
        ("sparse kernel: only the last pair of a token read", "b_out += b_gate", "b_out = b_gate"),
        ("sparse kernel: first pair of a token read K times", "p_place + o_t * K + k", "p_place + o_t * K"),
        ("sparse kernel: gates of the neighbour's pairs", "p_gate + o_t * K + k", "p_gate + o_t + k"),
        ("sparse kernel: tokens beyond the first block lost",
         "o_t, o_d = tl.program_id(0).to(tl.int64) * BG", "o_t, o_d = tl.program_id(0).to(tl.int64) * 0"),
        ("sparse kernel: gradient of the final state lost where a run ends early",
         "b_l = _load(p_dfinal, run, m_c & (run != _run(p_run, end, m_c, n)), o_d, D)",
         "b_l = _load(p_dfinal, run, m_c & (end < begin), o_d, D)"),
        ("sparse kernel: gradient handed to the left without decay",
         "        b_l *= (1.0 - b_theta)[:, None]\n    _store(p_starts", "    _store(p_starts"),
        ("sparse kernel: runs of a chunk mixed at its start",
         "end = begin + _count(p_run, run, begin, end, BP)",
         "end = tl.where(_count(p_run, run, begin, end, BP) > 0, end, begin)"),
        ("sparse kernel: gradient from the right not read",
         "b_l = _load(p_right, o_c, begin < end, o_d, D)", "b_l = _load(p_right, o_c, begin > end, o_d, D)"),
        ("sparse kernel: state before the chunk forgotten",
         " + _load(p_entering, o_c, o_p == begin, o_d, D)", ""),
        ("sparse kernel: initial state left out of dtheta",
         "- _before(b_h, p_initial, run, first, o_d, D)\n        tl.store", "- b_h\n        tl.store"),
        ("sparse kernel: dphi in the list's order", "tl.store(p_dphi + o_k", "tl.store(p_dphi + o_p"),
        ("sparse kernel: gradients of the states not written", "        _store(p_h, b_l, o_p, m_p, o_d, D)\n", ""),
        ("sparse kernel: gradient goes on without decay",
         "        b_l *= (1.0 - b_theta)[:, None]\n        _store(p_dinitial", "        _store(p_dinitial"),
        ("sparse kernel: every pair begins an initial state's gradient",
         "_store(p_dinitial, b_l, run, first", "_store(p_dinitial, b_l, run, last"),
        ("sparse kernel: unnamed slots forgotten", "final.copy_(initial)  #", "final.zero_()  #"),
        ("sparse kernel: gradient of unnamed slots forgotten", "dinitial.copy_(dfinal)  #", "dinitial.zero_()  #"),
        ("sparse kernel: inverse permutation the wrong way round",
         "scatter_(0, order, torch.arange(len(order), device=order.device))",
         "scatter_(0, torch.arange(len(order), device=order.device), order)"),
        ("sparse kernel: strided inputs taken as they lie",
         "    theta, phi, x = (v.contiguous() for v in (theta, phi, x))\n", ""),
        ("sparse kernel: strided gradients taken as they lie",
         "    dy, dfinal, theta, phi, x = (v.contiguous() for v in (dy, dfinal, theta, phi, x))\n", ""),
        ("sparse kernel: launched without tokens",
         "triton.cdiv(count, c[\"BG\"]) if row else 0", "triton.cdiv(count, c[\"BG\"])"),
    ),
    *planted(
        TRITON_SPARSE, f"{SPARSE_KERNELS}::test_a_slot_outside_shows_and_harms_no_other",
        ("sparse kernel: a slot outside does not show", "phi.where(inside, torch.nan)", "phi"),
        ("sparse kernel: a slot outside is written", "theta.where(inside, 0)", "theta"),
    ),
    *planted(
        TRITON_SPARSE, f"{SPARSE_KERNELS}::test_more_pairs_and_columns_than_a_block",
        ("sparse kernel: wide rows get no program", "max(1, self.numbers // bd)", "self.numbers // bd"),
    ),
    *planted(
        TRITON_SPARSE, f"{SPARSE_KERNELS}::test_without_gradients_nothing_is_kept {SPARSE_KERNELS}::test_opcheck",
        ("sparse kernel: everything kept without gradients",
         "((entering, total, run, order) if save else saved)", "(entering, total, run, order)"),
        ("sparse kernel: fewer states kept when traced",
         "chunks, n = (plan.chunks, plan.sizes[0]) if save", "chunks, n = (1, plan.sizes[0]) if save"),
    ),
    *planted(
        TRITON_SPARSE, f"{SPARSE_KERNELS}::test_gradients_of_one_result_alone",
        ("sparse kernel: no gradient of y alone",
         "    dfinal = saved[0].new_zeros(shape) if dfinal is None else dfinal\n", ""),
        ("sparse kernel: no gradient of the state alone", "    dy = torch.zeros_like(x) if dy is None else dy\n", ""),
    ),
    *planted(
        "lm/checkpoint.py", PUBLISHED,
        ("publish: measured before it is rounded",
         "    model.load_state_dict(weights)\n    record |=", "    record |="),
        ("publish: weights kept whole", "v.half() for", "v for"),
        ("publish: what is there stays",
         "        remove(final)\n    os.replace", "        return final\n    os.replace"),
    ),
    *planted(
        "lm/command_line.py", PUBLISHED,
        ("publish: a model keeps to its own Python", " and path.parent != checkpoint.PUBLISHED", ""),
    ),
    *planted(
        "lm/evaluate.py", "tests/test_evaluate.py",
        ("evaluate: emptied keeps its state", "None if reset else state", "state"),
        ("evaluate: a loss counts one bucket early", "bucket_of[places]", "bucket_of[(places - 1).clamp(0)]"),
        ("evaluate: windows are drawn, not files", "draws @ count", "draws.sum(1, keepdims=True) * count.mean(0)"),
    ),
    *planted(
        "lm/demo.py", "tests/test_command_line.py -k verdict",
        ("demo: the worse is called ahead", "if difference.mean[k] < 0 else", "if difference.mean[k] > 0 else"),
        ("demo: a verdict without evidence", "if difference.low[k] < 0 < difference.high[k]:", "if False:"),
    ),
]
# fmt: on


def pytest(project: Path, tests: str) -> tuple[bool, str]:
    """Whether the tests pass, and what failed first."""
    command = [sys.executable, "-m", "pytest", "-x", "--no-header", "--tb=no", "-rfE", *tests.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project), "HYPOTHESIS_PROFILE": "mutants"}
    try:
        run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return False, "no end after 600 s"
    if run.returncode < 0:  # an access outside of memory ends the interpreter
        return False, signal.Signals(-run.returncode).name
    lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return run.returncode == 0, lines[0].split(" - ")[0].split("::", 1)[-1] if lines else run.stdout[-300:]


def copy() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="mutants-")
    for room in ROOMS:
        source, target = ROOT / room, Path(folder.name) / room
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def plant(fault: Fault) -> tuple[str, str, float]:
    """What became of the fault: "killed", "SURVIVED" or "NOT FOUND"; by which test; seconds."""
    start = time.monotonic()
    with copy() as folder:
        path = Path(folder) / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            return "NOT FOUND", f"old text occurs {text.count(fault.old)} times", 0.0
        path.write_text(text.replace(fault.old, fault.new))
        passed, what = pytest(Path(folder), fault.tests)
    return ("SURVIVED", fault.tests, time.monotonic() - start) if passed else ("killed", what, time.monotonic() - start)


def main() -> int:
    faults = [f for f in FAULTS if all(word in f.name for word in sys.argv[1:])]
    with ThreadPoolExecutor(2) as pool, copy() as folder:
        clean = sorted({f.tests for f in faults})
        for tests, (passed, what) in zip(clean, pool.map(lambda t: pytest(Path(folder), t), clean), strict=True):
            if not passed:
                print(f"Without a fault, {tests} must pass: {what}")
                return 1
        print(f"{'fault':<56} {'outcome':<9} {'s':>5}  by", flush=True)
        outcomes = []
        for fault, (outcome, by, seconds) in zip(faults, pool.map(plant, faults), strict=True):
            print(f"{fault.name:<56} {outcome:<9} {seconds:5.1f}  {by}", flush=True)
            outcomes.append(outcome)
    killed = outcomes.count("killed")
    print(f"{killed} of {len(faults)} faults killed")
    return 0 if killed == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())

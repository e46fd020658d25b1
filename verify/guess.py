"""One guess at the fault, from the pattern of what is wrong and what is not.

A rule looks at all results and says nothing unless its pattern is there. The rules stand in order, the most telling
first. A guess that is wrong for a planted fault is a bug: `python -m verify --prove` shows them all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from verify.bounds import in_bounds
from verify.cases import EXACT, Case, Fixed
from verify.judge import VALUES, Result, truth, wrong_tokens


class Guess(NamedTuple):
    cause: str  # a key, for tests
    text: str


def from_pattern(results: list[Result]) -> Guess | None:
    """None where nothing is wrong."""
    evidence = Evidence(results)
    if not evidence.wrong:
        return None
    return next(guess for rule in RULES if (guess := rule(evidence)) is not None)


class Evidence:
    """The results, asked in the ways that the rules need."""

    def __init__(self, results: list[Result]) -> None:
        self.wrong = [r for r in results if not r.ok]
        fixed = [r for r in results if r.fixed is not None and r.kind not in ("behaviour", "law")]
        self.bad = [r for r in fixed if not r.ok]
        self.good = [r for r in fixed if r.ok]
        self.odd = {r.name: r for r in results if r.kind == "behaviour" and not r.ok}

    @cached_property
    def names(self) -> set[str]:
        """The results that are wrong in some case: y, dtheta, ..."""
        return {w.name for r in self.bad for w in r.wrong}

    @property
    def backward_only(self) -> bool:
        return bool(self.bad) and not any(r.raised for r in self.bad) and not self.names & {*VALUES, "unnamed slots"}

    @property
    def valued(self) -> list[Result]:
        """The cases that are out of bounds, not of a wrong dtype alone."""
        return [r for r in self.bad if any(w.mask is not None for w in r.wrong)]

    def only(self, *kinds: str) -> bool:
        return bool(self.bad) and {r.kind for r in self.bad} <= {*kinds}

    def good_ones(self, *kinds: str) -> list[Result]:
        return [r for r in self.good if r.kind in kinds]

    def above(self, size: Callable[[Case], int], kind: str) -> tuple[int, int] | None:
        """(the largest size that is right, the smallest that is wrong) if all larger ones are wrong, and no smaller."""
        right = [size(r.fixed.case) for r in self.good if r.kind == kind]
        wrong = [size(r.fixed.case) for r in self.bad if r.kind == kind]
        least = min((size(r.fixed.case) for r in self.bad), default=0)
        if right and wrong and 1 < max(right) < min(wrong) and least > max(right):
            return max(right), min(wrong)
        return None


def tokens(case: Case) -> int:
    return case.value.shape[1]


def width(case: Case) -> int:
    return case.value.shape[-1]


def slots(case: Case) -> int:
    return case.state_shape()[1]


# Rules


def raises(e: Evidence) -> Guess | None:
    raised = [r for r in e.wrong if r.raised]
    if not raised or len(raised) < len(e.wrong) / 2:
        return None
    where = _list(r.name for r in raised)
    return Guess("raises", f"raises in {where}: {raised[0].raised}; leave out by an option what it need not compute")


def shape(e: Evidence) -> Guess | None:
    found = next((w.text for r in e.bad for w in r.wrong if w.name == "shape"), None)
    return Guess("shape", found) if found else None


def unwritten(e: Evidence) -> Guess | None:
    found = e.odd.get("all results are written")
    if found and found.wrong:
        return Guess("unwritten", f"a part of the results is never written: {found.wrong[0].text}")
    return None


def changed_inputs(e: Evidence) -> Guess | None:
    """What is wrong elsewhere may come of it."""
    found = e.odd.get("inputs stay as they are")
    if found and found.wrong:
        return Guess("inputs stay as they are", f"the kernel writes into what it was given: {found.wrong[0].text}")
    return None


def no_gradients(e: Evidence) -> Guess | None:
    grads = [v for r in e.bad for name, v in r.got.items() if name not in VALUES and r.kind != "cancels"]
    if e.backward_only and grads and not any(v.any() for v in grads):
        text = "all gradients are 0: autograd sees no way from the results to the inputs; give a vjp, or --no-grad"
        return Guess("no gradients", text)
    return None


def dtype_alone(e: Evidence) -> Guess | None:
    texts = {w.text for r in e.bad for w in r.wrong if " has dtype " in w.text}
    named = [{w.name for w in r.wrong if " has dtype " in w.text} for r in e.bad]
    if not texts or any(r.raised for r in e.bad):
        return None
    common = set.intersection(*named)
    if not common or {w.name for r in e.valued for w in r.wrong if w.mask is not None and w.name in VALUES} - common:
        return None
    name = min(common)
    wants = "value" if name == "y" else "float32, or float64 if any input is" if name == "final state" else "its input"
    return Guess(f"dtype of {name}", f"{min(texts)}: it must come back in the dtype of {wants}")


def otherwise(e: Evidence) -> Guess | None:
    """The wrong numbers are those of another formula."""
    bad, good = (
        [r for r in results if r.got and r.fixed.case.value.dtype in EXACT and r.kind not in ("packed", "cancels")]
        for results in (e.bad, e.good)
    )
    exact = [r for r in bad if any(w.name in VALUES and w.mask is not None for w in r.wrong)]
    if not exact:
        return None
    for cause, formula in OTHERWISE.items():
        if all(_explains(formula, r) for r in _small(exact)) and all(_harmless(formula, r) for r in _small(good)):
            return Guess(cause, f"the numbers are those of another formula: {formula.text}")
    return None


def behaves(e: Evidence) -> Guess | None:
    """Nothing is wrong but what calls do to one another."""
    if e.bad or not e.odd:
        return None
    name = next(iter(e.odd))
    return Guess(name, f"{BEHAVES[name]}: {_told(e.odd[name])}")


def start(e: Evidence) -> Guess | None:
    if e.only("no state"):
        raised = next((r.raised for r in e.bad if r.raised), None)
        return Guess("start state", f"only when no state is given: {raised or 'the start state is not 0'}")
    return None


def ends_of_theta(e: Evidence) -> Guess | None:
    if e.only("theta 0 or 1", "theta next to 1", "theta denormal", "cancels") and not e.only("cancels"):
        text = "only theta near 0 or 1: a logarithm or quotient of theta or 1 - theta, a clipped theta, "
        return Guess("theta at its ends", text + "or a form in which 1 - theta loses its digits")
    kinds = {r.kind for r in e.bad if any(r.got[name].isnan().any() for name in VALUES if name in r.got)}
    if "theta 0 or 1" in kinds and "length" not in kinds:
        text = "NaN where theta is 0 or 1, and not elsewhere: a logarithm, or a quotient of products of 1 - theta"
        return Guess("theta at its ends", text)
    return None


def cancelled(e: Evidence) -> Guess | None:
    if e.only("cancels"):
        text = "only a slot that cancels: |h|^2 from inner products comes out below 0 (clamp it before eps is added)"
        return Guess("clamp", text)
    return None


def strides(e: Evidence) -> Guess | None:
    if e.only("strides"):
        return Guess("strides", "only strided inputs: memory is read as if it were contiguous")
    return None


def packing(e: Evidence) -> Guess | None:
    if e.only("packed"):
        return Guess("packing", "only packed sequences: the borders between sequences, or a state for each of them")
    return None


def one_half(e: Evidence) -> Guess | None:
    if not e.only("dtype"):
        return None
    if all(r.fixed.case.value.dtype == torch.float64 for r in e.bad):
        return Guess("float64", "only float64: it is computed in float32 somewhere")
    if all(r.fixed.case.value.dtype not in EXACT for r in e.bad):
        text = "only half precision: keep the state, 1 - theta and all sums in float32, and round y alone"
        return Guess("half precision", text)
    return None


def large_or_small(e: Evidence) -> Guess | None:
    if e.bad and all(_has_small_theta(r) for r in e.bad) and any("theta /" in r.name for r in e.bad):
        text = "only small theta: what is written is lost, in a state or a 1 - theta of few digits, or by a threshold"
        return Guess("small theta", text)
    if e.only("size of values", "eps", "cancels"):
        names = {r.name for r in e.bad} - {"a slot that cancels"}
        if names == {"values * 10,000"}:
            return Guess("large values", "only large values: something overflows or is clipped")
        if "eps 0.1" not in names:
            text = (
                "only small values, of a mean square near eps or below: a threshold for empty slots, or too few digits"
            )
            return Guess("small values", text)
        return Guess("eps", "only where eps counts: eps is not the argument, or not inside the root of the mean")
    return None


def _has_small_theta(result: Result) -> bool:
    return "theta /" in result.name or result.name in ("theta denormal", "theta 0", "theta 0 and 1 among others")


def sparse_kinds(e: Evidence) -> Guess | None:
    if not e.bad or e.bad[0].fixed.case.slots is None:
        return None
    if all(r.fixed.case.theta.shape[-1] == 1 for r in e.bad):
        return Guess("K = 1", "only K = 1: a dimension of size 1 is lost, or a branch for K = 1 is wrong")
    if e.only("K = M"):
        return Guess("K = M", "only K = M: the case where every slot is named has a branch, and it is wrong")
    if e.only("one slot"):
        text = "only where tokens share slots: a later write to a slot replaces an earlier one, or misses it"
        return Guess("shared slots", text)
    ordered = [r for r in [*e.bad, *e.good] if r.fixed.case.slots is not None and tokens(r.fixed.case)]
    if e.bad and all(r.ok == _in_order(r.fixed.case) for r in ordered if r.kind not in QUIET):
        return Guess("slots in no order", "right where the slots of a token rise, else wrong: they are taken as sorted")
    return None


def unnamed(e: Evidence) -> Guess | None:
    if "unnamed slots" in e.names and not any(r.kind == "K = M" for r in e.bad):
        return Guess(
            "unnamed slots", "slots that a token does not name are changed: leave them as they are, bit for bit"
        )
    return None


def shared(e: Evidence) -> Guess | None:
    """Slots are wrong where several tokens write to them, and right where one does."""
    once = False
    for r in e.valued:
        if r.fixed.case.slots is None:
            return None
        for w in r.wrong:
            if w.name == "final state" and w.mask is not None:
                named = r.fixed.case.slots.flatten(1)
                count = torch.zeros(r.fixed.case.state_shape()[:2], dtype=torch.long)
                count = count.scatter_add(1, named, torch.ones_like(named))
                if (w.mask.any(-1) & (count < 2)).any():
                    return None
                once |= bool((count == 1).any())
    text = "only slots that several tokens name: a later write to a slot replaces an earlier one, or misses it"
    return Guess("shared slots", text) if once else None


def batches(e: Evidence) -> Guess | None:
    alone = [r for r in e.good if len(r.fixed.case.value) == 1 and r.kind == "batch"]
    rows = [w.mask.flatten(1).any(1) for r in e.valued for w in r.wrong if w.mask is not None and w.mask.dim() > 1]
    others = [r for r in e.good if len(r.fixed.case.value) > 1 and r.kind not in (*QUIET, "one slot", "K = M")]
    if e.valued and alone and not others and all(len(r.fixed.case.value) > 1 for r in e.bad):
        first = "only from the second sequence of a batch on" if not any(row[0] for row in rows) else "only in batches"
        return Guess("batch", f"{first}: an offset or a gate is another sequence's")
    return None


def first_of_chunks(e: Evidence) -> Guess | None:
    """Wrong at multiples of some C alone, and never before the first of them."""
    masks = [w.mask for r in e.valued for w in r.wrong if w.first_token is not None]
    places = sorted({token for mask in masks for token in wrong_tokens(mask)})
    C = math.gcd(*places)
    if (
        len(places) > 1
        and C > 1
        and places[0] == C
        and all(w.first_token is not None for r in e.valued for w in r.wrong)
    ):
        term = "the state before that token" if e.names <= {"dtheta"} else "the state that enters the chunk"
        text = (
            f"only {_list(sorted(e.names))}, and only at tokens {C}, {2 * C}, ...: the first token of each chunk but "
        )
        return Guess("first of chunk", f"{text}the first; look for {term}")
    return None


def handed_on(e: Evidence) -> Guess | None:
    """y is right up to one token in all cases, and wrong from there on, whatever the final state is."""
    first = {}
    for r in e.bad:
        if r.kind == "length":
            first[tokens(r.fixed.case)] = min((w.first_token for w in r.wrong if w.name == "y"), default=None)
    at = min((token for token in first.values() if token is not None), default=0)
    long = [r for r in [*e.bad, *e.good] if r.kind == "length" and tokens(r.fixed.case) > at]
    if at > 1 and long and all(first.get(tokens(r.fixed.case)) == at for r in long):
        text = f"y is wrong from token {at} on in every case that is longer, never before: chunk border; "
        return Guess("chunk border", text + "the state that one chunk hands on to the next")
    return None


def borders(e: Evidence) -> Guess | None:
    """Sizes from which on all is wrong, or which a tile does not divide."""
    where = "in the backward, " if e.backward_only else ""
    if e.bad and all(not tokens(r.fixed.case) for r in e.bad):
        return Guess("length 0", "only length 0: the state that enters must come out, and gradients go through it")
    if (at := e.above(tokens, "length")) is not None:
        right, _ = at
        first = min((w.first_token for r in e.valued for w in r.wrong if w.first_token is not None), default=0)
        since = f"from token {first} on, " if first and not e.backward_only else ""
        text = f"{where}{since}in every case longer than {right}, never in a shorter one: chunk border; what one chunk "
        return Guess("chunk border", text + f"of {right} hands on to the {'one before' if where else 'next'}")
    for C in (128, 64, 32, 16):
        lengths = [r for r in [*e.bad, *e.good] if r.kind == "length" and tokens(r.fixed.case)]
        uneven = [r for r in lengths if tokens(r.fixed.case) % C]
        if uneven and all(r.ok == (tokens(r.fixed.case) % C == 0) for r in lengths) and len(uneven) < len(lengths):
            text = f"{where}only lengths that {C} does not divide: the last chunk, which is not full"
            return Guess("partial chunk", text)
    for what, size, kind, part in (("D", width, "width", "column"), ("M", slots, "slots", "slot")):
        if (at := e.above(size, kind)) is not None:
            first = _first(e.valued, part)
            text = f"{where}only {what} of {at[1]} and more ({at[0]} is right), first wrong {part} {first}"
            return Guess(f"{part}s", f"{text}: a tile or mask of {part}s, or a sum over the first tile alone")
        odd = [r for r in [*e.bad, *e.good] if r.kind == kind]
        odd = [r for r in odd if size(r.fixed.case) > 1]
        for tile in (16, 8, 4, 2):
            if e.bad and all(r.ok == (size(r.fixed.case) % tile == 0) for r in odd) and any(r.ok for r in odd):
                text = f"{where}only {what} that {tile} does not divide: the mask of the last {part}s"
                return Guess(f"{part}s", text)
    return None


def factor(e: Evidence) -> Guess | None:
    """One result is right up to a number, which sizes may explain."""
    names = e.names - {"unnamed slots"}
    if len(names) != 1 or len(e.valued) < 3:
        return None
    name = names.pop()
    ratios = [(r.fixed.case, _ratio(r.got[name], truth(r.fixed).want[name])) for r in e.valued if name in r.got]
    ratios = [(case, ratio) for case, ratio in ratios if case.value.dtype in EXACT]
    if not ratios or any(ratio is None for _, ratio in ratios):
        return None
    for text, size in FACTORS.items():
        if all(math.isclose(ratio, size(case), rel_tol=1e-3, abs_tol=1e-6) for case, ratio in ratios):
            return Guess(f"factor of {name}", f"{name} is {text} what it should be, in every case")
    if all(math.isclose(ratio, ratios[0][1], rel_tol=1e-3) for _, ratio in ratios):
        return Guess(f"factor of {name}", f"{name} is {ratios[0][1]:.4g} times what it should be, in every case")
    return None


def gradients_alone(e: Evidence) -> Guess | None:
    if not e.backward_only:
        return None
    by = {r.name: r.ok for r in [*e.good, *e.bad] if r.kind == "gradient"}
    of_y, of_state = by.get("gradient of y alone", True), by.get("gradient of the final state alone", True)
    if of_y and not of_state:
        text = (
            "only gradients, and only those that come from the final state: it is left out, or enters at a wrong place"
        )
        return Guess("gradient of the final state", text)
    if len(e.names) == 1:
        name = next(iter(e.names))
        zero = all(not r.got[name][w.mask].any() for r in e.valued for w in r.wrong if w.mask is not None)
        text = (
            "every wrong number is 0: it is not written, or not added up" if zero else GRADIENTS[name.removeprefix("d")]
        )
        return Guess(f"gradient {name}", f"only {name}: {text}")
    if of_state and not of_y and "dphi" not in e.names:
        text = "only gradients, and only those that come from y: the norm in the backward (rms depends on the state)"
        return Guess("norm in the backward", text)
    if not of_state and not of_y:
        text = (
            f"only gradients ({_list(sorted(e.names))}), of y and of the final state: how the adjoint goes from token "
        )
        return Guess("adjoint", text + "to token, with a decay of 1 - theta")
    return Guess("backward", f"only gradients, {_list(sorted(e.names))}: the backward")


def coarse(e: Evidence) -> Guess | None:
    """All is nearly right."""
    skip = ("size of values", "eps", "cancels", "packed")
    near = [r for r in e.valued if r.kind not in skip and r.fixed.case.value.dtype in EXACT]
    names = e.names if e.backward_only else {*VALUES}
    off = [_relative(r, w.name) for r in near for w in r.wrong if w.mask is not None and w.name in names]
    if off and max(off) < 1e-2:
        where = "the gradients are" if e.backward_only else "all is"
        text = (
            f"{where} right to {max(off):.0e}: float32 is computed, or kept, with fewer digits (TF32, half precision)"
        )
        return Guess("digits", text)
    return None


def state_alone(e: Evidence) -> Guess | None:
    if e.names & {*VALUES} == {"final state"}:
        return Guess("final state", "only the final state: y is right, so it is what is handed back that is not")
    if e.bad and "final state" not in e.names and "y" in e.names:
        text = "y is wrong and the final state is right: how the state is read (phi, the norm, the sum over slots)"
        return Guess("read", text)
    return None


def by_law(e: Evidence) -> Guess | None:
    laws = [r for r in e.wrong if r.kind == "law"]
    if laws and not e.bad:
        return Guess("law", f"only generated inputs show it: {_told(laws[0])}")
    return None


def start_somewhere(e: Evidence) -> Guess | None:
    """No pattern is known: the smallest case that is wrong."""
    if not e.bad:
        return Guess("behaviour", f"{e.wrong[0].name}: {_told(e.wrong[0])}")
    least = min(e.bad, key=lambda r: (r.raised is not None, r.fixed.case.value.numel() * slots(r.fixed.case)))
    kinds = sorted({r.kind for r in e.bad})
    where = f"only in cases of {_list(kinds)}" if e.good else "in every case"
    text = f"no pattern that is known: {where}, {_list(sorted(e.names))}; begin with the smallest, {least.name}"
    return Guess("unknown", text)


RULES = (
    shape, unwritten, changed_inputs, no_gradients, dtype_alone, behaves, otherwise, start, cancelled, strides, packing,
    one_half, large_or_small, ends_of_theta, sparse_kinds, raises, batches, first_of_chunks, borders, handed_on,
    unnamed, shared, factor, coarse, gradients_alone, state_alone, by_law, start_somewhere,
)  # fmt: skip

QUIET = ("theta 0 or 1", "length", "slots")  # kinds that may be right for reasons of their own

BEHAVES = {
    "same input, same bits": "sums in an order that changes, or memory that is read before it is written",
    "inputs stay as they are": "raises",
    "all results are written": "raises",
    "sequences are independent": "a sequence reads another one's numbers, perhaps times 0",
    "two calls are one": "the state that comes out is not the one that should go in",
    "without gradients": "another code runs where no gradient is asked for, and it is wrong",
}

GRADIENTS = {
    "theta": "gates in the backward; theta both lets the value in and takes the state back, value - state before",
    "phi": "the gradient of phi is <dy, h> / rms(h), of the state after the token is written",
    "value": "the gradient of value is the sum over slots of theta times the adjoint",
    "initial_state": "the gradient that leaves the first token; its decay counts too",
}

FACTORS: dict[str, Callable[[Case], float]] = {
    "0 instead of": lambda case: 0.0,
    "minus": lambda case: -1.0,
    "twice": lambda case: 2.0,
    "half": lambda case: 0.5,
    "√D times": lambda case: width(case) ** 0.5,
    "1/√D of": lambda case: width(case) ** -0.5,
    "D times": lambda case: width(case),
    "1/D of": lambda case: 1 / width(case),
    "M times": lambda case: slots(case),
    "1/M of": lambda case: 1 / slots(case),
    "B times": lambda case: len(case.value),
    "1/B of": lambda case: 1 / len(case.value),
    "T times": lambda case: tokens(case),
    "1/T of": lambda case: 1 / max(tokens(case), 1),
}


@dataclass(frozen=True)
class Otherwise:
    """The recurrence with one thing changed. State h [B, M, D], weights [B, M, 1], value v [B, 1, D]."""

    text: str
    keep: Callable = lambda theta, phi: 1 - theta
    add: Callable = lambda theta, phi: theta
    read: Callable = lambda theta, phi: phi
    rms: Callable = lambda h, eps: (h.square().mean(-1, keepdim=True) + eps).sqrt()
    seen: Callable = lambda before, after, keep: after
    normed: Callable = lambda seen, after: seen  # what the norm is of
    handed: Callable = lambda before, after: after
    merge: Callable = lambda parts: parts.sum(1)
    after: Callable = lambda y, eps: y
    change: Callable[[Case], Case] = lambda case: case

    def __call__(self, case: Case) -> dict[str, Tensor]:
        case = self.change(case.double().dense())
        state, ys = case.start(), []
        before = state
        for t in range(tokens(case)):
            theta, phi, v = case.theta[:, t, :, None], case.phi[:, t, :, None], case.value[:, t, None]
            keep, before = self.keep(theta, phi), state
            state = keep * state + self.add(theta, phi) * v
            h = self.seen(before, state, keep)
            ys.append(
                self.after(self.merge(self.read(theta, phi) * h / self.rms(self.normed(h, state), case.eps)), case.eps)
            )
        return {"y": torch.stack(ys, 1) if ys else case.value, "final state": self.handed(before, state)}


def _eps(number: float) -> Otherwise:
    text = f"eps is {number:g} whatever is asked for" if number else "eps is left out"
    return Otherwise(text, change=lambda case: replace(case, eps=number))


def _late(case: Case) -> Case:
    return replace(case, theta=torch.cat([torch.zeros_like(case.theta[:, :1]), case.theta[:, :-1]], 1))


def _of_first(*names: str) -> Callable[[Case], Case]:
    return lambda case: replace(case, **{n: getattr(case, n)[:1].expand_as(getattr(case, n)) for n in names})


def _no_start(case: Case) -> Case:
    return replace(case, initial_state=None)


def _forget_last(case: Case) -> Case:
    last = torch.arange(tokens(case)) == tokens(case) - 1
    return replace(case, theta=case.theta.masked_fill(last[:, None], 0))


OTHERWISE = {
    "start ignored": Otherwise("the initial state that is given counts as 0", change=_no_start),
    "theta and phi swapped": Otherwise(
        "theta and phi are swapped", change=lambda case: replace(case, theta=case.phi, phi=case.theta)
    ),
    "phi ignored": Otherwise("phi counts as 1", read=lambda theta, phi: torch.ones_like(phi)),
    "phi twice": Otherwise("phi is squared", read=lambda theta, phi: phi * phi),
    "read by theta": Otherwise("slots are read by theta", read=lambda theta, phi: theta),
    "read before written": Otherwise("y is read before the token is written", seen=lambda before, after, keep: before),
    "own token missing": Otherwise(
        "y misses what its own token writes (the triangle of a chunk needs its diagonal)",
        seen=lambda before, after, keep: keep * before,
        normed=lambda seen, after: after,
    ),
    "own token missing, in the norm too": Otherwise(
        "y misses what its own token writes", seen=lambda before, after, keep: keep * before
    ),
    "final state early": Otherwise("the final state lacks the last token", handed=lambda before, after: before),
    "no decay": Otherwise("the state does not decay", keep=lambda theta, phi: torch.ones_like(theta)),
    "value without theta": Otherwise("values are added whole", add=lambda theta, phi: torch.ones_like(theta)),
    "decay is exp": Otherwise("the decay is exp(-theta), not 1 - theta", keep=lambda theta, phi: (-theta).exp()),
    "decay is theta": Otherwise(
        "theta and 1 - theta are swapped", keep=lambda theta, phi: theta, add=lambda theta, phi: 1 - theta
    ),
    "decay by phi": Otherwise("the decay is 1 - phi", keep=lambda theta, phi: 1 - phi),
    "decay twice": Otherwise("the decay is squared", keep=lambda theta, phi: (1 - theta) ** 2),
    "value decays": Otherwise("a value decays by its own token", add=lambda theta, phi: theta * (1 - theta)),
    "theta late": Otherwise("theta is that of the token before", change=_late),
    "sum for mean": Otherwise(
        "constant factor √D: the sum of squares for their mean",
        rms=lambda h, eps: (h.square().sum(-1, keepdim=True) + eps).sqrt(),
    ),
    "eps over D": Otherwise(
        "eps is added to the sum of squares, so it counts as eps / D",
        rms=lambda h, eps: ((h.square().sum(-1, keepdim=True) + eps) / h.shape[-1]).sqrt(),
    ),
    "eps outside": Otherwise(
        "eps is added outside the root", rms=lambda h, eps: h.square().mean(-1, keepdim=True).sqrt() + eps
    ),
    "eps as floor": Otherwise(
        "eps is a floor under the mean of squares, not added to it",
        rms=lambda h, eps: h.square().mean(-1, keepdim=True).clamp(min=eps).sqrt(),
    ),
    "eps squared": Otherwise(
        "eps is squared", rms=lambda h, eps: (h.square().mean(-1, keepdim=True) + eps * eps).sqrt()
    ),
    "no root": Otherwise(
        "the root of the mean of squares is missing", rms=lambda h, eps: h.square().mean(-1, keepdim=True) + eps
    ),
    "no norm": Otherwise("slots are read without their norm", rms=lambda h, eps: torch.ones_like(h[..., :1])),
    "norm over slots": Otherwise(
        "the mean of squares is over slots, not over columns",
        rms=lambda h, eps: (h.square().mean(1, keepdim=True) + eps).sqrt(),
    ),
    "norm of all": Otherwise(
        "one norm for all slots", rms=lambda h, eps: (h.square().mean((1, 2), keepdim=True) + eps).sqrt()
    ),
    "centred": Otherwise(
        "the mean is taken off first, as in LayerNorm",
        rms=lambda h, eps: (h.var(-1, keepdim=True, correction=0) + eps).sqrt(),
    ),
    "norm after merge": Otherwise(
        "slots are merged first and normalised then",
        rms=lambda h, eps: torch.ones_like(h[..., :1]),
        after=lambda y, eps: y / (y.square().mean(-1, keepdim=True) + eps).sqrt(),
    ),
    "mean over slots": Otherwise("the mean over slots for their sum", merge=lambda parts: parts.mean(1)),
    "eps ignored": _eps(1e-6),
    "eps left out": _eps(0.0),
    "eps fixed at 1e-5": _eps(1e-5),
    "eps fixed at 1e-8": _eps(1e-8),
    "gates of the first sequence": Otherwise(
        "the gates are those of the first sequence of the batch", change=_of_first("theta", "phi")
    ),
    "value of the first sequence": Otherwise(
        "values are those of the first sequence of the batch", change=_of_first("value")
    ),
    "last token": Otherwise("the last token is not written", change=_forget_last),
}


def _explains(formula: Otherwise, result: Result) -> bool:
    """Whether formula gives what the kernel gave, and not what is right."""
    other, want = formula(result.fixed.case), truth(result.fixed).want
    off = told = 0.0
    for name in VALUES:
        if name in result.got:
            got = result.got[name].double()
            if got.shape != other[name].shape:
                return False
            size = other[name].norm().item() + 1e-30
            off = max(off, _nan_is_far((got - other[name]).norm().item() / size))
            told = max(told, _nan_is_far((got - want[name]).norm().item() / size))
    return off < 1e-4 and off < 0.1 * told


def _harmless(formula: Otherwise, result: Result) -> bool:
    """Whether formula is right in a case that the kernel has right."""
    other, right = formula(result.fixed.case), truth(result.fixed)
    return all(
        not result.got[name].numel() or in_bounds(other[name], right.want[name], 3 * right.bound[name]).max() <= 1
        for name in VALUES if name in result.got
    )  # fmt: skip


def _small(results: list[Result]) -> list[Result]:
    """The smallest result of each kind."""
    least: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: tokens(r.fixed.case) * slots(r.fixed.case) * width(r.fixed.case)):
        if tokens(result.fixed.case):
            least.setdefault(result.kind, result)
    return [*least.values()]


def _nan_is_far(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _ratio(got: Tensor, want: Tensor) -> float | None:
    """got over want where it is one number for all of them."""
    got, square = got.double(), want.square().sum().item()
    if not square or not got.isfinite().all():
        return None
    ratio = (got * want).sum().item() / square
    return ratio if (got - ratio * want).norm() <= 1e-3 * want.norm() else None


def _relative(result: Result, name: str) -> float:
    want = truth(result.fixed).want[name]
    return _nan_is_far(((result.got[name].double() - want).norm() / want.norm().clamp_min(1e-300)).item())


def _first(results: list[Result], part: str) -> int | str:
    """The first column or slot that is wrong in any result that has it."""
    found = []
    forward = any(w.name in VALUES for result in results for w in result.wrong)
    for result in results:
        for w in result.wrong:
            if forward and w.name not in VALUES:
                continue  # gradients of what is wrong are wrong everywhere
            axis = _axis(w.name, part, result.fixed)
            if w.mask is not None and axis is not None and w.mask.any():
                found.append(int(w.mask.movedim(axis, 0).flatten(1).any(1).nonzero()[0]))
    return min(found, default="unknown")


def _axis(name: str, part: str, fixed: Fixed) -> int | None:
    if part == "column":
        return -1 if name in ("y", "final state", "dvalue", "dinitial_state") else None
    if name in ("final state", "dinitial_state"):
        return 1
    return -1 if name in ("dtheta", "dphi") and fixed.case.slots is None else None


def _in_order(case: Case) -> bool:
    return bool((case.slots.diff(dim=-1) > 0).all())


def _told(result: Result) -> str:
    return result.raised or result.wrong[0].text


def _list(names) -> str:
    names = [*names]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

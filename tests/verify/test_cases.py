"""The fixed cases: what they contain, what options allow, and bounds that let rounding pass and nothing else."""

import pytest
import torch

from verify.cases import Limits, Sizes, fixed_cases, loop
from verify.judge import compare, truth

FORMS = ("dense", "sparse", "step")


@pytest.mark.parametrize("form", FORMS)
def test_names_differ_and_cases_stay(form):
    fixed = fixed_cases(Limits(form=form))
    assert len({one.name for one in fixed}) == len(fixed)
    fixed_cases.cache_clear()
    for one, again in zip(fixed, fixed_cases(Limits(form=form)), strict=True):
        assert all(
            torch.equal(v, again.case.floating()[name]) or v.isnan().any() for name, v in one.case.floating().items()
        )


def test_few_shapes_so_that_little_is_compiled():
    shapes = {(one.case.value.shape, one.case.theta.shape, one.case.value.dtype) for one in fixed_cases(Limits())}
    assert len(shapes) <= 30


def test_what_the_issue_of_kernels_needs_is_there():
    fixed = fixed_cases(Limits())
    assert {one.case.value.shape[1] for one in fixed} >= {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129}
    assert {one.case.value.shape[2] for one in fixed} >= {1, 8, 100, 128, 257}
    assert {one.case.theta.shape[2] for one in fixed} >= {1, 3, 37, 128}
    by_name = {one.name: one.case for one in fixed}
    assert (by_name["theta 0"].theta == 0).all() and (by_name["theta 1"].theta == 1).all()
    assert ((by_name["theta denormal"].theta > 0) & (by_name["theta denormal"].theta < 1e-38)).any()
    assert (by_name["theta next to 1"].theta == 1 - 2**-24).any()
    assert not by_name["strides: gaps"].value.is_contiguous()
    assert by_name["no state given"].initial_state is None
    cancels = by_name["a slot that cancels"]
    y, _ = loop(cancels.pick(slice(2), initial_state=cancels.initial_state).double())
    state = loop(cancels.pick(slice(2)).double())[1]
    assert state.abs().max() < 1e-4 and y.isfinite().all()


def test_packed_cases_are_legal_at_any_length():
    for lengths in ("0..100", "17", "64*n"):
        for one in fixed_cases(Limits(lengths=Sizes(lengths), packed=True)):
            if one.case.cu_seqlens is not None:
                bounds = one.case.cu_seqlens
                assert bounds[0] == 0 and bounds[-1] == one.case.value.shape[1] and (bounds.diff() >= 0).all()


def test_limits_hold_for_every_case():
    limits = Limits(lengths=Sizes("64*n"), widths=Sizes("64,128"), slots=Sizes("2..512"), dtypes=(torch.bfloat16,))
    for form in ("dense", "sparse"):
        for one in fixed_cases(Limits(form, *[getattr(limits, n) for n in ("dtypes", "lengths", "widths", "slots")])):
            _, T, D = one.case.value.shape
            assert T % 64 == 0 and T and D in (64, 128) and one.case.state_shape()[1] >= 2, one.name
            assert one.case.value.dtype == torch.bfloat16


@pytest.mark.parametrize("slots", ["1", "4", "37", "64*n", "1..512"])
def test_every_slot_is_named_where_k_is_m(slots):
    found = [one.case for one in fixed_cases(Limits("sparse", slots=Sizes(slots))) if one.kind == "K = M"]
    assert len(found) == 2
    for case in found:
        everything = torch.arange(case.num_slots).expand(case.slots.shape)
        assert case.theta.shape == case.slots.shape and torch.equal(case.slots.sort(-1).values, everything)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_float32_result_of_half_precision_may_be_off_by_some_of_its_roundings(dtype):
    """Products of a GPU round both factors: to 10 bits in TF32, for a final state and its gradient in float32."""
    half = dtype != torch.float32
    one = next(one for one in fixed_cases(Limits(dtypes=(dtype,))) if one.name == "many slots and columns")
    right = truth(one)
    for name in ("final state", "dinitial_state"):
        assert right.dtype[name] == torch.float32
        for off, ok in ((1e-6, True), (2.0**-10, half), (0.5, False)):
            got = {n: v.to(right.dtype[n]) for n, v in right.want.items()}
            got[name] = got[name] * (1 + off)
            assert compare(one, got).ok == ok, (name, off)


@pytest.mark.parametrize("text", ["", "a", "3..", "..", "5..2", "n*64"])
def test_sizes_that_mean_nothing_are_refused(text):
    with pytest.raises(ValueError, match="sizes must"):
        Sizes(text)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_bound_lets_rounding_pass_and_twice_itself_not(form):
    for one in fixed_cases(Limits(form=form, packed=True)):
        right = truth(one)
        for name, want in right.want.items():
            if not want.numel() or right.bound[name].isinf().any():
                continue
            if name == "final state" and form == "sparse":
                continue  # slots that no token names have no bound
            for share, ok in ((0.5, True), (2.0, False)):
                got = {n: v.clone(memory_format=torch.contiguous_format) for n, v in right.want.items()}
                got[name].view(-1)[-1] += share * right.bound[name].reshape(-1)[-1]
                assert compare(one, got, dtypes=False).ok == ok, (one.name, name, share)


def test_dtype_and_shape_count():
    one = next(one for one in fixed_cases(Limits()) if one.name == "bfloat16")
    got = {name: v.to(truth(one).dtype[name]) for name, v in truth(one).want.items()}
    assert compare(one, got).ok
    assert compare(one, got | {"y": got["y"].float()}).wrong[0].text == "y has dtype float32, not bfloat16"
    assert compare(one, got | {"y": got["y"][..., :1]}).wrong[0].text == "y has shape [2, 129, 1], not [2, 129, 8]"


def test_nan_counts_where_the_truth_is_finite():
    one = next(one for one in fixed_cases(Limits()) if one.name == "a slot that cancels")
    got = {name: truth(one).want[name].float() for name in ("y", "final state")}
    got["y"][0, 1, 0] = torch.nan
    assert truth(one).bound["y"][0, 1, 0].isinf()
    assert compare(one, got).wrong[0].mask.sum() == 1

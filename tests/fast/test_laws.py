"""The laws of Factorization Memory, for the loop and every backend that runs here, on generated inputs.

A law that says "this way of computing is that one" is checked against the loop in float64 on the same rounded inputs:
values, final state and all gradients, number by number, to the tolerance of the dtype (verify/bounds.py).
"""

import importlib
from contextlib import contextmanager
from itertools import product
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast
import reference
from fast import chunked, scan
from tests.support.cases import DENSE, LOOPS, SPARSE, steps, whole
from verify import laws
from verify.laws import cases, check

WIDE = (torch.float64,)
TORCH_STEPS = importlib.import_module("fast.step")  # fast.step is a function


def law(*backends, **how):
    """A test for each form, on cases(form, **how), of what a function of (case, run, draw) asserts of its backends.

    run computes a whole sequence. The function and how stay within reach, for backends that are tested apart.
    """
    forms = {form: [name for of, name in backends if of == form] for form, _ in backends}

    def decorate(holds):
        def test(form, data):
            case = data.draw(cases(**{"form": form, **how}))
            for backend in forms[form]:
                with named(backend):
                    holds(case, whole(backend), data.draw)

        test.__name__ = holds.__name__  # hypothesis draws by it
        test = pytest.mark.parametrize("form", forms)(given(st.data())(test))
        test.holds, test.how = holds, how
        return test

    return decorate


@contextmanager
def named(way):
    """What is raised says of which way it is. All ways are held to a case in turn: what is right of it costs most."""
    try:
        yield
    except Exception as error:
        error.add_note(f"of {way}")
        raise


@law(*DENSE, *SPARSE)
def test_equals_the_loop(case, run, draw):
    check(case, run)


@law(("dense", "chunked"), ("sparse", "chunked"))
def test_neither_chunk_length_nor_span_size_matters(case, run, draw):
    length = draw(st.integers(1, 20) | st.integers(1, case.value.shape[1] + 70))
    numbers = draw(st.integers(1, 10_000))
    with patch.object(chunked, "SPAN_NUMBERS", numbers):
        check(case, lambda case: case.call(chunked, chunk_length=length))


@law(("sparse", "scan"))
def test_neither_chunks_nor_lines_nor_blocks_matter(case, run, draw):
    sizes = {"CHUNK": st.integers(1, 20), "LINE_CHUNKS": st.integers(1, 5), "PART_PAIRS": st.integers(1, 200)}
    sizes["BLOCK_NUMBERS"] = st.integers(1, 3000)
    with patch.multiple(scan, **{name: draw(size) for name, size in sizes.items()}):
        check(case, run)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=(torch.float64, torch.float32))
def test_a_sequence_may_be_cut_in_time(case, run, draw):
    laws.a_sequence_may_be_cut_in_time(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_permuted_slots_permute_the_state(case, run, draw):
    laws.permuted_slots_permute_the_state(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_a_permuted_batch_permutes_the_result(case, run, draw):
    laws.a_permuted_batch_permutes_the_result(case, run, draw)


@law(*DENSE, *SPARSE, batches=(1, 2, 4))
def test_packed_sequences_are_separate_sequences(case, run, draw):
    with patch.object(chunked, "SPAN_NUMBERS", draw(st.integers(1, 10_000))):
        laws.packed_sequences_are_separate_sequences(case, run, draw)


@pytest.mark.parametrize("form", ["dense", "sparse"])
@given(st.data())
def test_decode_steps_are_a_prefill(form, data):
    """Those of the loop, those that fast takes, and those of torch, which a derivative or a graph needs."""
    case = data.draw(cases(form))
    for name, module in product(("step", "step_"), (reference, fast, TORCH_STEPS)):
        if (step := getattr(module, ("sparse_" if form == "sparse" else "") + name, None)) is not None:
            with named(f"{module.__name__}.{step.__name__}"):
                check(case, steps(step), differentiate=name != "step_")


@law(*SPARSE, ("sparse", "loop"), form="dense")
def test_sparse_with_all_slots_is_dense(case, run, draw):
    laws.sparse_with_all_slots_is_dense(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS)
def test_the_future_leaves_the_past_as_it_is(case, run, draw):
    laws.the_future_leaves_the_past_as_it_is(case, run, draw)


@law(*SPARSE, ("sparse", "loop"))
def test_slots_not_named_stay_bit_for_bit(case, run, draw):
    laws.slots_not_named_stay_bit_for_bit(case, run, draw)


@law(*SPARSE, ("sparse", "loop"))
def test_a_slot_of_weight_0_may_be_dropped(case, run, draw):
    laws.a_slot_of_weight_0_may_be_dropped(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS)
def test_every_slot_stays_in_the_hull_of_what_it_was_offered(case, run, draw):
    laws.every_slot_stays_in_the_hull_of_its_start_and_values(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS)
def test_theta_0_keeps_and_theta_1_replaces(case, run, draw):
    laws.theta_0_keeps_and_theta_1_replaces(case, run, draw)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(case, run, draw):
    laws.the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(case, run, draw)

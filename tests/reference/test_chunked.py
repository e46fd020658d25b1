"""The readable matrix form is the loop, on generated inputs, gradients too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from reference import chunked
from verify.laws import cases, check


@given(st.data())
def test_equals_the_loop(data):
    case = data.draw(cases(dtypes=(torch.float64,)))
    length = data.draw(st.integers(1, 20))
    wide = case.double()
    check(wide, lambda case: case.call(chunked, chunk_length=length))


@pytest.mark.parametrize("length", [1, 2, 16, 99])
def test_a_state_goes_from_chunk_to_chunk(length):
    generator = torch.Generator().manual_seed(0)
    theta, phi = torch.rand(2, 1, 33, 3, generator=generator, dtype=torch.float64)
    theta[:, [4, 16]], theta[:, 17] = 1, 0
    value, state = (torch.randn(1, n, 5, generator=generator, dtype=torch.float64) for n in (33, 3))
    for got, want in zip(
        chunked.factorization_memory(theta, phi, value, state, chunk_length=length),
        reference.factorization_memory(theta, phi, value, state),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)

"""Functions of many kinds are called as they wish: by name or in order, over arrays of any library, with gradients."""

import functools

import numpy as np
import pytest
import torch

import reference
import verify
from verify import right
from verify.adapters import CannotRun, Kernel, library_of, load
from verify.cases import Limits, fixed_cases

ONE = {"dtypes": "float32", "lengths": "17", "widths": "8", "slots": "3"}


def positional(a, b, c, d, e):
    return reference.factorization_memory(a, b, c, d, eps=e)


def keyword_eps(theta, phi, value, initial_state=None, *, eps):
    return reference.factorization_memory(theta, phi, value, initial_state, eps=eps)


def other_order(value, eps, initial_state, phi, theta):
    return reference.factorization_memory(theta, phi, value, initial_state, eps=eps)


def anything(*inputs, **more):
    return reference.factorization_memory(*inputs[:4], eps=inputs[4], **more)


def y_alone(theta, phi, value, initial_state, eps):
    return reference.factorization_memory(theta, phi, value, initial_state, eps=eps)[0]


class Layer(torch.nn.Module):
    def forward(self, theta, phi, value, initial_state, eps):
        return reference.factorization_memory(theta, phi, value, initial_state, eps=eps)


@pytest.mark.parametrize(
    "function",
    [positional, keyword_eps, other_order, anything, Layer(), functools.partial(keyword_eps)],
    ids=["positional", "keyword eps", "other order", "anything", "module", "partial"],
)
def test_arguments_find_their_places(function):
    verify.check(function, **ONE).raise_if_wrong()


def test_y_alone():
    report = verify.check(y_alone, state=False, **ONE).raise_if_wrong()
    assert not any("final state" in result.got for result in report.results)
    with pytest.raises(
        CannotRun, match=r"there must be two results, y and the final state \(or --no-state\), got Tensor"
    ):
        verify.check(y_alone, **ONE)


def test_the_start_is_none_only_where_the_signature_says_so():
    given = []

    def none(theta, phi, value, start=None, eps=1e-6):
        given.append(start is None)
        return reference.factorization_memory(theta, phi, value, start, eps=eps)

    def zeros(theta, phi, value, start, eps):
        given.append(start is None)
        return reference.factorization_memory(theta, phi, value, start, eps=eps)

    for function, expected in ((none, True), (zeros, False)):
        given.clear()
        verify.check(function, **ONE).raise_if_wrong()
        assert any(given) == expected


@pytest.mark.parametrize(
    "function, message",
    [
        (
            lambda theta, phi, value: None,
            "the dense form is called with theta, phi, value, initial_state, eps, and the",
        ),
        (
            lambda value, a, b, c, d: None,
            "value is not where theta, phi, value, initial_state, eps has it: name all of",
        ),
    ],
)
def test_a_signature_that_cannot_be_is_refused(function, message):
    with pytest.raises(CannotRun, match=message):
        Kernel(function)


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "a kernel must be named module:function, got 'nowhere'"),
        ("nowhere:fm", "nowhere cannot be imported: ModuleNotFoundError"),
        ("reference:fm", "reference has no fm"),
        ("verify.right:CHUNK", "verify.right:CHUNK cannot be called: it is a int"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, message):
    with pytest.raises(CannotRun, match=message):
        load(name)


def test_whose_arrays_a_function_takes():
    assert library_of(right.in_numpy) == "numpy"
    assert library_of(right.loop) == library_of(Layer()) == library_of(reference.factorization_memory) == "torch"
    assert library_of(lambda theta: np.exp(theta)) == "numpy"
    assert library_of(lambda theta: theta) == "torch"


def test_an_unknown_library_is_refused():
    with pytest.raises(CannotRun, match="the arrays of nowhere need nowhere, which is not installed"):
        Kernel(positional, arrays="nowhere")
    with pytest.raises(CannotRun, match="math has no from_dlpack"):
        Kernel(positional, arrays="math")


def test_numpy_without_a_vjp_is_checked_for_values_alone():
    report = verify.check(right.in_numpy, **ONE).raise_if_wrong()
    assert report.notes == ["gradients (numpy has none of its own: give a vjp)"]
    assert not any("dtheta" in result.got for result in report.results)
    with_vjp = verify.check(right.in_numpy, vjp=right.in_numpy_vjp, **ONE).raise_if_wrong()
    assert not with_vjp.notes and any("dtheta" in result.got for result in with_vjp.results)


def test_a_vjp_that_gives_too_few_is_told():
    def two(*inputs):
        return right.in_numpy_vjp(*inputs)[:2]

    report = verify.check(right.in_numpy, vjp=two, **ONE)
    assert report.guess.cause == "raises"
    assert "the vjp must give dtheta, dphi, dvalue, dinitial_state, got 2" in report.guess.text


def test_a_vjp_may_stand_beside_a_function_of_torch():
    def vjp(*inputs):
        return tuple(
            torch.from_numpy(v) for v in right.in_numpy_vjp(*(v.numpy() if hasattr(v, "numpy") else v for v in inputs))
        )

    def loop(theta, phi, value, initial_state, eps):
        return right.loop(theta, phi, value, initial_state, eps)

    verify.check(loop, vjp=vjp, **ONE).raise_if_wrong()


def test_a_function_cannot_spoil_the_cases():
    def spoils(theta, phi, value, initial_state, eps):
        out = reference.factorization_memory(theta, phi, value, initial_state, eps=eps)
        for v in (theta, phi, value, initial_state):
            v.data.zero_()
        return out

    fixed = fixed_cases(Limits())
    before = [one.case.map(torch.clone) for one in fixed]
    assert not verify.check(spoils).ok
    for one, case in zip(fixed, before, strict=True):
        assert all(torch.equal(v, case.floating()[name]) for name, v in one.case.floating().items()), one.name


@pytest.mark.parametrize("given", [{"form": "thick"}, {"dtypes": "int8"}, {"lengths": "some"}, {"device": "nowhere"}])
def test_an_option_that_cannot_be_is_refused_by_name(given):
    (name,) = given
    with pytest.raises(CannotRun, match=name):
        verify.check(reference.factorization_memory, **given)

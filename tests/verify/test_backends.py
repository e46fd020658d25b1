"""The project's own forms go through verify, as a user's kernel does."""

from functools import partial

import pytest
import torch

import fast
import reference
import verify
from reference import chunked as explained

RUNS = {name: reason is None for name, reason in fast.backends().items()}
SHORT = {"dtypes": "float32", "lengths": "0,5", "widths": "8", "slots": "3"}  # for an interpreter


@pytest.mark.parametrize(
    "function, options",
    [
        pytest.param(reference.factorization_memory, {}, id="loop"),
        pytest.param(reference.sparse_factorization_memory, {"form": "sparse"}, id="sparse loop"),
        pytest.param(reference.step, {"form": "step"}, id="step of the loop"),
        pytest.param(explained.factorization_memory, {"dtypes": "float32,float64"}, id="matrix form explained"),
        pytest.param(fast.factorization_memory, {"packed": True}, id="auto"),
        pytest.param(partial(fast.factorization_memory, backend="chunked"), {"packed": True}, id="chunked"),
        *(
            pytest.param(
                partial(fast.sparse_factorization_memory, backend=backend), {"form": "sparse", "packed": True}, id=name
            )
            for backend, name in (("chunked", "sparse chunked"), ("scan", "scan"), ("walk", "walk"))
            if RUNS[backend]
        ),
        pytest.param(fast.step, {"form": "step"}, id="step"),
    ],
)
def test_the_torch_forms_pass(function, options):
    verify.check(function, **options).raise_if_wrong()


@pytest.mark.skipif(not RUNS["triton"], reason="triton cannot run here")
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_the_kernels_pass(form):
    """In the interpreter with short cases; on a GPU with all of them."""
    function = fast.sparse_factorization_memory if form == "sparse" else fast.factorization_memory
    on_gpu = torch.cuda.is_available()
    options = {"dtypes": "float32,bfloat16,float16", "device": "cuda"} if on_gpu else SHORT
    verify.check(partial(function, backend="triton"), form, packed=True, **options).raise_if_wrong()

"""Factorization Memory, fast: the functions of `reference`, the same names, shapes and results.

    factorization_memory, sparse_factorization_memory   a whole sequence, forward and backward
    step, sparse_step                                   one token; step_ and sparse_step_ write into the state
    backends                                            what can run here, and why the rest cannot

The systems it is compared with are in fast.mamba2 and fast.attention.

B batch, T time, M slots, K slots per token, D slot width; floating inputs may be float64, float32, bfloat16 or
float16, strided or expanded, and are never changed. The state is float32, or float64 if any input is; y has the
dtype of value. theta outside [0, 1] is the caller's fault: the result is whatever the formula gives.

Range: squares of lengths are computed. So the square of the length of every value, and of every slot of the first
state, must stay below half the largest number of the state's dtype: lengths below 1.3e19 in float32, 9.4e153 in
float64. Beyond it there is no error, and results are NaN, infinite or 0.

Gradients are first derivatives, by reverse mode in torch.autograd. Anything else is refused by name with a
NotImplementedError: forward mode, torch.func.grad and its kin, a gradient of a gradient. (A step that Triton does not
compute has every derivative.)
"""

from fast.api import (
    factorization_memory,
    sparse_factorization_memory,
    sparse_step,
    sparse_step_,
    step,
    step_,
)
from fast.backends import backends

__all__ = [
    "backends",
    "factorization_memory",
    "sparse_factorization_memory",
    "sparse_step",
    "sparse_step_",
    "step",
    "step_",
]

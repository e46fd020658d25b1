"""The loops: one line of code per equation, obviously right, slow. Start reading here."""

from reference.factorization_memory import (
    factorization_memory,
    sparse_factorization_memory,
    sparse_step,
    step,
)

__all__ = ["factorization_memory", "sparse_factorization_memory", "sparse_step", "step"]

"""Bring your own kernel: any function over torch, NumPy or JAX arrays, held to the loop of `reference`.

    python -m verify my_module:fm          on a command line
    verify.check(fm)                       in Python; Jupyter shows the result as a table

docs/verify.md has examples, and what a pass means.
"""

from verify.api import check

__all__ = ["check"]

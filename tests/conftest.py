"""What every test shares: how many examples a law gets, and memory that is poisoned until it is written."""

import os
import signal
import sys

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("fast", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("long", max_examples=10_000, deadline=None)
hypothesis.settings.register_profile(  # the first failure will do, it need not be made small
    "mutants", hypothesis.settings.get_profile("fast"), phases=[hypothesis.Phase.generate], report_multiple_bugs=False
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# jsonschema, which nbformat imports, would build a grammar of web addresses with it: two seconds in each process.
sys.modules.setdefault("rfc3987_syntax", None)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before fast is imported

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(autouse=True, scope="session")
def poisoned_empty():
    """torch.empty and its kin return NaN, so that an output nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def interruptible():
    """SIGINT means Ctrl-C, also where a shell started the tests in its background and so had them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

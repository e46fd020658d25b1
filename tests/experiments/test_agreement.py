"""The check against the loop notices a form that is wrong."""

import pytest

from experiments import agreement


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (lambda v: v + 1e-4 * v.detach(), {"float32", "float64"}),  # values
        (lambda v: 1.01 * v - 0.01 * v.detach(), {"float32", "float64"}),  # gradients
        (lambda v: v * float("nan"), {"float32", "float64", "bfloat16", "float16"}),
    ],
)
def test_a_wrong_form_is_outside_tolerance(monkeypatch, capsys, fault, caught):
    real = agreement.fast.factorization_memory
    monkeypatch.setattr(
        agreement.fast, "factorization_memory", lambda *args, **kw: [fault(v) for v in real(*args, **kw)]
    )
    rows = agreement.check("cpu", agreement.TINY)
    assert {(row["form"], row["dtype"]) for row in rows if not row["passed"]} == {("dense", dtype) for dtype in caught}
    assert f"{len(caught)} of {len(rows)} outside tolerance" in capsys.readouterr().out
    assert len(agreement.problems({"rows": rows})) == len(caught)


@pytest.mark.skipif(agreement.fast.kernels.dense is None, reason="triton is not installed")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_gpu_the_kernels_of_both_forms_are_checked(monkeypatch, device):
    """Interpreted here, where they are as right and take longer."""
    computes = agreement._computes
    monkeypatch.setattr(agreement, "_seconds", lambda *_, **__: 1.0)  # the interpreter's times tell nothing
    monkeypatch.setattr(agreement, "_computes", lambda *case: computes(*case[:3], device))
    rows = [row for row in agreement.check("cpu", agreement.TINY | {"T": 3}) if row["backend"] == "triton"]
    kernels = {(form, dtype) for form in ("dense", "sparse") for dtype in ("float32", "bfloat16", "float16")}
    assert {(row["form"], row["dtype"]) for row in rows} == (kernels if device == "cuda" else set())
    assert all(row["passed"] for row in rows)


def test_nan_does_not_agree():
    assert agreement.agrees(1e-6, 9e-6, tolerance=1e-6)
    assert not agreement.agrees(float("nan"), 0.0, tolerance=1e-6)
    assert not agreement.agrees(0.0, float("nan"), tolerance=1e-6)


def test_every_backend_that_runs_here_is_checked(capsys):
    rows = agreement.check("cpu", agreement.TINY)
    found = {(row["form"], row["backend"]) for row in rows}
    assert found == {
        (form, backend)
        for form, (_, _, known) in agreement.FORMS.items()
        for backend, reason in agreement.fast.backends().items()
        if backend in known and reason is None and backend != "triton"
    }
    assert {row["dtype"] for row in rows} == {"float64", "float32", "bfloat16", "float16"}
    assert f"all {len(rows)} within tolerance" in capsys.readouterr().out

"""verify holds itself to account: right implementations pass, planted faults are caught, and the guess is right."""

import pytest

from verify.faults import DENSE, FAULTS, RIGHT, SPARSE, caught, passes, plant, prove


@pytest.mark.parametrize("which", RIGHT, ids=lambda which: which.function)
def test_right_implementations_pass(which):
    report = passes(which)
    if report is None:
        pytest.skip(f"{which.needs} is not installed")
    assert report.ok, str(report)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of a fault that overflows
def test_a_planted_fault_is_caught_and_its_cause_is_guessed(fault):
    report = caught(fault)
    assert report.wrong, "no case shows it"
    assert report.guess is not None and report.guess.cause == fault.cause, report.guess


def test_there_are_enough_of_them():
    assert len(DENSE) >= 20 and len(SPARSE) >= 10
    assert len({which.function for which in RIGHT if which.form == "dense"}) >= 5
    assert len({fault.name for fault in FAULTS}) >= len(FAULTS) - 1  # one stands in both forms


def test_a_fault_that_does_not_apply_is_refused():
    with pytest.raises(AssertionError, match="must stand there once"):
        plant(DENSE[0]._replace(old="nowhere"))


def test_the_tables_say_whether_all_is_well(monkeypatch):
    lines = []
    monkeypatch.setattr("verify.faults.RIGHT", RIGHT[1:2])
    monkeypatch.setattr("verify.faults.FAULTS", FAULTS[9:10])
    assert prove(lines.append)
    assert lines[1].split()[:3] == ["chunk", "55", "0"] and lines[-1].endswith(
        "no state given                      start state"
    )
    monkeypatch.setattr("verify.faults.FAULTS", [FAULTS[9]._replace(cause="another")])
    assert not prove(lines.append)
    assert lines[-1].endswith("start state, NOT another")

"""Every planted fault still applies: its line stands in its file exactly once, and the tests named for it exist."""

import re

import pytest

from tests.mutants import ROOT, all_faults


@pytest.mark.parametrize("fault", all_faults(), ids=lambda fault: fault.name)
def test_a_fault_applies_exactly_once(fault):
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, f"{fault.old!r} stands {text.count(fault.old)} times in {fault.file}"
    assert fault.new != fault.old
    for test in re.findall(r"tests/[\w/]+\.py(?:::\w+)?", fault.tests):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") if name else (ROOT / file).exists(), test


def test_names_of_faults_differ():
    names = [fault.name for fault in all_faults()]
    assert len(names) == len(set(names))

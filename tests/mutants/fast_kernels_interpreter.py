"""Faults planted in fast/kernels/interpreter.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "fast/kernels/interpreter.py", "tests/fast/test_kernels_interpreter.py",
        ("interpreter: the language is prepared for every call", "if _prepared and _language_of(function) <= _prepared:", "if False:"),
        ("interpreter: a launch prepares nothing after one that failed", "            _prepared = None\n", "            pass\n"),
        ("interpreter: functions of other modules find it as it was", "_language_of(function) <= _prepared:", "True:"),
        ("interpreter: a scan along the first axis alone", "np.moveaxis(value.handle.data, self.axis, 0)", "value.handle.data"),
        ("interpreter: a scan takes what it began with", "self.to_tensor(part[at], value.dtype)", "self.to_tensor(part[at], values[0].dtype) if at == i else self.to_tensor(part[0], value.dtype)"),
        ("interpreter: slices for functions of others", 'ours = self.combine_fn.fn.__module__.startswith(f"{__package__}.")', "ours = True"),
        ("interpreter: a type is looked up each time", "if scalar.name not in known:", "if True:"),
        ("interpreter: all types of blocks are one", "known[scalar.name] = find(scalar)", "known[scalar.name] = find(tl.float32) if of is not scalar else find(scalar)"),
        ("interpreter: numbers for our own functions", "return scan_slices(self, values) if ours else scan(self, values)", "return scan(self, values)"),
    ),
]
# fmt: on

"""Faults planted in lm/data.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "lm/data.py", "tests/lm/test_data.py",
        ("text: a linked folder goes uncounted", '"linked folders" if os.path.islink(path) else ', ""),
        ("text: a run is text", ' else "runs" if _is_run(path, out) else None', " else None"),
        ("text: the run's own folder is text", " or (out is not None and", " or (False and"),
        ("text: results are text", 'b\'"manifest_hash"\' in data', "False"),
        ("text: a shut folder goes uncounted", 'left_out.update(["unreadable"])', "None"),
        ("text: a shut file stops everything", "        except OSError:\n            data = None",
         "        except KeyError:\n            data = None"),
        ("text: a device is a folder", "if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):", "if False:"),
        ("text: gone files are not named", '            "gone": manifest.keys() - self.manifest.keys(),\n', ""),
    ),
    *planted(
        "lm/data.py", "tests/lm/test_data.py",
        ("text: no mark between documents", "np.concatenate([mark, np.frombuffer(self.data, dtype=np.uint8)])",
         "np.frombuffer(self.data, dtype=np.uint8).astype(np.int16)"),
        ("text: a batch that no seed decides", "np.random.default_rng([seed, step])", "np.random.default_rng(step)"),
        ("text: windows without the byte to predict last", "stream[start : start + length + 1] for start in starts.tolist()",
         "stream[start : start + length] for start in starts.tolist()"),
        ("text: copies are read twice", 'if kind := "copies" if data in first_with else _no_text(path, data):',
         "if kind := _no_text(path, data):"),
    ),
]
# fmt: on

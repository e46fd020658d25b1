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
]
# fmt: on

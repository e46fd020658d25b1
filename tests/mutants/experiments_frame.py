"""Faults planted in experiments/frame.py."""

from tests.mutants.fault import FRAME, planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/frame.py", FRAME,
        ("frame: a tiny run changes pages",
         "pages=not options.tiny and options.out is None", "pages=options.out is None"),
        ("frame: a run that goes elsewhere changes pages",
         "pages=not options.tiny and options.out is None", "pages=not options.tiny"),
        ("frame: a result with problems is stored", "if not problems and run.keep:", "if run.keep:"),
        ("frame: rows of another machine go on",
         "return empty if unlike else found", "return found"),
        ("frame: a study makes a run again", "for at in wanted if at not in have", "for at in wanted"),
        ("frame: a study keeps the order in which runs end", 'result["rows"].sort(key=place)', "pass"),
        ("frame: a study names its first machine alone", 'result["about"]["on"] += f"; {here}"', "pass"),
        ("frame: a study begins anew on another machine", '"rows": []}, anywhere=True)', '"rows": []})'),
        ("frame: a study takes the place of another", "if unlike and anywhere:", "if False:"),
        ("frame: a study needs the same Triton", 'MACHINE = ("on", "triton")', 'MACHINE = ("on",)'),
        ("frame: any name will do", "if name not in names:", "if False:"),
        ("frame: rows are never gone on from", 'as_stored(empty["about"])', 'empty["about"]'),
        ("frame: what only one of two runs says is passed over", 'for key in {**found["about"], **wanted}', 'for key in wanted'),
        ("frame: a half written file", "    os.replace(part, path)\n\n\ndef fingerprint", "\n\ndef fingerprint"),
        ("frame: a figure may be of other numbers", "_mark_of(path) != fingerprint(result)", "_mark_of(path) is None"),
        ("frame: a table may be of other numbers", ".strip() != table(result)", '.strip() == ""'),
        ("frame: how a file is set out counts", "json.dumps(result, sort_keys=True)", "json.dumps(result)"),
        ("frame: any page will do", "if len(found) != 1:", "if not found:"),
        ("frame: a table that does not end",
         'if not closing or "<!--" in table or opening in after:', "if not closing:"),
        ("frame: skew the other way", "noise - skew *", "noise + skew *"),
        ("frame: one rate for the whole batch",
         "torch.randn(2, batch, tokens, 1, **on)", "torch.randn(2, 1, 1, 1, **on)"),
        ("frame: the state in half precision", "self.state.detach().to(wide,", "self.state.detach().to(dtype,"),
        ("frame: forms do not take turns",
         "        for name, function in calls.items():\n            times[name] += seconds(partial(repeat, function))",
         "        pass\n    for name, function in calls.items():\n"
         "        times[name] += seconds(partial(repeat, function), rounds)"),
        ("frame: needs a library at once", "import torch\nfrom torch", "import PIL  # noqa\nimport torch\nfrom torch"),
    ),
]
# fmt: on

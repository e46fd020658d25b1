"""The frame that all experiments share, with a toy: its results, pages and figures, and that nothing goes elsewhere."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from types import SimpleNamespace

import pytest
import torch

import experiments
from experiments import frame
from experiments.__main__ import main
from experiments.frame import Experiment, Unavailable, UsageError
from tests.support.processes import in_this_process

PAGE = "# Toys\n\nBefore.\n\n<!-- result: toy/half -->\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An experiment of one module and one row in the table, a page that shows it, and what it is to measure."""
    pytest.importorskip("matplotlib")
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("<!-- result: nothing -->\n<!-- end -->\n", encoding="utf-8")
    (docs / "toys.md").write_text(PAGE, encoding="utf-8")
    made = SimpleNamespace(height=3, problems=[], runs=0, page=docs / "toys.md", results=docs / "results")

    def measure(run):
        made.runs += 1
        return {"about": frame.about(tiny=run.tiny), "rows": [{"height": (made.height, 0)}]}

    def draw(result, path):
        from matplotlib.figure import Figure

        figure = Figure((1, 1))
        figure.subplots().plot(result["rows"][0]["height"])
        figure.savefig(path)

    made.EXPERIMENT = Experiment(
        "toy", measure, {"half": lambda result: f"| {result['rows'][0]['height'][0] / 2} |"}, {"toy.png": draw},
        problems=lambda result: made.problems, folder=made.results,
    )  # fmt: skip
    monkeypatch.setattr(frame, "ROOT", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", "a toy")
    monkeypatch.setitem(sys.modules, "experiments.toy", made)
    return made


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_measure_table_draw(toy, capsys):
    assert main(["toy"]) == 0
    said = capsys.readouterr().out
    assert "| 1.5 |" in said and "toy.json" in said and "toy/half in toys.md" in said
    assert toy.page.read_text(encoding="utf-8") == PAGE.replace("-->\n<!-- end", "-->\n\n| 1.5 |\n\n<!-- end")
    result = json.loads((toy.results / "toy.json").read_text(encoding="utf-8"))
    assert result["rows"] == [{"height": [3, 0]}]
    assert {"Python", "torch", "on", "threads", "seed"} <= result["about"].keys()
    assert sorted(path.name for path in toy.results.iterdir()) == ["toy.json", "toy.png"]
    assert not frame.stale(toy.EXPERIMENT)
    before = files(toy.page.parent)
    assert main(["toy"]) == 0
    assert files(toy.page.parent) == before  # the same again


def test_what_is_stale_is_found_and_drawn_again_without_measuring(toy):
    assert main(["toy"]) == 0
    path = toy.results / "toy.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[3, 0]", "[9, 0]"), encoding="utf-8")
    assert frame.stale(toy.EXPERIMENT) == ["toy/half in toys.md", "toy.png"]
    assert main(["toy", "--draw"]) == 0
    assert not frame.stale(toy.EXPERIMENT) and "| 4.5 |" in toy.page.read_text(encoding="utf-8") and toy.runs == 1
    toy.page.write_text(toy.page.read_text(encoding="utf-8").replace("| 4.5 |", "| 4.6 |"), encoding="utf-8")
    assert frame.stale(toy.EXPERIMENT) == ["toy/half in toys.md"]
    same = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(same, indent=3, sort_keys=True), encoding="utf-8")
    assert frame.stale(toy.EXPERIMENT) == ["toy/half in toys.md"]
    (toy.results / "toy.png").unlink()
    assert frame.stale(toy.EXPERIMENT) == ["toy/half in toys.md", "toy.png"]


@pytest.mark.parametrize("options", [["--tiny"], ["--out", "{}"], ["--tiny", "--out", "{}"]])
def test_nothing_is_shown_of_a_tiny_run_or_one_that_goes_elsewhere(toy, tmp_path_factory, options, capsys):
    elsewhere, before = tmp_path_factory.mktemp("elsewhere"), files(toy.page.parent)
    assert main(["toy", *(option.format(elsewhere) for option in options)]) == 0
    assert files(toy.page.parent) == before
    assert sorted(path.name for path in elsewhere.iterdir()) == (["toy.json", "toy.png"] if "--out" in options else [])
    assert ("nothing is kept" in capsys.readouterr().out) == (options == ["--tiny"])


def test_a_result_with_problems_fails_and_is_not_stored(toy, capsys):
    toy.problems = ["too high"]
    before = files(toy.page.parent)
    assert main(["toy"]) == 1 and "too high" in capsys.readouterr().out
    assert files(toy.page.parent) == before


def test_without_its_page_the_result_is_stored_and_the_error_says_what_is_missing(toy, capsys):
    toy.page.write_text("# Toys\n", encoding="utf-8")
    assert main(["toy"]) == 2
    assert (toy.results / "toy.json").exists()
    wanted = "one page must hold <!-- result: toy/half --> and, after it, <!-- end -->: "
    assert wanted + "none does" in capsys.readouterr().err
    for name in ("a.md", "b.md"):
        toy.page.with_name(name).write_text(PAGE, encoding="utf-8")
    assert main(["toy", "--draw"]) == 2
    assert wanted + "a.md, b.md" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["<!-- result: toy/half -->\n", "<!-- result: toy/half -->\n<!-- result: other -->\n<!-- end -->\n", 2 * PAGE],
)
def test_markers_that_do_not_fit_are_refused(toy, text):
    toy.page.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="must hold <!-- result: toy/half --> once and, after it, <!-- end -->"):
        frame.show(toy.EXPERIMENT, {"rows": [{"height": [1]}]}, toy.results, pages=True)
    assert toy.page.read_text(encoding="utf-8") == text


def test_a_long_run_goes_on_only_from_rows_about_the_same(toy, capsys):
    run = frame.Run(toy.EXPERIMENT, toy.results, tiny=False, options=None)
    empty = {"about": {"sizes": (1, 2)}, "rows": []}
    assert run.resume(empty) is empty
    run.save(empty | {"rows": [{"K": 1}]})
    assert run.resume(empty)["rows"] == [{"K": 1}]
    assert not capsys.readouterr().out
    other = {"about": {"sizes": (1, 3), "threads": 1}, "rows": []}
    assert run.resume(other) is other
    assert capsys.readouterr().out == (
        "toy.json is of another run, so this one begins anew: sizes is [1, 3], was [1, 2], threads is 1, was None\n"
    )
    assert run.resume({"about": {}, "rows": []})["rows"] == []
    assert "anew: sizes is None, was [1, 2]" in capsys.readouterr().out


def test_a_study_goes_on_from_its_rows_on_another_machine(toy, capsys, monkeypatch):
    run, made = frame.Run(toy.EXPERIMENT, toy.results, tiny=False, options=None), in_this_process(monkeypatch)

    def ask(on, *wanted, steps=2):
        monkeypatch.setattr(frame, "environment", lambda: {"on": on})
        key = lambda row: (row["name"], row["seed"])  # noqa: E731
        known = {"on": on, "triton": "none" if on == "another" else "3", "steps": steps}
        return frame.study(run, known, wanted, lambda name, seed: {"name": name, "seed": seed}, key, key, str, 1)

    ask("one", ("b", 0), ("b", 1))
    result = ask("another", ("b", 0), ("a", 1), ("b", 1))
    assert made == [("b", 0), ("b", 1), ("a", 1)]
    assert [(row["name"], row["seed"]) for row in result["rows"]] == [("a", 1), ("b", 0), ("b", 1)]
    assert result["about"]["on"] == "one; another"
    assert "anew" not in capsys.readouterr().out
    assert ask("a third", ("a", 1))["about"]["on"] == "one; another"  # which measured nothing
    before = files(toy.results)
    with pytest.raises(UsageError, match=r"is of another run, --out must name another folder: steps is 3, was 2"):
        ask("one", ("c", 0), steps=3)
    assert files(toy.results) == before and len(made) == 3


def test_a_row_says_where_it_was_made_unless_on_a_cpu(monkeypatch):
    monkeypatch.setattr(
        frame, "environment", lambda: {"on": "a card", "torch": "9.1", "triton": "8.2", "Python": "3.13"}
    )
    assert frame.made_on("cpu") == {} and frame.made_on("cuda") == {"made on": "a card, torch 9.1, triton 8.2"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--only", "a", "lstm"], "--only must name some of a, b, got 'lstm'"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--processes", "-1"], "--processes must be at least 1, got -1"),
        (["--device", "gpu"], "--device must be cpu, or cuda where there is a GPU, got 'gpu'"),
        (["--device", "cuda"], "--device must be cpu, or cuda where there is a GPU, got 'cuda'"),
    ],
)
def test_what_a_study_is_asked_for(toy, monkeypatch, arguments, problem):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def asked(*given, tiny=False):
        parser = ArgumentParser()
        frame.study_options(parser, "thing", device=True)
        run = frame.Run(toy.EXPERIMENT, toy.results, tiny, parser.parse_args([*given]))
        return frame.asked_for(run, ("a", "b"), ("b",))

    assert asked() == (["a", "b"], range(3)) and asked("--only", "b", "--seeds", "2") == (["b"], range(2))
    assert asked(tiny=True) == (["b"], range(1))
    with pytest.raises(UsageError, match=f"^{problem}$"):
        asked(*arguments)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    frame.write(path, "whole")

    def full(self, *_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="no space left"):
        frame.write(path, "half")
    assert path.read_text(encoding="utf-8") == "whole"


def test_the_command_lists_and_refuses(toy, capsys, monkeypatch):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"    {name}" in said and what in said for name, what in experiments.EXPERIMENTS.items())
    assert main(["toyy"]) == 2 and "no experiment 'toyy'; there are agreement" in capsys.readouterr().err
    assert main(["toy", "--draw"]) == 2 and "nothing is stored yet" in capsys.readouterr().err

    def no_gpu(run):
        raise Unavailable("no GPU was found")

    monkeypatch.setattr(toy, "EXPERIMENT", Experiment("toy", no_gpu, folder=toy.results))
    assert main(["toy"]) == 0 and "no GPU was found: nothing measured" in capsys.readouterr().out
    assert not toy.results.exists()


@pytest.mark.parametrize("top_k", [None, 3])
def test_inputs_are_a_routers(top_k):
    inputs = frame.router_inputs(2, 7, 5, 4, top_k, rates=None, state=True, requires_grad=True)
    assert inputs.theta.shape == inputs.phi.shape == (2, 7, top_k or 5)
    assert inputs.value.shape == (2, 7, 4) and inputs.state.shape == (2, 5, 4)
    ratio = inputs.phi / inputs.theta  # one update and one merge rate a token
    assert ratio.allclose(ratio[..., :1].expand_as(ratio)) and (inputs.theta.sum(-1) < 1).all()
    assert len(inputs.theta.sum(-1).flatten().unique()) == 14  # another for each token
    again = frame.router_inputs(2, 7, 5, 4, top_k, rates=None, state=True, requires_grad=True)
    tensors = [v for v in inputs.arguments() if torch.is_tensor(v)]
    assert all(
        torch.equal(a, b) for a, b in zip(tensors, (v for v in again.arguments() if torch.is_tensor(v)), strict=True)
    )
    half = inputs.cast(torch.bfloat16)
    assert half.theta.dtype == half.value.dtype == torch.bfloat16 and half.state.dtype == torch.float32
    assert not any(v.requires_grad for v in half.leaves())
    if top_k:
        assert all(len(set(row)) == 3 for row in inputs.slots.flatten(0, 1).tolist())
        assert [v.shape for v in inputs.at(6).arguments()[:3]] == [(2, 3)] * 3


def test_skew_makes_few_slots_do_the_work():
    shares = []
    for skew in (0.0, 1.0, 2.0):
        slots = frame.router_inputs(1, 2000, 16, 1, 1, skew=skew).slots
        shares.append(slots.flatten().bincount(minlength=16).max().item() / 2000)
    law = [1 / sum(n**-skew for n in range(1, 17)) for skew in (0.0, 1.0, 2.0)]
    assert shares == pytest.approx(law, abs=0.03)


def test_medians_take_turns():
    order = []
    found = frame.medians({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)
    assert "".join(order) == "aabbaabb" and found.keys() == {"a", "b"}  # each once to warm up, once timed
    assert all(seconds >= 0 for seconds in found.values())


def test_jobs_end_each_by_itself_and_no_more_begin_than_are_asked_for():
    found = {future.result() for future in frame.in_processes(os.getpid, [()] * 5, 2)}
    assert os.getpid() not in found and 1 <= len(found) <= 2
    threads = frame.in_processes(torch.get_num_threads, [()], 1)
    assert [future.result() for future in threads] == [1]
    (wrong,) = frame.in_processes(int, [("x",)], 1)
    with pytest.raises(ValueError, match="invalid literal"):
        wrong.result()


def test_jobs_are_begun_as_others_end(monkeypatch):
    begun = in_this_process(monkeypatch)
    ended = frame.in_processes(lambda n: n, ((n,) for n in range(9)), 2)
    assert next(ended).result() in (0, 1) and len(begun) == 2
    ended.close()
    assert len(begun) == 2
    assert sorted(future.result() for future in frame.in_processes(abs, [(-1,), (2,)], 1)) == [1, 2]


def test_frame_and_agreement_need_torch_alone():
    """A machine with a GPU may have torch, triton and numpy and nothing else."""
    code = """
import sys

sys.modules |= dict.fromkeys(["matplotlib", "PIL", "safetensors", "tqdm", "nbformat", "nbclient", "pytest"])
from experiments.__main__ import main
sys.exit(main(["agreement", "--tiny"]))
"""
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, encoding="utf-8", cwd=frame.ROOT
    )
    assert run.returncode == 0 and "within tolerance" in run.stdout, run.stderr


def test_all_that_is_stored_is_drawn(monkeypatch, tmp_path):
    seen = []
    (tmp_path / "slots.json").touch()
    (tmp_path / "agreement.json").touch()  # which has neither tables nor figures
    monkeypatch.setattr(frame, "RESULTS", tmp_path)
    monkeypatch.setattr(frame, "main", lambda experiment, arguments: seen.append((experiment.name, *arguments)) or 0)
    assert main(["--draw"]) == 0
    assert seen == [("claims", "--draw"), ("slots", "--draw")]


def lists_of(held: int, taken: int):
    """A call that takes so many bytes, made by one that holds others."""
    kept = bytearray(os.urandom(1)) * held
    return lambda: (len(kept), bytearray(b"1") * taken)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_extra_memory_is_what_a_call_takes_beyond_what_is_held():
    mebibyte = 1 << 20
    assert 60 * mebibyte < frame.extra_memory(lists_of, 200 * mebibyte, 64 * mebibyte) < 80 * mebibyte

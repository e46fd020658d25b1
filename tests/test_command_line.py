"""The command line: what it makes, what its help says, and that every error is one line and a code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm import checkpoint, command_line, demo, train
from lm.checkpoint import checkpoints, latest, read_record
from lm.model import Config

SMALL = ["--width", "16", "--layers", "1", "--steps", "3", "--batch", "2", "--length", "16", "--warmup", "1", "--quiet"]
SLOTS = ["--slots", "4", "--top-k", "2"]
HEADS = ["--head-width", "8"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 60)
    return str(path)


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for mixer, options in (("fm-sparse", SLOTS), ("transformer", HEADS)):
        out = str(folder / mixer)
        assert command_line.main(["train", "--mixer", mixer, *SMALL, *options, "--text", text, "--out", out]) == 0
    return folder


def fails(capsys, *arguments) -> tuple[int, str]:
    """The exit code and what was said, which must be one line after the usage that argparse prints."""
    capsys.readouterr()
    try:
        code = command_line.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith(("usage:", " "))]
    assert len(lines) == 1 and lines[0].startswith("python -m lm"), said
    return code, lines[0]


def test_train_says_where_it_saved(runs, text, tmp_path, capsys):
    out = tmp_path / "fm"
    assert (
        command_line.main(
            [
                "train",
                "--mixer",
                "fm",
                *SMALL,
                "--slots",
                "4",
                "--no-gate",
                "--tau",
                "0.25",
                "--text",
                text,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert "parameters" in said.out and said.out.endswith(f"saved {out}/step-00000003\n") and not said.err
    config = read_record(latest(out))["config"]
    assert (config["gate"], config["temperature"], config["num_slots"], config["mixer"]) == (False, 0.25, 4, "fm")


def test_resume_needs_no_options(runs, text, tmp_path, monkeypatch, capsys):
    out, update = tmp_path / "run", train.update

    def once(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return update(*args)

    with monkeypatch.context() as patched:
        patched.setattr(train, "update", once)
        code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", out)
    assert code == 130 and "stopped at step 1" in said
    assert command_line.main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    same = (latest(folder) / "model.safetensors" for folder in (out, runs / "fm-sparse"))
    assert len({path.read_bytes() for path in same}) == 1


def test_evaluate_writes_a_table_a_figure_and_the_numbers(runs, tmp_path, capsys):
    both = [str(runs / mixer) for mixer in ("fm-sparse", "transformer")]
    assert command_line.main(["evaluate", *both, "--context", "64", "--reset", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "training length 16" in said and "state emptied every 16 bytes" in said and "xz -9" in said
    assert (tmp_path / "length.png").stat().st_size > 10_000
    result = json.loads((tmp_path / "length.json").read_text())
    assert set(result["carried"]) == set(result["reset"]) == {"fm-sparse", "transformer"}
    assert result["carried"]["fm-sparse"]["last"][-1] == 64 and result["split"] == "test"
    assert result["corpus"]["manifest_hash"] == result["runs"]["fm-sparse"]["corpus"]["manifest_hash"]


def test_two_runs_of_one_mixer_keep_their_names(runs, tmp_path, capsys):
    same = [str(runs / "fm-sparse"), str(latest(runs / "fm-sparse"))]
    assert command_line.main(["evaluate", *same, "--context", "8", "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / "length.json").read_text())["carried"]) == set(same)


def test_generate_prints_text_and_what_it_cost(runs, capsys):
    command = ["generate", str(runs / "fm-sparse"), "--prompt", "the ", "--length", "30", "--seed", "4"]
    first, second = ((command_line.main(command), capsys.readouterr()) for _ in range(2))
    assert first[0] == 0 and first[1].out == second[1].out and first[1].out.startswith("the ")
    assert "tokens/s, state" in first[1].err and "bytes throughout" in first[1].err


def test_help_names_every_option(capsys):
    options = {
        "demo": ["--seconds", "--out", "--seed", "--text"],
        "train": [
            f"--{name}" for name in (*command_line.MODEL_OPTIONS, *command_line.SETTINGS_OPTIONS, "resume", "overwrite")
        ],
        "evaluate": ["RUN", "--context", "--split", "--reset", "--per-file", "--out", "--text", "--device"],
        "generate": ["RUN", "--prompt", "--length", "--temperature", "--top-p", "--seed", "--device"],
    }
    for command, names in options.items():
        with pytest.raises(SystemExit) as stop:
            command_line.main([command, "--help"])
        said = capsys.readouterr().out
        assert stop.value.code == 0 and not [name for name in names if name not in said]
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    said = capsys.readouterr().out
    assert not [command for command in options if command not in said]


def test_every_field_of_the_config_has_an_option():
    with_options = {field for field, *_ in command_line.MODEL_OPTIONS.values()} | {"gate"}
    assert set(command_line._fields(Config)) - with_options == {"eps"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--text", "/nowhere"], "/nowhere: no such file or folder"),
        (["train", "--resume"], "--resume needs --out"),
        (["train", "--resume", "--out", "/nowhere"], "/nowhere: no checkpoint there"),
        (["train", "--resume", "--out", "x", "--lr", "1", "--top-k", "2"], "leave out --top-k, --lr"),
        (["train", "--resume", "--overwrite"], "not allowed with"),
        (["train", "--mixer", "lstm"], "argument --mixer: invalid choice"),
        (["train", "--mixer", "transformer", "--slots", "4"], "--slots is for --mixer fm or fm-sparse"),
        (["train", "--mixer", "fm", "--top-k", "4"], "--top-k is for --mixer fm-sparse, not for fm"),
        (["train", "--mixer", "mamba2", "--no-gate"], "--no-gate is for"),
        (["train", "--slots", "4", "--top-k", "5"], "lie in [1, num_slots = 4], got 5"),
        (["train", "--tau", "0"], "temperature must be positive"),
        (["train", "--mixer", "fm", "--backend", "grouped"], "backend must be one of 'auto', 'chunked', 'triton', got"),
        (["train", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "--steps", "0"], "steps must be at least 1, got 0"),
        (["train", "--lr", "nan"], "lr must be greater than 0, got nan"),
        (["train", "--device", "abacus"], "--device abacus: "),
        (["evaluate", "/nowhere"], "/nowhere: no checkpoint there"),
        (["evaluate", "x", "--context", "0"], "argument --context: must be at least 1, got 0"),
        (["generate", "/nowhere"], "/nowhere: no checkpoint there"),
        (["demo", "--seconds", "0"], "seconds must be greater than 0"),
        (["demo", "--text", "/nowhere"], "/nowhere: no such file or folder"),
        (["dance"], "invalid choice"),
        ([], "the following arguments are required"),
    ],
)
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    def went_on(*_, **__):
        raise AssertionError("the command went on")

    monkeypatch.setattr(command_line, "train", went_on)
    monkeypatch.chdir(tmp_path)
    code, said = fails(capsys, *arguments)
    assert code == 2 and message in said
    assert not list(tmp_path.iterdir())


def test_a_backend_that_cannot_run_says_why(capsys, monkeypatch):
    monkeypatch.setattr(command_line.fast, "backends", lambda: {"chunked": "no torch on this abacus"})
    code, said = fails(capsys, "train", "--backend", "chunked")
    assert code == 2 and "--backend chunked cannot run here: no torch on this abacus" in said


def test_errors_about_a_run_are_one_line(runs, text, tmp_path, capsys):
    run = runs / "fm-sparse"
    code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", run)
    assert code == 2 and "holds a run already" in said
    code, said = fails(capsys, "evaluate", run, "--context", "9999")
    assert code == 2 and "too few for a context of 9,999" in said
    code, said = fails(capsys, "generate", run, "--top-p", "2")
    assert code == 2 and "top_p must lie in (0, 1], got 2.0" in said
    (tmp_path / "file").write_text("x")
    code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", tmp_path / "file" / "run")
    assert code == 2 and "Not a directory" in said


def test_a_text_that_has_changed_is_noticed(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"as it was " * 200)
    assert command_line.main(["train", *SMALL, *SLOTS, "--text", str(path), "--out", str(tmp_path / "run")]) == 0
    path.write_bytes(b"as it is!! " * 200)
    for command in (["evaluate", tmp_path / "run"], ["train", "--resume", "--out", tmp_path / "run"]):
        code, said = fails(capsys, *command)
        assert code == 2 and "its text was a.txt" in said
    assert command_line.main(["evaluate", str(tmp_path / "run"), "--context", "8", "--text", str(path)]) == 0


def test_divergence_is_one_line_and_code_1(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "update", lambda *_: None)
    code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", tmp_path)
    assert code == 1 and "not finite at step 0: there is no checkpoint yet" in said


def test_a_fault_of_ours_keeps_its_traceback(text, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(train, "update", broken)
    with pytest.raises(ValueError, match="a bug"):
        command_line.main(["train", *SMALL, *SLOTS, "--text", text, "--out", str(tmp_path)])


def python_m_lm(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "lm", *map(str, arguments)]
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_ctrl_c_saves_and_exits_with_130(text, tmp_path):
    options = [*SMALL, *SLOTS, "--text", text, "--out", tmp_path, "--evaluate-every", "2", "--steps", "1000000"]
    with python_m_lm("train", *options) as process:
        deadline = time.monotonic() + 120
        while not checkpoints(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    step = read_record(latest(tmp_path))["step"]
    assert said.startswith(f"python -m lm train: stopped at step {step}, saved ") and said.count("\n") == 1
    assert out.count("\n") == 1 and step >= 2


def test_a_reader_that_leaves_early_is_no_error(runs):
    with python_m_lm("generate", runs / "fm-sparse", "--length", 20) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


def test_demo_runs_twice_and_says_what_it_measured(text, tmp_path, monkeypatch, capsys):
    """A small one: the models, the shape of the check and the lengths are cut, nothing else."""
    monkeypatch.setattr(checkpoint, "PUBLISHED", tmp_path / "models")
    long = tmp_path / "long.txt"
    long.write_bytes(Path(text).read_bytes() * 3)
    for mixer, options in (("fm", SLOTS[:2]), ("fm-sparse", SLOTS), ("mamba2", HEADS), ("transformer", HEADS)):
        run, where = str(tmp_path / mixer), ["--text", str(long), "--folder", str(tmp_path / "models")]
        assert command_line.main(["train", "--mixer", mixer, *SMALL, *options, "--text", text, "--out", run]) == 0
        assert command_line.main(["publish", run, "--context", "32", *where]) == 0
    sizes = {"d_model": 16, "num_layers": 2, "num_slots": 4, "top_k": 2}
    monkeypatch.setattr(demo, "Config", lambda mixer: Config(mixer=mixer, **sizes))
    monkeypatch.setattr(demo, "SHAPE", {"B": 1, "T": 20, "M": 6, "K": 2, "D": 8})
    monkeypatch.setattr(demo, "TIMES_LONGER", 1)
    out = tmp_path / "out"
    train_again = ["train", *SMALL, *SLOTS, "--text", text, "--out", str(out / "fm-sparse")]  # where it goes by default
    assert command_line.main(train_again) == 0
    mine = read_record(latest(out / "fm-sparse"))
    capsys.readouterr()
    for _ in range(2):
        assert command_line.main(["demo", "--seconds", "0.1", "--text", str(long), "--out", str(out)]) == 0
    said = capsys.readouterr()
    for part in ("Python 3.", "bfloat16", "within tolerance", "Bits per byte by position", "goes on from", "held out"):
        assert part in said.out
    assert all(f"{name} by position" in said.err for name in demo.plots.NAMES.values())  # progress bars
    result = json.loads((out / "demo.json").read_text())
    assert read_record(latest(out / "demo"))["history"] == result["history"]
    assert read_record(latest(out / "fm-sparse")) == mine
    assert result["lengths"]["carried"].keys() == demo.plots.NAMES.keys()
    assert {row["form"] for row in result["checks"]} == {"dense", "sparse"}
    assert all((out / name).stat().st_size > 10_000 for name in ("slots.png", "slot_use.png", "length.png"))


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (lambda v: v + 1e-4 * v.detach(), {"float32", "float64"}),  # values
        (lambda v: 1.01 * v - 0.01 * v.detach(), {"float32", "float64"}),  # gradients
        (lambda v: v * float("nan"), {"float32", "float64", "bfloat16", "float16"}),
    ],
)
def test_the_demo_fails_when_a_backend_is_wrong(monkeypatch, capsys, fault, caught):
    real = demo.fast.factorization_memory
    monkeypatch.setattr(demo, "SHAPE", {"B": 1, "T": 20, "M": 6, "K": 2, "D": 8})
    monkeypatch.setattr(demo.fast, "factorization_memory", lambda *args, **kw: [fault(v) for v in real(*args, **kw)])
    rows = demo.check_backends()
    assert {(row["form"], row["dtype"]) for row in rows if not row["passed"]} == {("dense", dtype) for dtype in caught}
    assert f"{len(caught)} of {len(rows)} outside tolerance" in capsys.readouterr().out


@pytest.mark.skipif(demo.fast.triton_dense is None, reason="triton is not installed")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_gpu_the_demo_checks_the_kernels_of_both_forms(monkeypatch, device):
    """Interpreted here, where they are as right and take longer."""
    computes = demo._computes
    monkeypatch.setattr(demo, "SHAPE", {"B": 1, "T": 3, "M": 6, "K": 2, "D": 8})
    monkeypatch.setattr(demo, "_computes", lambda *case: computes(*case[:3], device))
    rows = [row for row in demo.check_backends() if row["backend"] == "triton"]
    kernels = {(form, dtype) for form in ("dense", "sparse") for dtype in ("float32", "bfloat16", "float16")}
    assert {(row["form"], row["dtype"]) for row in rows} == (kernels if device == "cuda" else set())
    assert all(row["passed"] for row in rows)


def test_the_verdict_is_the_measured_one():
    def said(mean, low, high):
        return demo.verdict(demo.Buckets([1], [1], [mean], [low], [high], 3, 3), ("fm-sparse", "transformer"), 1)

    assert said(-0.2, -0.3, -0.1) == "at 1: FM (sparse) is ahead of Transformer by 0.100 to 0.300"
    assert said(0.2, 0.1, 0.3) == "at 1: Transformer is ahead of FM (sparse) by 0.100 to 0.300"
    assert said(0.1, -0.1, 0.3) == "at 1: no clear difference of FM (sparse) and Transformer (-0.100 to +0.300)"

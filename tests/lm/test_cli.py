"""The command line: what it makes, what its help says, and that every error is one line and a code."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layers import MIXERS
from lm import checkpoint, cli, evaluate, train
from lm.checkpoint import checkpoints, latest, read_run
from lm.flags import flags_of, flags_of_models
from lm.model import Config
from lm.run import Settings

SMALL = ["--width", "16", "--layers", "1", "--steps", "3", "--batch", "2", "--length", "16", "--warmup", "1", "--quiet"]
SLOTS = ["--slots", "4", "--top-k", "2"]
HEADS = ["--head-width", "8"]
pytestmark = pytest.mark.usefixtures("interruptible")


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
        assert cli.main(["train", "--mixer", mixer, *SMALL, *options, "--text", text, "--out", out]) == 0
    return folder


def fails(capsys, *arguments) -> tuple[int, str]:
    """The exit code and what was said, which must be one line after the usage that argparse prints."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
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
        cli.main(
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
    config = read_run(latest(out)).config
    options = config.options
    assert (options.gate, options.temperature, options.num_slots, config.mixer) == (False, 0.25, 4, "fm")


def test_resume_needs_no_options(runs, text, tmp_path, monkeypatch, capsys):
    out, update = tmp_path / "run", train.update

    def once(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return update(*args)

    with monkeypatch.context() as patched:
        patched.setattr(train, "update", once)
        code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", out)
    assert code == 130 and "stopped at step 1" in said
    assert cli.main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    same = (latest(folder) / "model.safetensors" for folder in (out, runs / "fm-sparse"))
    assert len({path.read_bytes() for path in same}) == 1


def test_evaluate_writes_a_table_a_figure_and_the_numbers(runs, tmp_path, capsys):
    both = [str(runs / mixer) for mixer in ("fm-sparse", "transformer")]
    assert cli.main(["evaluate", *both, "--context", "64", "--reset", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "training length 16" in said and "state reset every 16 bytes" in said and "xz -9" in said
    assert (tmp_path / "length.png").stat().st_size > 10_000
    result = json.loads((tmp_path / "length.json").read_text(encoding="utf-8"))
    assert set(result["stateful"]) == set(result["reset"]) == {"fm-sparse", "transformer"}
    reset, stateful, gain = (result[part]["fm-sparse"]["mean"][-1] for part in ("reset", "stateful", "gain"))
    assert reset - stateful == pytest.approx(gain) and f"gain over reset, last row: fm-sparse {gain:.3f} (" in said
    assert result["stateful"]["fm-sparse"]["last"][-1] == 64 and result["split"] == "test"
    assert result["corpus"]["manifest_hash"] == result["runs"]["fm-sparse"]["corpus"]["manifest_hash"]


def test_two_runs_of_one_mixer_keep_their_names(runs, tmp_path, capsys):
    same = [str(runs / "fm-sparse"), str(latest(runs / "fm-sparse"))]
    assert cli.main(["evaluate", *same, "--context", "8", "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / "length.json").read_text(encoding="utf-8"))["stateful"]) == set(same)


def test_generate_prints_text_and_what_it_cost(runs, capsys):
    command = ["generate", str(runs / "fm-sparse"), "--prompt", "the ", "--length", "30", "--seed", "4"]
    first, second = ((cli.main(command), capsys.readouterr()) for _ in range(2))
    assert first[0] == 0 and first[1].out == second[1].out and first[1].out.startswith("the ")
    assert "tokens/s, state" in first[1].err and "bytes throughout" in first[1].err


def test_help_names_every_option(capsys):
    options = {
        "train": [
            "--resume",
            "--overwrite",
            *(f"--{flag.name}" for flag in (*flags_of_models(), *flags_of(Settings()))),
        ],
        "evaluate": ["RUN", "--context", "--split", "--reset", "--per-file", "--out", "--text", "--device"],
        "generate": ["RUN", "--prompt", "--length", "--temperature", "--top-p", "--seed", "--device"],
    }
    for command, names in options.items():
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        said = capsys.readouterr().out
        assert stop.value.code == 0 and not [name for name in names if name not in said]
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert not [command for command in options if command not in said]


def test_every_field_has_an_option():
    kinds = [Config, *(row.config for row in MIXERS.values())]
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names - {flag.field for flag in flags_of_models()} == {"eps", "options", "slot_width", "num_groups"}
    assert [flag.field for flag in flags_of(Settings())] == [field.name for field in dataclasses.fields(Settings)]
    flags = [flag.name for flag in (*flags_of_models(), *flags_of(Settings()))]
    assert len(flags) == len(set(flags))


def test_the_help_says_whose_an_option_is_and_each_default():
    said = {flag.name: flag.help for flag in flags_of_models()}
    assert said["layers"] == "number of blocks (default: 4)"
    assert said["slots"].startswith("fm, fm-sparse: memory slots a layer (default: 32); ")
    assert said["slots"].endswith("gsa, hgrn2: slots of a head (default: 32); mom: slots of a head (default: 6)")
    assert said["top-k"].startswith("fm-sparse: slots a token uses (default: a quarter of the slots); mom: ")
    assert said["no-gate"] == "fm, fm-sparse, gsa, hgrn2, mom: without the output gate"
    assert said["expansion"].endswith("hgrn2, mamba2, mom: inner width over the model's (default: 2)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--text", "/nowhere"], "/nowhere: no such file or folder"),
        (["train", "--resume"], "--resume needs --out"),
        (["train", "--resume", "--out", "/nowhere"], "/nowhere: no checkpoint there"),
        (["train", "--resume", "--out", "x", "--lr", "1", "--top-k", "2"], "leave out --top-k, --lr"),
        (["train", "--resume", "--overwrite"], "not allowed with"),
        (["train", "--mixer", "lstm"], "argument --mixer: invalid choice"),
        (["train", "--mixer", "transformer", "--slots", "4"], "--slots is for --mixer fm or fm-sparse or"),
        (["train", "--mixer", "fm", "--top-k", "4"], "--top-k is for --mixer fm-sparse or mom, not for fm"),
        (["train", "--mixer", "mamba2", "--no-gate"], "--no-gate is for"),
        (["train", "--slots", "4", "--top-k", "5"], "--top-k must be None or lie in [1, --slots = 4], got 5"),
        (["train", "--tau", "0"], "--tau must be positive and finite, got 0.0"),
        (["train", "--mixer", "fm", "--backend", "scan"], "backend must be one of 'auto', 'chunked', 'triton', got"),
        (["train", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "--steps", "0"], "steps must be at least 1, got 0"),
        (["train", "--lr", "nan"], "lr must be greater than 0, got nan"),
        (["train", "--device", "abacus"], "--device abacus cannot be used here: "),
        (["train", "--device", "meta"], "--device meta cannot be used here: "),
        (["train", "--mixer", "mamba2", "--balance", "0"], "--balance is for --mixer fm or fm-sparse or mom, not"),
        (["train", "--mixer", "transformer", "--head-width", "3"], "--head-width must divide --width = 128, got 3"),
        (["train", "--width", "1" + 23 * "0"], "--width must be below 2**31, got 1000"),
        (["train", "--width", "1000000000"], "no model can be so large: "),
        (["train", "--seed", str(2**63)], "seed must be below 2**63, got 9223372036854775808"),
        (["train", "--lr", "1e300"], "lr must be below 1e30, got 1e+300"),
        (["generate", "--seed", str(2**63)], "seed must lie in [0, 2**63), got 9223372036854775808"),
        (["generate", "--seed", "-1"], "seed must lie in [0, 2**63), got -1"),
        (["generate", "--temperature", "-1"], "temperature must not be negative, got -1.0"),
        (["generate", "--device", "meta"], "--device meta cannot be used here: "),
        (["generate", "nothing"], "makes one); bundled models: fm, "),
        (["evaluate", "fm", "mamba2", "fm"], "fm is named twice"),
        (["publish", "fm", "a/b"], "NAME must be the name of a folder, without a path and no dot first, got a/b"),
        (["publish", "fm", ".b"], "NAME must be the name of a folder, without a path and no dot first, got .b"),
        (["evaluate", "/nowhere"], "/nowhere: no checkpoint there"),
        (["evaluate", "x", "--context", "0"], "argument --context: must be at least 1, got 0"),
        (["generate", "/nowhere"], "/nowhere: no checkpoint there"),
        (["dance"], "invalid choice"),
        ([], "the following arguments are required"),
    ],
)
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    def went_on(*_, **__):
        raise AssertionError("the command went on")

    monkeypatch.setattr(cli, "train", went_on)
    monkeypatch.chdir(tmp_path)
    code, said = fails(capsys, *arguments)
    assert code == 2 and message in said
    assert not list(tmp_path.iterdir())


def test_slots_alone_are_enough(text, tmp_path):
    """The default number of slots a token uses goes with them."""
    out = str(tmp_path)
    assert cli.main(["train", *SMALL, "--slots", "4", "--text", text, "--out", out]) == 0
    options = read_run(latest(out)).config.options
    assert (options.num_slots, options.top_k) == (4, 1)


def test_the_parameters_said_are_those_of_the_model(runs, text, tmp_path, capsys):
    options = [*SMALL, *HEADS, "--mixer", "transformer", "--layers", "3", "--steps", "1"]
    assert cli.main(["train", *options, "--text", text, "--out", str(tmp_path)]) == 0
    model = checkpoint.read_model(latest(tmp_path))
    assert f"transformer, {model.num_parameters():,} parameters," in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["reconfigure", "stdout", "stderr", "both"])
def test_any_output_will_do(runs, monkeypatch, missing):
    """A notebook's streams have no reconfigure, and a program may be started with its streams closed."""
    monkeypatch.setattr(sys, "stdout", None if missing in ("stdout", "both") else io.StringIO())
    monkeypatch.setattr(sys, "stderr", None if missing in ("stderr", "both") else io.StringIO())
    given = sys.stdout, sys.stderr
    assert cli.main(["generate", str(runs / "fm-sparse"), "--prompt", "the", "--length", "5"]) == 0
    assert cli.main(["generate", "/nowhere"]) == 2
    if given[0]:
        assert given[0].getvalue().startswith("the") and "no checkpoint" not in given[0].getvalue()
    if given[1]:
        assert "5 tokens" in given[1].getvalue() and "/nowhere: no checkpoint there" in given[1].getvalue()


def test_where_nothing_can_be_written_is_said_before_the_measuring(runs, tmp_path, monkeypatch, capsys):
    def went_on(*_, **__):
        raise AssertionError("the command went on")

    monkeypatch.setattr(evaluate, "loss_sums", went_on)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for command in (["evaluate", runs / "fm-sparse", "--out"], ["publish", runs / "fm-sparse", "--folder"]):
        code, said = fails(capsys, *command, tmp_path / "file" / "below", "--context", "16")
        assert code == 2 and "Not a directory" in said


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this system does not say how much memory it has")
def test_a_model_that_does_not_fit_the_memory_is_refused(capsys):
    code, said = fails(capsys, "train", "--layers", "100000000")
    assert code == 2 and "parameters takes 265,0" in said and "GB of memory, this machine has" in said


def test_a_backend_that_cannot_run_says_why(capsys, monkeypatch):
    monkeypatch.setattr(cli.fast, "backends", lambda: {"chunked": "no torch on this abacus"})
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
    (tmp_path / "file").write_text("x", encoding="utf-8")
    code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", tmp_path / "file" / "run")
    assert code == 2 and "Not a directory" in said


def test_a_text_that_has_changed_is_noticed(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"as it was " * 200)
    assert cli.main(["train", *SMALL, *SLOTS, "--text", str(path), "--out", str(tmp_path / "run")]) == 0
    path.write_bytes(b"as it is!! " * 200)
    for command in (["evaluate", tmp_path / "run"], ["train", "--resume", "--out", tmp_path / "run"]):
        code, said = fails(capsys, *command)
        assert code == 2 and "its text was a.txt" in said
    assert cli.main(["evaluate", str(tmp_path / "run"), "--context", "8", "--text", str(path)]) == 0


def test_a_run_inside_its_text_finds_its_text_again(tmp_path, monkeypatch, capsys):
    """Every command writes below the folder that is the text, and none reads what was written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"the only text there is, " * 200)
    steps = ["--evaluate-every", "1", "--text", "."]
    assert cli.main(["train", *SMALL, *SLOTS, *steps]) == 0
    assert cli.main(["train", "--mixer", "fm", *SMALL, *SLOTS[:2], *steps]) == 0
    run = tmp_path / "out" / "fm-sparse"
    for command in (
        ["evaluate", run, tmp_path / "out" / "fm", "--context", "8", "--out", tmp_path / "figures"],
        ["evaluate", run, "--context", "8"],
        ["publish", run, "--context", "8", "--folder", tmp_path / "models"],
        ["train", "--resume", "--out", run],
    ):
        assert cli.main([str(word) for word in command]) == 0, command
    capsys.readouterr()
    (tmp_path / "b.txt").write_bytes(b"and more")
    code, said = fails(capsys, "evaluate", run, "--context", "8")
    assert code == 2 and "holds; added: b.txt; --text names another" in said


def test_a_text_that_moved_is_found_again(tmp_path, capsys):
    was, now, out = tmp_path / "was.txt", tmp_path / "now.txt", tmp_path / "run"
    was.write_bytes(b"as it was " * 200)
    assert cli.main(["train", *SMALL, *SLOTS, "--text", str(was), "--out", str(out)]) == 0
    was.rename(now)
    for command in (["evaluate", out], ["publish", out], ["train", "--resume", "--out", out]):
        code, said = fails(capsys, *command)
        assert code == 2 and "was.txt: no such file or folder; --text takes a file" in said
    assert cli.main(["train", "--resume", "--out", str(out), "--text", str(now), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["train", *SMALL, *SLOTS], "--out"),
        (["evaluate", "RUN", "--context", "8"], "--out"),
        (["publish", "RUN", "--context", "8"], "--folder"),
    ],
)
def test_what_cannot_be_written_is_found_before_the_work(runs, text, tmp_path, monkeypatch, capsys, command, option):
    def worked(*_, **__):
        raise AssertionError("work was done")

    monkeypatch.setattr(train, "update", worked)
    monkeypatch.setattr(evaluate, "loss_sums", worked)
    (tmp_path / "file").touch()
    command = [str(runs / "fm-sparse") if word == "RUN" else word for word in command]
    code, said = fails(capsys, *command, "--text", text, option, tmp_path / "file")
    assert code == 2 and f"{option} {tmp_path / 'file'}: nothing can be written there (it is a file)" in said


def test_divergence_is_one_line_and_code_1(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "update", lambda *_: None)
    code, said = fails(capsys, "train", *SMALL, *SLOTS, "--text", text, "--out", tmp_path)
    assert code == 1 and "not finite at step 0: there is no checkpoint yet" in said


def test_a_fault_of_ours_keeps_its_traceback(text, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(train, "update", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", *SMALL, *SLOTS, "--text", text, "--out", str(tmp_path)])


def python_m_lm(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-X", "utf8", "-m", "lm", *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, cwd=root, env=environment, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
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
    step = read_run(latest(tmp_path)).step
    assert said.startswith(f"python -m lm train: stopped at step {step}, saved ") and said.count("\n") == 1
    assert out.count("\n") == 1 and step >= 2


def test_a_reader_that_leaves_early_is_no_error(runs):
    with python_m_lm("generate", runs / "fm-sparse", "--length", 20) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")

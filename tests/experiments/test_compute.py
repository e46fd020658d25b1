"""Loss against compute: FLOPs are those that torch counts, a slope is that of a known law, and a study goes on."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments import compute, frame
from experiments.compute import FULL, TINY
from layers import MIXERS
from lm import pretrained
from lm.data import even_windows
from lm.loss import bits_per_byte
from lm.model import Config, LanguageModel
from lm.run import Settings
from lm.train import train
from tests.support.processes import in_this_process

COMPARED = [*pretrained.comparable()]
T = 12


def counted(function) -> int:
    """What torch counts of the products in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def convolution(width: int, channels: int) -> int:
    x, weight = torch.zeros(1, channels, width - 1 + T), torch.zeros(channels, 1, width)
    return counted(lambda: F.conv1d(x, weight, groups=channels))


@pytest.mark.parametrize("mixer", COMPARED)
def test_a_parameter_of_a_matrix_takes_six_a_token(mixer):
    model = LanguageModel(Config.lenient(mixer, d_model=32, num_layers=2))
    with FlopCounterMode(display=False) as counter:
        bits_per_byte(model, torch.randint(256, (3, T + 1))).backward()
    assert counter.get_flop_counts()["Global"][torch.ops.aten.mm] == 3 * T * 6 * compute.matrix_parameters(model)


@pytest.mark.parametrize(("mixer", "slots"), [("fm", 6), ("fm-sparse", 2)])
def test_the_memory_takes_what_its_loop_takes(mixer, slots):
    config = Config.lenient(mixer, d_model=8, num_slots=6, top_k=2)
    width = config.options.width(8)
    weight, value, h = torch.zeros(slots, 1), torch.zeros(1, width), torch.zeros(slots, width)

    def token():
        weight @ value  # theta value, which is added
        h[:, None] @ h[:, :, None]  # the squares
        weight.t() @ h  # what is read

    decay = slots * width  # a product a number, not one of matrices
    assert T * compute.memory_flops(config, T) == T * (counted(token) + decay) + convolution(4, width)


def test_mamba2_takes_what_its_loop_takes():
    config = Config.of("mamba2", d_model=16, state_width=6, head_width=8)  # 4 heads
    B, C, x, h = torch.zeros(4, 6, 1), torch.zeros(4, 1, 6), torch.zeros(4, 1, 8), torch.zeros(4, 6, 8)

    def token():
        B @ x  # what is written
        C @ h  # what is read

    needed = T * (counted(token) + h.numel()) + convolution(4, 32 + 2 * 6)
    assert T * compute.mamba2_flops(config, T) == needed


@pytest.mark.parametrize("window", [0, 5])
def test_attention_takes_what_its_loop_takes(window):
    config = Config.of("transformer", d_model=16, head_width=8, window=window)
    q, k = torch.zeros(2, 1, 8), torch.zeros(2, T, 8)

    def sequence():
        for t in range(T):
            seen = k[:, max(0, t + 1 - window) if window else 0 : t + 1]
            (q @ seen.transpose(1, 2)) @ seen

    assert T * compute.attention_flops(config, T) == pytest.approx(counted(sequence))


def test_a_training_is_its_tokens_times_matrices_and_layers():
    config, settings = Config.of("transformer", d_model=16, num_layers=3, head_width=8), Settings(steps=5, batch=2)
    model = LanguageModel(config)
    matrices = 257 * 16 + 3 * (4 * 16 * 16 + 3 * 16 * config.mlp_width)
    attention = 3 * 4 * 16 * (256 + 1) / 2
    assert compute.training_flops(model, settings) == 5 * 2 * 256 * (6 * matrices + 3 * attention)


def test_all_that_are_compared_have_a_count_and_sizes_grow_alike():
    assert set(COMPARED) <= compute.BESIDES_MATRICES.keys()
    for mixer in COMPARED:
        for width, parameters in zip(FULL.widths, (54_000, 110_000, 284_000), strict=True):
            config, settings = FULL.asked(mixer, width, 0)
            found, tokens = LanguageModel(config).num_parameters(), settings.steps * settings.batch * settings.length
            assert found == pytest.approx(parameters, rel=0.17) and 10 < tokens / found < 15
            assert (settings.lr, settings.length) == (3e-3, 256)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls of the tiny study with two mixers, in this process: its rows, and the jobs that it took."""
    ran = in_this_process(monkeypatch)
    monkeypatch.setattr(pretrained, "comparable", lambda: dict.fromkeys(("fm", "transformer")))

    def run(*arguments):
        ran.clear()
        assert frame.main(compute.EXPERIMENT, ["--tiny", "--out", str(tmp_path), *arguments]) == 0
        return json.loads((tmp_path / "compute.json").read_text(encoding="utf-8"))["rows"], [*ran]

    return run


def test_a_seed_is_whole_before_the_next_and_a_study_goes_on(study, tmp_path, capsys):
    rows, jobs = study("--seeds", "1")
    assert jobs == [("fm", 8, 0), ("transformer", 8, 0), ("fm", 16, 0), ("transformer", 16, 0)]
    more, jobs = study("--seeds", "2")
    assert jobs == [("fm", 8, 1), ("transformer", 8, 1), ("fm", 16, 1), ("transformer", 16, 1)]
    assert [row for row in more if row["seed"] == 0] == rows
    assert [compute.key(row) for row in more][:3] == [("fm", 8, 0), ("fm", 8, 1), ("fm", 16, 0)]
    path = tmp_path / "compute.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(result | {"rows": more[1:]}), encoding="utf-8")
    again, jobs = study("--seeds", "2")
    assert jobs == [("fm", 8, 0)] and again[0]["bits per byte"] == more[0]["bits per byte"]
    path.write_text(json.dumps(result | {"about": result["about"] | {"lr": 0.1}}), encoding="utf-8")
    before = path.read_bytes()
    assert frame.main(compute.EXPERIMENT, ["--tiny", "--out", str(tmp_path)]) == 2 and path.read_bytes() == before
    assert "lr is 0.003, was 0.1" in capsys.readouterr().err


def test_a_loss_is_of_windows_as_long_as_those_of_training(tmp_path):
    row = compute.one_run("fm", 16, 3, sizes=TINY)
    config, settings = TINY.asked("fm", 16, 3)
    assert (settings.seed, settings.steps, settings.warmup) == (3, 16, 1)
    model = train(config, settings, compute.text(), tmp_path / "run", quiet=True)
    tokens = even_windows(compute.text().stream("validation"), 2, 8)
    assert tokens.shape == (2, 9)
    with torch.no_grad():
        assert row["bits per byte"] == pytest.approx(bits_per_byte(model, tokens).item(), rel=1e-6)
    assert row["parameters"] == model.num_parameters() and row["flops"] == compute.training_flops(model, settings)
    assert row["flops"] != compute.training_flops(model, replace(settings, length=9))


@pytest.mark.parametrize("option", ["seeds", "processes"])
def test_bad_options_are_refused(option, tmp_path, capsys):
    assert frame.main(compute.EXPERIMENT, ["--tiny", "--out", str(tmp_path), f"--{option}", "0"]) == 2
    assert f"--{option} must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "compute.json").exists()


def rows_of(mixer, powers, sizes=(1e11, 1e12, 1e13)):
    """Rows of a mixer whose seeds follow a law each, loss = 100 / FLOPs^power."""
    return [
        {"mixer": mixer, "width": width, "seed": seed, "parameters": 1000 * width, "steps": width, "flops": flops}
        | {"bits per byte": 100 * flops**-power}
        for width, flops in enumerate(sizes, 1)
        for seed, power in enumerate(powers)
    ]


def test_the_slope_is_that_of_the_law_and_its_interval_is_over_seeds():
    result = {"rows": rows_of("fm", [0.1, 0.15, 0.2]) + rows_of("mamba2", [0.1, 0.2])}
    result["rows"].pop()  # one seed lacks a size
    assert compute.of_seeds(result, "fm") == pytest.approx([-0.1, -0.15, -0.2])
    assert compute.slope(rows_of("fm", [0.1, 0.15, 0.2])) == pytest.approx(-0.15)  # over all runs
    _, _, fm, mamba2 = compute.fit(result).splitlines()
    assert fm == "| FM (dense) | 3 | -0.150 | -0.200 to -0.100 | × 0.71 |"
    assert mamba2 == "| Mamba-2 | 1 | -0.100 | – | × 0.79 |"
    assert compute.finding(result) == "Ten times the FLOPs multiply the loss by 0.71 to 0.79"
    low, high = compute.interval([-0.1, -0.11, -0.12, -0.13, -0.14])
    assert -0.14 < low < -0.12 < high < -0.1


def test_one_size_has_no_slope():
    result = {"rows": rows_of("fm", [0.1, 0.2, 0.3], sizes=(1e11,))}
    assert compute.fit(result).splitlines()[-1] == "| FM (dense) | 3 | – | – | – |"
    assert compute.finding(result) == "Loss by the FLOPs of training"


def test_the_table_has_a_row_a_size():
    rows = rows_of("transformer", [0.1, 0.11, 0.12], sizes=(1e11, 2e13))
    for row, loss in zip(rows[:3], (2.0, 2.5, 3.0), strict=True):
        row["bits per byte"] = loss
    for row in rows[3:]:
        row["bits per byte"] = 1.5
    head, _, small, large = compute.table({"rows": rows}).splitlines()
    assert head.endswith("| training FLOPs, 10¹² | seeds | bits per byte |")
    assert small == "| Transformer | 1 | 1,000 | 1 | 0.100 | 3 | 2.500 (2.000–3.000) |"
    assert large == "| Transformer | 2 | 2,000 | 2 | 20.0 | 3 | 1.500 |"


def test_the_figure_has_a_point_a_run_and_a_line_a_mixer(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(compute.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    result = {"rows": rows_of("fm", [0.1, 0.11, 0.12]) + rows_of("mamba2", [0.1, 0.2])}
    compute.draw(deepcopy(result), tmp_path / "compute.png")
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert [*lines] == [MIXERS[name].title for name in ("fm", "mamba2")]
    assert lines["Mamba-2"].get_ydata()[0] == pytest.approx(50 * (1e11**-0.1 + 1e11**-0.2))
    assert sum(len(line.get_xdata()) for line in axes.get_lines() if line not in lines.values()) == 15
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_sizes_with_few_seeds_are_shown_and_not_fitted():
    def row(width, seed, bits):
        return {
            "mixer": "fm", "width": width, "seed": seed, "flops": 10.0**width, "bits per byte": bits,
            "parameters": width, "steps": 1,
        }  # fmt: skip

    rows = [row(width, seed, 10 ** (-0.1 * width)) for width in (1, 2) for seed in range(3)]
    bent = {"rows": [*rows, row(3, 0, 0.01)]}
    assert compute.fitted(bent) == [1, 2] and compute.fitted({"rows": rows[:1]}) == [1]
    assert compute.of_seeds(bent, "fm") == pytest.approx([-0.1] * 3)
    assert len(compute.table(bent).splitlines()) == 2 + 3


def test_a_run_on_two_machines_shows_their_difference():
    row = {"mixer": "fm", "width": 8, "seed": 0, "parameters": 1234, "steps": 5, "bits per byte": 1.5}
    other = row | {"seed": 1, "bits per byte": 9.0}
    result = {"rows": [other, row], "again": [row | {"bits per byte": 1.4999999, "made on": "a card"}]}
    assert compute.again(result).splitlines()[2:] == ["| FM (dense) | 1,234 | 5 | 1.50000 | 1.50000 | +0.00000 |"]


def test_a_text_and_widths_may_be_named(tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(3):
        (tmp_path / "text" / f"{i}.txt").write_text("some words of a text. " * 40 + str(i), encoding="utf-8")
    given = ["--tiny", "--seeds", "1", "--processes", "1", "--widths", "16", "--text", str(tmp_path / "text")]
    assert frame.main(compute.EXPERIMENT, [*given, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "compute.json").read_text(encoding="utf-8"))
    assert {row["width"] for row in result["rows"]} == {16} and result["about"]["corpus"]["files"] == 3
    assert not any("made on" in row for row in result["rows"])
    here, other = (compute.one_run("fm", 16, 0, sizes=TINY, source=source) for source in (given[-1], None))
    assert result["rows"][0]["bits per byte"] == pytest.approx(here["bits per byte"], rel=1e-6)
    assert here["bits per byte"] != pytest.approx(other["bits per byte"], rel=1e-3)

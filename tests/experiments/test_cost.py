"""Cost: what is timed is what it says, mixers take turns, a stopped run goes on here alone, tables show the rows."""

import json

import pytest
import torch

from experiments import cost, frame
from experiments.cost import FULL, TINY
from experiments.speed_dense import SMALL_MODEL
from layers import MIXERS
from lm import pretrained
from lm.model import Config, LanguageModel

COMPARED = [*pretrained.comparable()]


def model_of(mixer):
    torch.manual_seed(0)
    return LanguageModel(Config.lenient(mixer, **SMALL_MODEL)).eval()


@pytest.mark.parametrize("mixer", COMPARED)
def test_a_token_is_decoded_after_so_many_however_often(mixer, monkeypatch):
    model, given = model_of(mixer), []
    step_ = model.step_
    monkeypatch.setattr(model, "step_", lambda tokens, state: given.append((tokens, state)) or step_(tokens, state))
    run = cost.token_at(model, 9)
    tokens = torch.randint(256, (1, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(run()[:, -1], model(tokens)[0][:, -1], atol=1e-5)
    for _ in range(3):
        run()
    assert len(given) == 5 and torch.equal(given[1][0], tokens[:, 9:])
    if mixer == "transformer":
        assert {(kept.data_ptr(), length) for kept, length in (state[0] for _, state in given[1:])} == {
            (given[1][1][0][0].data_ptr(), 9)
        }  # the same place of the same cache


def test_a_state_is_that_of_the_position():
    rows = {row["mixer"]: row for row in cost.decoding_rows(8, COMPARED, TINY)}
    assert rows["transformer"]["state bytes"] == 2 * 8 * 16 * 4
    assert all(rows[mixer]["state bytes"] == model_of(mixer).state_bytes(1, 8) for mixer in COMPARED)


def test_a_step_has_about_as_many_tokens_and_mixers_take_turns(monkeypatch):
    turns, steps = [], []
    monkeypatch.setattr(cost, "extra_memory", lambda *_: None)
    monkeypatch.setattr(cost, "training_step", lambda mixer, windows, **_: steps.append((mixer, windows)) or mixer)
    monkeypatch.setattr(
        cost, "medians", lambda calls, rounds: turns.append((calls, rounds)) or dict.fromkeys(calls, 2.0)
    )
    for length, batch in ((256, 16), (4096, 1), (16384, 1)):
        turns.clear(), steps.clear()
        rows = cost.training_rows(length, COMPARED, FULL)
        assert turns == [({mixer: mixer for mixer in COMPARED}, FULL.training[length])]
        assert {windows.shape for _, windows in steps} == {(batch, length + 1)}
        assert [row["tokens a second"] for row in rows] == [batch * length / 2] * len(COMPARED)


def test_a_step_is_that_of_the_bundled_config():
    assert FULL.model == {}
    for mixer, record in pretrained.comparable().items():
        assert Config.lenient(mixer, **FULL.model) == record.config


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls of the tiny study without other processes: its rows, and what was measured."""
    measured = []

    def rows(what):
        def made(at, mixers, sizes):
            measured.append((what, at))
            if at == stop:
                raise KeyboardInterrupt
            shared = {"what": what, "at": at, "seconds": 1e-3}
            of_it = {"tokens a second": 1e3, "extra bytes": None} if what == "training" else {"state bytes": 9}
            return [shared | {"mixer": mixer} | of_it for mixer in mixers]

        return made

    stop = None
    for what in ("training", "decoding"):
        monkeypatch.setattr(cost, f"{what}_rows", rows(what))

    def run(stopped_at=None, code=0):
        nonlocal stop
        stop = stopped_at
        measured.clear()
        assert frame.main(cost.EXPERIMENT, ["--tiny", "--out", str(tmp_path)]) == code
        return json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))["rows"], [*measured]

    return run


def test_a_stopped_run_goes_on_and_only_on_the_same_machine(study, tmp_path, capsys):
    rows, measured = study(stopped_at=8, code=130)
    assert measured == [("training", 16), ("decoding", 4), ("decoding", 8)]
    assert [(row["what"], row["mixer"]) for row in rows] == [
        (what, mixer) for what in ("training", "decoding") for mixer in COMPARED
    ]
    more, measured = study()
    assert measured == [("decoding", 8)] and more[: len(rows)] == rows
    assert study() == (more, [])
    path = tmp_path / "cost.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(result | {"about": result["about"] | {"on": "another"}}), encoding="utf-8")
    assert len(study()[1]) == 3 and "of another run" in capsys.readouterr().out


def rows_like():
    times = {"fm": (0.5, 0.5), "transformer": (0.25, 2.0)}
    rows = [
        {"what": "training", "at": at, "mixer": mixer, "windows": 1, "seconds": seconds}
        | {"tokens a second": 4096 / seconds, "extra bytes": 10 << 20}
        for mixer, found in times.items()
        for at, seconds in zip((256, 4096), found, strict=True)
    ]
    rows += [
        {"what": "decoding", "at": at, "mixer": mixer, "seconds": seconds * 1e-3, "state bytes": at << 10}
        for mixer, found in times.items()
        for at, seconds in zip((256, 4096), found, strict=True)
    ]
    return {"rows": rows}


def test_tables_have_a_row_a_mixer_and_a_column_a_length():
    result = rows_like()
    head, _, fm, transformer = cost.training(result).splitlines()
    assert head == "|  | 256 | 4,096 |"
    assert fm == "| FM (dense) | 8,192 (10.0 MiB) | 8,192 (10.0 MiB) |"
    assert transformer == "| Transformer | 16,384 (10.0 MiB) | 2,048 (10.0 MiB) |"
    result["rows"][0]["extra bytes"] = None  # where there is no /proc
    assert "| 8,192 | 8,192 (10.0 MiB) |" in cost.training(result)
    _, _, fm, transformer = cost.decoding(result).splitlines()
    assert fm == "| FM (dense) | 500 µs (256 KiB) | 500 µs (4.0 MiB) |"
    assert transformer == "| Transformer | 250 µs (256 KiB) | 2,000 µs (4.0 MiB) |"


def test_the_figure_says_who_is_fastest_at_the_longest(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(cost.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    cost.draw(rows_like(), tmp_path / "cost.png")
    left, right = figures[0].axes
    lines = {line.get_label(): [*line.get_ydata()] for line in left.get_lines()}
    assert lines == {MIXERS["fm"].title: [8192, 8192], MIXERS["transformer"].title: [16384, 2048]}
    assert [*right.get_lines()[1].get_ydata()] == pytest.approx([250, 2000])
    title = left.get_title(loc="left")
    assert title == "Windows of 4,096: FM (dense) trains\n4.0 times as fast as Transformer"
    assert right.get_title(loc="left").startswith("After 4,096 tokens: FM (dense) decodes\n4.0 times")
    for axes in (left, right):
        assert axes.get_xscale() == axes.get_yscale() == "log"


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        frame.main(cost.EXPERIMENT, ["--rounds", "3"])
    assert "unrecognized arguments: --rounds 3" in capsys.readouterr().err

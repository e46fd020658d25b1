"""Short runs on text: what changes from run to run, what is compared, what is said of the slots."""

import math

import pytest
import torch

from experiments import short_runs
from experiments.short_runs import CHANGES, TINY, Change, compared, mutual_information
from layers import MIXERS
from lm.memory import Activity
from lm.model import Config, LanguageModel


def row(change, seed, near, far=1.0):
    return {
        "change": change, "seed": seed, "parameters": 10, "state bytes": 20,
        "129-256": [near, 0, 9], "1025-2048": [far, 0, 9],
    }  # fmt: skip


def test_every_change_is_trained_with_what_it_says():
    base = Config.lenient("fm")
    for change in CHANGES.values():
        named = {name: value for name, value in change.options.items() if hasattr(base, name)}
        assert Config.lenient(**named) and change.name
    assert len(CHANGES) == len({(str(change.options), change.module) for change in CHANGES.values()})
    assert all(change.seeds == 3 for name, change in CHANGES.items() if not name.startswith("settings"))


@pytest.mark.parametrize("name", [name for name in CHANGES if not name.startswith("settings")])
def test_every_change_can_be_trained(name, monkeypatch):
    """Its layer takes what a model gives it, and what its slots do is told where it has slots."""
    monkeypatch.setattr(short_runs, "train", lambda config, *_, quiet: LanguageModel(config).eval())
    slots = CHANGES[name].options["mixer"] in ("fm", "fm-sparse")
    assert ("slots" in short_runs.one_run(name, 0, TINY._replace(windows=1))) == slots


def test_a_run_has_the_layer_of_its_change_and_no_other_keeps_it(monkeypatch):
    seen = []

    def train(config, settings, corpus, folder, *, quiet):
        model = LanguageModel(config)
        seen.append((type(model.blocks[0].mixer), settings.seed, settings.steps))
        return model.eval()

    monkeypatch.setattr(short_runs, "train", train)
    ordinary = MIXERS["fm"].module
    short_runs.one_run("no norm", 2, TINY)
    assert seen == [(short_runs.NoNorm, 2, 1)] and MIXERS["fm"].module is ordinary


def test_a_change_is_compared_with_the_run_of_its_seed():
    changes = (Change("fm", "FM", {}), Change("x", "other", {}), Change("none", "has no runs", {}))
    rows = [row("fm", 0, 2.0), row("fm", 1, 3.0), row("x", 0, 2.5), row("x", 1, 3.1), row("x", 2, 9.0)]
    table = compared({"rows": rows}, changes, {"twice": lambda rows: str(2 * len(rows))})
    head, _, first, second = table.splitlines()
    assert head.endswith("| above the first, 129–256 | twice |")
    assert first == "| FM | 10 | 20 | 2 | 2.500 (2.000–3.000) | 1.000 | – | 4 |"
    # 0.5 and 0.1: the third seed has nothing to be compared with
    assert second == "| other | 10 | 20 | 3 | 4.867 (2.500–9.000) | 1.000 | 0.300 (0.100–0.500) | 6 |"


def test_a_token_touches_the_slots_that_it_keeps():
    """Four layers of slots of 256 numbers of four bytes."""
    for change, slots in (("fm", 32), ("8 of 32", 8), ("fm 256", 256), ("8 of 128, τ 2", 8)):
        assert short_runs.touched([row(change, 0, 2.0)]) == f"{4 * 256 * 4 * slots:,}"


def test_mutual_information_of_dependent_lists():
    byte = torch.arange(8).repeat(50)
    assert math.isclose(mutual_information(byte // 2, byte), 2.0)
    assert math.isclose(mutual_information(byte, byte), 3.0)
    assert abs(mutual_information(byte // 4, torch.arange(400) // 80)) < 1e-9


def test_what_the_slots_do_is_told_of_a_router_that_is_known():
    torch.manual_seed(0)
    model = LanguageModel(Config.lenient("fm", d_model=16, num_layers=1, num_slots=8)).eval()
    tokens = torch.randint(0, 256, (3, 512))
    mixer = model.blocks[0].mixer
    router = mixer.in_proj.weight.data[mixer.slot_width : mixer.slot_width + 8]
    router.zero_()
    found = short_runs.slots_of(model, tokens)
    assert found["dead"] == [0] and math.isclose(found["entropy"][0], 3, rel_tol=1e-5)
    router.normal_(std=40)  # each byte has one slot, which the embedding decides
    found = short_runs.slots_of(model, tokens)
    assert found["entropy"][0] < 0.1 and found["tells"][0] > 1.5
    mixer.rate_bias.data[0] = -1e4  # nothing is written
    assert short_runs.slots_of(model, tokens)["tells"] == found["tells"]


def test_a_dead_slot_takes_next_to_nothing_and_chance_tells_nothing(monkeypatch):
    """A write weight of 0.002 of an even share is little, and 0.0002 is dead; slots that know nothing tell nothing."""
    theta = torch.ones(2, 512, 8)
    theta[..., 0], theta[..., 1] = 0.002, 0.0002
    affinity = torch.rand(2, 512, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(short_runs, "slot_activity", lambda model, tokens: [Activity(affinity, theta, affinity)])
    tokens = torch.randint(0, 256, (2, 512), generator=torch.Generator().manual_seed(1))
    found = short_runs.slots_of(None, tokens)
    assert found["dead"] == [1]
    assert abs(found["tells"][0]) < 0.1 < mutual_information(affinity.argmax(-1).flatten(), tokens.flatten())

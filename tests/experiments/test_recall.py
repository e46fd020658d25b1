"""Recall over a gap: the sequences are what they say, and the measure is right for models that are known."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import recall
from experiments.recall import FILLERS, KEYS, RIVALS, VALUES, VOCABULARY
from layers import FactorizationMemory
from tests.support.processes import in_this_process


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(count=st.integers(1, 3), pairs=st.integers(1, 9), gap=st.integers(0, 9), seed=st.integers(0, 99))
def test_what_is_told_is_asked_in_another_order(count, pairs, gap, seed):
    tokens = recall.sequences(generator(seed), count, pairs, gap)
    assert tokens.shape == (count, 4 * pairs + gap)
    for row in tokens.tolist():
        told, fillers, asked = row[: 2 * pairs], row[2 * pairs : 2 * pairs + gap], row[2 * pairs + gap :]
        values = dict(zip(told[::2], told[1::2], strict=True))
        assert len(values) == pairs and dict(zip(asked[::2], asked[1::2], strict=True)) == values
        assert all(0 <= key < KEYS for key in values) and all(KEYS <= v < KEYS + VALUES for v in values.values())
        assert all(KEYS + VALUES <= token < VOCABULARY for token in fillers)
    asks, right = recall.answers(tokens, pairs)
    assert torch.equal(asks[:, ::2], tokens[:, 2 * pairs + gap :: 2])
    assert torch.equal(right, tokens[:, 2 * pairs + gap + 1 :: 2])


@given(pairs=st.integers(1, 9), gap=st.integers(0, 150), seed=st.integers(0, 99))
def test_other_kinds_of_gaps_ask_for_what_was_told_last(pairs, gap, seed):
    made = {kind: recall.sequences(generator(seed), 1, pairs, gap, kind)[0].tolist() for kind in recall.WORDS}
    assert {kind: len(tokens) - 4 * pairs - gap for kind, tokens in made.items()} == {
        "phrase": 0, "pairs": 0, "told again": 2 * pairs
    }  # fmt: skip
    for kind, tokens in made.items():
        first, asked = tokens[: len(tokens) - 2 * pairs - gap], tokens[len(tokens) - 2 * pairs :]
        last = dict(zip(first[::2], first[1::2], strict=True))  # a later value replaces the one before
        assert len(last) == pairs and dict(zip(asked[::2], asked[1::2], strict=True)) == last, kind
        between = tokens[len(first) : len(first) + gap]
        if kind == "pairs":
            assert not set(between[::2]) & set(last) and all(key < KEYS for key in between[::2])
            assert all(KEYS <= value < KEYS + VALUES for value in between[1::2])
        else:
            assert all(token >= KEYS + VALUES for token in between)
    told = made["told again"][: 4 * pairs]
    assert set(told[: 2 * pairs : 2]) == set(told[2 * pairs :: 2])
    phrase = made["phrase"][2 * pairs : 2 * pairs + gap]
    assert phrase[8:] == phrase[:-8]


def test_all_tokens_and_orders_come_up():
    tokens = recall.sequences(generator(), 2000, 2, 3)
    told, fillers, asked = tokens[:, :4], tokens[:, 4:7], tokens[:, 7:]
    for part, first, size in (
        (told[:, ::2], 0, KEYS),
        (told[:, 1::2], KEYS, VALUES),
        (fillers, KEYS + VALUES, FILLERS),
    ):
        assert torch.equal(part.unique(), torch.arange(first, first + size))
    same = (told[:, 0] == asked[:, 0]).double().mean()
    assert 0.45 < same < 0.55


class Oracle:
    """Answers from a table that it fills while it reads; of every fourth key it knows nothing."""

    device = "cpu"

    def __init__(self, forgets=False):
        self.forgets, self.parts = forgets, []

    def __call__(self, tokens, state=None):
        self.parts.append(tokens.shape[1])
        tables = state or [{} for _ in tokens]
        x = torch.zeros(*tokens.shape, dtype=torch.long)
        for b, row in enumerate(tokens.tolist()):
            for t, token in enumerate(row):
                last = tables[b].get("last")
                if token < KEYS:
                    tables[b]["last"] = token
                    x[b, t] = tables[b].get(token, 0)
                elif token < KEYS + VALUES and last is not None and not (self.forgets and last % 4 == 0):
                    tables[b][last] = token
        return x, tables

    def head(self, x):
        return torch.nn.functional.one_hot(x, VOCABULARY).float()


def test_recall_is_the_share_of_values_that_are_right(monkeypatch):
    monkeypatch.setattr(recall, "LONG", 7)
    model = Oracle()
    assert recall.recall(model, pairs=3, gap=10, count=5) == 1
    assert model.parts == [7, 7, 2, 5]  # 16 tokens in parts, then those that ask
    share = recall.recall(Oracle(forgets=True), pairs=8, gap=3, count=64)
    assert 0.7 < share < 0.8
    assert recall.recall(Oracle(forgets=True), pairs=8, gap=3, count=64) == share  # the same sequences


def test_what_is_measured_has_no_noise_on_its_router():
    rival = recall.Rival("noisy", "", "fm", {"num_slots": 4, "router_noise": 9.0}, width=8)
    for _, _, model in recall.train(rival, 0, recall.TINY):
        assert not model.training
    assert not model.training


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_model_may_be_read_in_parts_and_knows_nothing_at_first(rival):
    torch.manual_seed(0)
    model, tokens = rival.model().eval(), recall.sequences(generator(), 2, 3, 9)
    with torch.no_grad():
        whole, _ = model(tokens)
        first, state = model(tokens[:, :8])
        second, _ = model(tokens[:, 8:], state)
    assert (torch.cat([first, second], 1) - whole).norm() < 1e-5 * whole.norm()
    assert recall.recall(model, 8, 5, 32) < 0.1


def test_rivals_are_of_about_one_size():
    """But for one, which asks what the width of another does, and those of ten times the size or of other slots."""
    others = {"no conv, no gate", *(rival.name for rival in recall.SLOTS + recall.LARGE)}
    sizes = [rival.model().num_parameters() for rival in RIVALS if rival.name not in others]
    assert max(sizes) < 1.17 * min(sizes)
    large = [rival.model().num_parameters() for rival in recall.LARGE]
    assert max(large) < 1.05 * min(large)
    assert all(
        9.7 < n / recall.rival_of(r.name.split(" large")[0]).model().num_parameters() < 10.3
        for n, r in zip(large, recall.LARGE, strict=True)
    )
    assert len({rival.name for rival in RIVALS}) == len(RIVALS)


def test_a_state_is_counted_in_numbers_of_a_layer():
    numbers = {rival.name: rival.model().state_numbers(10) for rival in RIVALS}
    assert numbers["fm"] == 32 * 128 + 3 * 128 and numbers["fm plain"] == 32 * 128
    assert numbers["mamba2"] == 4 * 32 * 32 + 3 * (128 + 64)
    assert numbers["none"] == 2 * 10 * 80 and numbers["none conv"] == 2 * 10 * 80 + 3 * 80


def test_a_run_is_the_same_again_and_learns():
    sizes = recall.TINY._replace(steps=120, pairs=(1,), gap=0, batch=8)
    runs = [[(step, loss) for step, loss, _ in recall.train(recall.rival_of("fm"), 1, sizes)] for _ in range(2)]
    other = [(step, loss) for step, loss, _ in recall.train(recall.rival_of("fm"), 2, sizes)]
    assert runs[0] == runs[1] != other
    (_, first), (last, loss) = runs[0]
    assert last == 120 and loss < first


def test_gates_are_the_mean_weights_of_each_kind_of_token():
    torch.manual_seed(0)
    model = recall.rival_of("fm-sparse 8 of 32").model()
    rows = recall.gates(model, pairs=3, gap=20, count=4)
    assert len(rows) == 2 and all(len(layer[kind]) == 32 for layer in rows for kind in recall.KINDS)
    tokens = recall.sequences(generator(10**6), 4, 3, 20)[:, :26]
    block = model.blocks[0]
    routing = block.mixer.route(block.norm(model.embedding(tokens)))
    dense = torch.zeros(4, 26, 32).scatter(-1, routing.slots, routing.theta)
    for kind, chosen in (("key", tokens < 64), ("value", (tokens >= 64) & (tokens < 128)), ("filler", tokens >= 128)):
        assert torch.allclose(torch.tensor(rows[0][kind]), dense[chosen].mean(0), atol=1e-6)
    assert not any(block.mixer._forward_pre_hooks for block in model.blocks)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return recall.Rival("small", "FM, 4 slots", "fm", {"num_slots": 4}, width=8).model().requires_grad_(False)


def test_a_layer_is_rewritten_only_within(model):
    tokens = recall.sequences(generator(1), 3, pairs=2, gap=5)
    seen = []

    def change(theta, kinds):
        seen.append((theta, kinds))
        return theta * (kinds != 2)[..., None]

    before, _ = model(tokens)
    with recall.rewritten(model, 1, change):
        within, _ = model(tokens)
    ((theta, kinds),) = seen
    assert theta.shape == (3, 13, 4) and kinds[:, 4:9].eq(2).all() and kinds[:, :4].tolist() == 3 * [[0, 1, 0, 1]]
    assert torch.equal(before[:, :4], within[:, :4]) and not torch.allclose(before[:, 4:], within[:, 4:])
    with pytest.raises(ZeroDivisionError), recall.rewritten(model, 1, lambda theta, kinds: 1 / 0):
        model(tokens)
    after, _ = model(tokens)
    assert torch.equal(before, after) and not model._forward_pre_hooks


def test_routings_are_those_of_the_layers(model):
    tokens = recall.sequences(generator(1), 3, pairs=2, gap=5)
    first, second = recall.routings(model, tokens)
    block = model.blocks[0]
    x = block.norm(model.embedding(tokens))
    torch.testing.assert_close(first.theta, block.mixer.route(x).theta)
    assert first.theta.shape == second.phi.shape == (3, 13, 4)
    with recall.rewritten(model, 1, lambda theta, kinds: 0 * theta):
        assert not recall.routings(model, tokens)[1].theta.any()
    assert not any(block.mixer._forward_pre_hooks for block in model.blocks)


@pytest.mark.parametrize("name", ["fm", "fm-sparse 8 of 32"])
def test_without_faint_writes_only_the_others_are_left(name, monkeypatch):
    torch.manual_seed(0)
    model, tokens = recall.rival_of(name).model(), recall.sequences(generator(1), 3, pairs=2, gap=5)
    before = recall.routings(model, tokens)[0].theta
    monkeypatch.setattr(recall, "FAINT", before.median().item())
    with recall.without_faint_writes(model):
        within = recall.routings(model, tokens)
    assert torch.equal(within[0].theta, torch.where(before < before.median(), 0, before))
    assert within[1].theta.eq(0).any() and before.gt(0).all()


def test_rivals_differ_in_how_they_are_trained(monkeypatch):
    sizes = recall.TINY._replace(steps=20, batch=8)
    seen = []
    made = recall.sequences
    monkeypatch.setattr(recall, "sequences", lambda g, *shape: seen.append(shape) or made(g, *shape))
    for name, steps in (("mamba2", 20), ("mamba2 longer", 40), ("mamba2 stretched", 20)):
        seen.clear()
        *_, (last, _, _) = recall.train(recall.rival_of(name), 0, sizes)
        assert last == len(seen) == steps
        far = [step for step, (count, _, gap) in enumerate(seen, 1) if gap > sizes.gap or count != 8]
        assert far == ([10, 20] if "stretched" in name else [])
        assert all(count == 2 and gap <= 1024 for count, _, gap in (seen[step - 1] for step in far))
        assert {pairs for _, pairs, _ in seen} == set(sizes.pairs)


def test_slots_shrink_until_half_of_the_training_is_over(monkeypatch):
    rival, sizes, kept = recall.rival_of("fm-sparse 4 of 16 warm"), recall.TINY._replace(steps=10), []
    route = FactorizationMemory._route
    monkeypatch.setattr(
        FactorizationMemory, "_route", lambda layer, *given: kept.append(layer.top_k) or route(layer, *given)
    )
    *_, (_, _, model) = recall.train(rival, 0, sizes)
    assert kept == [k for k in (16, 12, 9, 7, 5, 4, 4, 4, 4, 4) for _ in range(recall.LAYERS)]
    assert [block.mixer.top_k for block in model.blocks] == [4, 4]
    kept.clear()
    [*recall.train(dataclasses.replace(rival, times=2), 0, sizes)]  # over all the steps that it has
    assert kept[::4] == [16, 12, 9, 7, 5, 4, 4, 4, 4, 4]


def test_a_half_life_is_that_of_what_the_slots_hold():
    assert recall.half_life({"value": [1.0], "filler": [0.5]}) == pytest.approx(1)
    unlike = {"value": [1.0, 1.0, 0.0], "filler": [0.01, 0.03, 1.0]}
    assert 0.99 ** recall.half_life(unlike) + 0.97 ** recall.half_life(unlike) == pytest.approx(1)
    assert recall.half_life({"value": [1.0, 0.1], "filler": [1e-9, 0.9]}) == pytest.approx(6e8, rel=0.02)
    assert recall.half_life({"value": [1.0], "filler": [0.0]}) == pytest.approx(1e12)


def test_the_table_has_the_mean_and_the_range_over_seeds():
    def row(seed, share):
        return {"rival": "mamba2", "seed": seed, "parameters": 5000, "state": 77, "recall": {"8": {"64": share}},
                "curve": [[100, 4.0, 0.5], [200, 3.0, 0.96]]}  # fmt: skip

    text = recall.table({"rows": [row(0, 0.25), row(1, 0.75)]})
    assert (
        text.splitlines()[2]
        == "| Mamba-2, state 4 × 32 × 32 | 5,000 | 77 | 2 | 200 | 0.50 (0.25–0.75) | – | – | – | – | – |"
    )
    assert recall.cell([1.0]) == "1.00" and recall.cell([None, None]) == "–"


def test_only_what_is_missing_is_run(monkeypatch, tmp_path, capsys):
    ran = in_this_process(monkeypatch)
    options = SimpleNamespace(only=["fm"], seeds=2, processes=1, device="cpu")
    run = recall.Run(recall.EXPERIMENT, tmp_path, True, options)
    first = recall.measure(run)
    assert [job[:2] for job in ran] == [("fm", 0), ("mamba2", 0), ("none conv", 0)]
    assert recall.measure(run) == first and len(ran) == 3
    assert "fm, seed 0" in capsys.readouterr().out


def test_the_live_model_stands_beside_the_means_of_the_stored(tmp_path):
    def row(rival, share):
        return {"rival": rival, "recall": {"4": {"0": 0.5, "64": share, "256": share / 2}}}

    result = {"rows": [row("fm", 1.0), row("fm", 0.5), row("mamba2", 0.4), row("fm plain", 0.1)]}
    live = {64: 0.9, 256: 0.8, 16384: 0.7}
    head, here, *others = [line.split() for line in recall.beside(result, live).splitlines()]
    assert head[-3:] == ["64", "256", "16,384"] and here[-3:] == ["0.90", "0.80", "0.70"]
    assert [line[-3:] for line in others] == [["0.75", "0.38", "–"], ["0.40", "0.20", "–"]]
    recall.draw_live(result, live, tmp_path / "live.png")
    assert (tmp_path / "live.png").stat().st_size > 10_000


def test_the_table_of_rates_has_the_rate_of_each_run_and_its_seeds():
    def row(rival, near, far):
        return {"rival": rival, "recall": {"8": {"64": near, "4096": far}}}

    rows = [row("mamba2", 1.0, 0.5), row("mamba2", 0.5, 0.5), row("mamba2 0.01", 0.25, 0.125), row("fm", 0.9, 0.9)]
    assert recall.rates({"rows": rows}).splitlines()[2:] == [
        "| Mamba-2, state 4 × 32 × 32 | – | 0.75 (0.50–1.00); 0.50 (0.50–0.50) (2) | 0.25; 0.12 (1) |"
    ]


def test_slots_are_drawn_by_what_a_token_touches(monkeypatch, tmp_path):
    def row(rival, near, far):
        shares = {"64": near} | ({} if far is None else {"65536": far})
        return {"rival": rival, "recall": {"8": shares, "16": {"64": near / 2}}}

    drawn = {}

    class Seen(recall.Figure):
        def savefig(self, *given, **how):
            for axes in self.axes:
                drawn[axes.get_title(loc="left")] = {
                    line.get_label(): [*zip(*map(list, line.get_data()), strict=True)] for line in axes.lines
                }

    monkeypatch.setattr(recall, "Figure", Seen)
    rows = [row("fm", 1.0, 0.5), row("fm", 0.5, 0.25), row("fm-sparse 4 of 32", 0.25, None), row("fm 8", 0.75, 0.5)]
    rows += [row("mamba2", 0.1, 0.1), row("fm plain", 0.1, 0.1), row("fm-sparse 8 of 32 warm", 1.0, 1.0)]
    recall.draw_slots({"rows": rows}, tmp_path / "slots.png")
    near, far = drawn["8 pairs after 64 fillers"], drawn["8 pairs after 65,536 fillers"]
    assert near["32 slots"] == [(4, 0.25), (32, 0.75)] and near["8 slots"] == [(8, 0.75)]
    assert far["32 slots"] == [(32, 0.375)] and drawn["16 pairs after 64 fillers"]["8 slots"] == [(8, 0.375)]
    assert [label for label in near if label.endswith("slots")] == ["8 slots", "32 slots"]
    assert near["begun dense"] == [(8, 1.0)]


def test_models_of_ten_times_the_size_are_trained_on_a_cpu_if_they_are_named():
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recall, "study", lambda run, known, wanted, *given: asked.append([*wanted]))
        patched.setattr(recall, "about", lambda *given, **known: {})
        patched.setattr(recall.torch.cuda, "is_available", lambda: True)
        for only, device in (([], "cpu"), (["fm large"], "cpu"), ([], "cuda")):
            options = SimpleNamespace(only=only, seeds=1, processes=1, device=device)
            recall.measure(recall.Run(recall.EXPERIMENT, recall.EXPERIMENT.folder, False, options))
    large = {rival.name for rival in recall.LARGE}
    counts = [len({name for name, _ in wanted} & large) for wanted in asked]
    assert counts == [0, 1, len(large)] and len(asked[0]) == len(RIVALS) - len(large)

"""Recall inside text: what a sequence holds, and how answers are counted."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import frame, recall_in_text
from experiments.recall import rival_of
from experiments.recall_in_text import LETTERS, LINE, PAIRS, sequences

SOURCE = torch.arange(128, 250)  # no byte of a definition


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 30), st.integers(0, 120), st.integers(0, 99))
def test_definitions_come_again_in_another_order_around_text(count, pairs, gap, length, seed):
    tokens = sequences(generator(seed), SOURCE, count, pairs, gap, length)
    told = pairs * LINE
    assert tokens.shape == (count, max(length, 2 * told + gap))
    first, between = tokens[:, :told].view(count, pairs, LINE), tokens[:, told : told + gap]
    again, after = tokens[:, told + gap : 2 * told + gap].view(count, pairs, LINE), tokens[:, 2 * told + gap :]
    assert (between >= 128).all() and (after >= 128).all() and (between.diff() == 1).all()
    for one, other in zip(first.tolist(), again.tolist(), strict=True):
        assert all(bytes(line)[0::2] == b"#=\n" for line in one)
        assert all(line[k] in LETTERS for line in one for k in (1, 3))
        assert len({line[1] for line in one}) == pairs and sorted(one) == sorted(other)


def test_orders_and_values_differ():
    tokens = sequences(generator(), SOURCE, 2000, 2, 0)
    assert 0.45 < (tokens[:, 1] == tokens[:, 11]).double().mean() < 0.55
    assert len(tokens[:, 3].unique()) == len(LETTERS) == 52


class Oracle:
    """Knows every definition of a letter with an odd code, and that = follows a letter; else it is sure of nothing."""

    def __call__(self, tokens, state=None):
        tables = state or [{} for _ in tokens]
        x = torch.zeros(*tokens.shape, dtype=torch.long)
        for b, row in enumerate(tokens.tolist()):
            table = tables[b]
            for t, token in enumerate(row):
                last, table["last"] = table.get("last", [0, 0, 0]), [*table.get("last", [0, 0, 0])[1:], token]
                if last[0] == ord("#") and last[2] == ord("=") and last[1] % 2:
                    table[last[1]] = token
                x[b, t] = table.get(last[2], 0) if token == ord("=") and last[1] == ord("#") else 0
                if last[2] == ord("#"):
                    x[b, t] = ord("=")  # definitions are cheap, and no part of the text between
        return x, tables

    def head(self, x):
        return 50.0 * torch.nn.functional.one_hot(x, 256).float() * (x > 0)[..., None]


def test_answers_are_the_values_that_come_again(monkeypatch):
    monkeypatch.setattr(recall_in_text, "text", lambda split: {"test": SOURCE}[split])
    monkeypatch.setattr(recall_in_text, "LONG", 7)
    found = recall_in_text.answers(Oracle(), 20, 64)
    assert 0.4 < found.share < 0.6
    assert math.isclose(found.bits, 8 * (1 - found.share), rel_tol=1e-5)  # 8 bits where it knows nothing
    assert math.isclose(found.text, 8, rel_tol=1e-5)


def test_a_run_is_the_same_again_and_learns(monkeypatch):
    monkeypatch.setattr(recall_in_text, "text", lambda split: SOURCE)
    sizes = recall_in_text.TINY._replace(steps=100)
    runs = [[(step, loss) for step, loss, _ in recall_in_text.train(rival_of("fm"), 1, sizes)] for _ in range(2)]
    other = [(step, loss) for step, loss, _ in recall_in_text.train(rival_of("fm"), 2, sizes)]
    assert runs[0] == runs[1] != other
    assert runs[0][0][1] < 8


def test_training_and_tests_read_other_files(monkeypatch):
    seen = []
    monkeypatch.setattr(recall_in_text, "text", lambda split: seen.append(split) or SOURCE)
    recall_in_text.one_run("fm", 0, recall_in_text.TINY._replace(steps=1))
    assert set(seen) == {"train", "test"} and seen[0] == "train"
    long = recall_in_text.FULL
    assert 2 * PAIRS * LINE + long.gap <= long.length and max(long.pairs) == PAIRS


def test_only_names_rivals(tmp_path, capsys):
    folder = str(tmp_path)
    assert frame.main(recall_in_text.EXPERIMENT, ["--tiny", "--out", folder, "--only", "lstm"]) == 2
    assert "--only must name some of fm, " in capsys.readouterr().err


@pytest.mark.parametrize("name", recall_in_text.RIVALS)
def test_rivals_are_of_the_study_of_recall(name):
    assert rival_of(name).model(256).embedding.num_embeddings == 256

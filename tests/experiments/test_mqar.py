"""Multi-query associative recall: what a sequence asks, and how answers are counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import mqar
from experiments.mqar import HALF, VOCABULARY, sequences
from experiments.recall import rival_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 60), st.integers(0, 99))
def test_each_key_is_told_once_and_asked_once(count, pairs, more, seed):
    tokens, right = sequences(generator(seed), count, 4 * pairs + more, pairs)
    assert tokens.shape == right.shape == (count, 4 * pairs + more)
    told, later = tokens[:, : 2 * pairs].view(count, pairs, 2), tokens[:, 2 * pairs :]
    assert ((told[..., 0] > 0) & (told[..., 0] < HALF)).all()
    assert ((told[..., 1] >= HALF) & (told[..., 1] < VOCABULARY)).all()
    for row, asks, values in zip(told.tolist(), later, right, strict=True):
        table = dict(row)
        assert len(table) == pairs
        assert sorted(asks[asks > 0].tolist()) == sorted(table)
        assert (values >= 0).sum() == pairs and (values[: 2 * pairs] == -100).all()
        for asked, value in zip(asks.tolist(), values[2 * pairs :].tolist(), strict=True):
            assert value == (table[asked] if asked else -100)


def test_near_places_are_likelier_and_all_come_up():
    """At one pair the places have the weights g^(a - 1) over their sum."""
    _, right = sequences(generator(), 20_000, 12, 1)
    share = (right >= 0).double().mean(0)
    assert share[[0, 1, 3, 5, 7, 9, 11]].sum() == 0  # what tells, and every second place
    want = torch.arange(1, 6).double() ** (mqar.POWER - 1)
    assert (share[2::2] - want / want.sum()).abs().max() < 0.015


class Oracle:
    """Answers from a table that it fills while it reads; of every fourth key it knows nothing."""

    def __call__(self, tokens, state=None):
        x = torch.zeros(*tokens.shape, dtype=torch.long)
        for b, row in enumerate(tokens.tolist()):
            table = {}
            for t, token in enumerate(row):
                if token >= HALF and row[t - 1] % 4:
                    table[row[t - 1]] = token
                x[b, t] = table.get(token, 0)
        return x, None

    def head(self, x):
        return torch.nn.functional.one_hot(x, VOCABULARY).float()


def test_accuracy_is_the_share_of_values_that_are_right():
    assert 0.7 < mqar.accuracy(Oracle(), 64, 16, 64) < 0.8
    assert mqar.accuracy(Oracle(), 64, 16, 64) == mqar.accuracy(Oracle(), 64, 16, 64)  # the same sequences


def test_a_run_is_the_same_again_and_learns():
    sizes = mqar.TINY._replace(steps=150, trained=((4, 1),), batch=8)
    runs = [[(step, loss) for step, loss, _ in mqar.train(rival_of("fm"), 1, sizes)] for _ in range(2)]
    other = [(step, loss) for step, loss, _ in mqar.train(rival_of("fm"), 2, sizes)]
    assert runs[0] == runs[1] != other
    (_, first), (last, loss) = runs[0]
    assert last == 150 and loss < first


def test_all_lengths_take_turns_in_training(monkeypatch):
    seen = []

    def noted(generator, count, length, pairs):
        seen.append((count, length, pairs))
        return sequences(generator, count, length, pairs)

    monkeypatch.setattr(mqar, "sequences", noted)
    list(mqar.train(rival_of("fm 8"), 0, mqar.TINY._replace(steps=3)))
    assert seen == [(4, 16, 2), (4, 32, 4), (4, 16, 2)]


def test_what_is_asked_for_must_fit():
    with pytest.raises(ValueError, match=r"^pairs must lie in \[1, 4\] at a length of 16, got 5"):
        sequences(generator(), 1, 16, 5)
    with pytest.raises(ValueError, match=r"^pairs must lie in \[1, 127\] at a length of 4096, got 128"):
        sequences(generator(), 1, 4096, 128)


def test_rivals_are_of_the_study_of_recall_and_the_drawn_ones_of_these():
    assert all(rival_of(name) for name in mqar.RIVALS) and set(mqar.DRAWN) <= set(mqar.RIVALS)
    assert max(pairs for _, pairs in mqar.FULL.asked) <= HALF - 1
    assert max(length for length, _ in mqar.FULL.trained) == mqar.LONGEST


def test_the_table_has_each_task_and_its_seeds():
    tasks = [(64, 4), (256, 64)]
    rows = [
        {"rival": "fm", "seed": seed, "parameters": 10, "state": 20, "curve": [[100, 1.0, share]],
         "accuracy": [[*task, share] for task in tasks]}
        for seed, share in ((0, 0.5), (1, 1.0))
    ]  # fmt: skip
    head, _, line, values = mqar.table({"rows": rows}).splitlines()
    assert head.endswith("| 4 pairs in 64 | 64 pairs in 256 |")
    assert line == "| FM, 32 slots | 10 | 20 | 2 | 100, 1 never | 0.75 (0.50–1.00) | 0.75 (0.50–1.00) |"
    assert values.endswith(" – | – | – | – | 0.25 | 0.02 |")

"""Recall inside text: what a sequence holds, and how answers are counted."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import recall, recall_in_text
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


def test_values_that_come_again_count_as_much_as_all_bytes(monkeypatch):
    """Where every byte takes 8 bits, 16 are learned from, and 8 are shown."""
    monkeypatch.setattr(recall_in_text, "text", lambda split: SOURCE)
    monkeypatch.setattr(recall_in_text, "learn", lambda rival, seed, steps, losses_of, vocabulary: losses_of)
    losses_of = recall_in_text.train(rival_of("fm"), 0, recall_in_text.TINY)
    uniform = Oracle()
    uniform.head = lambda x: torch.zeros(*x.shape, 256)
    learned, shown = losses_of(uniform, 2, generator())
    assert math.isclose(learned / math.log(2), 16, rel_tol=1e-5) and math.isclose(shown, 8, rel_tol=1e-5)


def test_training_and_tests_read_other_files(monkeypatch):
    seen = []
    monkeypatch.setattr(recall_in_text, "text", lambda split: seen.append(split) or SOURCE)
    recall_in_text.one_run("fm", 0, recall_in_text.TINY._replace(steps=1))
    assert set(seen) == {"train", "test"} and seen[0] == "train"
    long = recall_in_text.FULL
    assert 2 * PAIRS * LINE + long.gap <= long.length and max(long.pairs) == PAIRS


@pytest.mark.parametrize("name", recall_in_text.ASKED)
def test_rivals_read_bytes_and_those_that_are_far_are_else_alike(name):
    rival = recall_in_text.ASKED[name]
    assert rival.model(256).embedding.num_embeddings == 256
    plain = rival_of(name.removesuffix(" far"))
    assert replace(rival, name=plain.name, title=plain.title, stretched=0) == plain
    assert rival.stretched == (1024 if rival is not plain else 0) and rival.title.startswith(plain.title)


def test_every_tenth_batch_of_some_has_long_gaps(monkeypatch):
    monkeypatch.setattr(recall_in_text, "text", lambda split: torch.randint(256, (2000,), generator=generator()))
    made, seen = recall_in_text.sequences, []
    monkeypatch.setattr(recall_in_text, "sequences", lambda g, s, *shape: seen.append(shape) or made(g, s, *shape))
    sizes = recall_in_text.TINY._replace(steps=20, batch=8)
    for name in ("mamba2", "mamba2 far"):
        seen.clear()
        *_, (last, _, _) = recall_in_text.train(recall_in_text.ASKED[name], 0, sizes)
        assert last == len(seen) == 20
        far = [step for step, (count, _, gap, _) in enumerate(seen, 1) if gap > sizes.gap or count != 8]
        assert far == ([10, 20] if "far" in name else [])
        assert all(count == 2 and gap <= 1024 for count, _, gap, _ in (seen[step - 1] for step in far))


def test_fm_is_asked_again_without_faint_writes(monkeypatch):
    monkeypatch.setattr(recall_in_text, "text", lambda split: SOURCE)
    monkeypatch.setattr(recall, "FAINT", 2.0)  # nothing is written then
    seen = []

    def noted(model, gap, count):
        with torch.no_grad():
            _, ((memory, _), *_) = model(torch.ones(1, 3, dtype=torch.long))
        seen.append((gap, bool(memory[0].any())))
        return recall_in_text.Answers(0.5, 1.0, 2.0)

    monkeypatch.setattr(recall_in_text, "answers", noted)
    row = recall_in_text.one_run("fm", 0, recall_in_text.TINY)
    assert [*row["without faint writes"]] == [*row["answers"]] == ["8", "16"]
    assert seen[1:] == [(8, True), (16, True), (8, False), (16, False)]


def test_the_table_has_each_gap_and_the_reading_without_faint_writes():
    def found(share, text=2.0):
        return {gap: {"share": share, "bits": 1.0, "text": text} for gap in ("64", "1024")}

    fm = [{"rival": "fm", "seed": seed, "parameters": 10, "answers": found(share), "without faint writes": found(1.0)}
          for seed, share in ((0, 0.25), (1, 0.75))]  # fmt: skip
    rows = [*fm, {"rival": "rotary", "seed": 0, "parameters": 9, "answers": found(0.5, 4.0)}]
    _, _, first, second, third = recall_in_text.table({"rows": rows}).splitlines()
    assert first == "| FM, 32 slots | 10 | 2 | 0.50 (0.25–0.75) | 0.50 (0.25–0.75) | 2.00 |"
    assert second == "| the same, no writes below 0.001 |  |  | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) | 2.00 |"
    assert third == "| Transformer, rotary positions | 9 | 1 | 0.50 | 0.50 | 4.00 |"

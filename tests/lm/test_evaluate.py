"""Loss by position: every bucket against a computation without segments, states or buckets."""

import math

import numpy as np
import pytest
import torch

from layers import MIXERS
from lm.data import Corpus, DataError, Document
from lm.evaluate import Windows, bucket_edges, document_loss, evaluate, file_windows, loss_sums, summarise
from lm.model import Config, LanguageModel

SMALL = {"d_model": 16, "num_layers": 2, "head_width": 8, "state_width": 4, "num_slots": 4, "top_k": 2}


@pytest.fixture(scope="module")
def corpus():
    corpus = Corpus("x", [Document(str(i), np.random.default_rng(i).bytes(70 + i)) for i in range(5)])
    corpus.splits["test"] = corpus.documents
    return corpus


def model_for(mixer: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(Config.lenient(mixer, **SMALL))


@torch.no_grad()
def losses(model, window, reset=None):
    """Bits of every position of one window, each from its whole context, the plain way."""
    tokens, bits = window.long(), []
    for p in range(1, len(tokens)):
        begin = 0 if reset is None else (p - 1) // reset * reset
        logits, _ = model(tokens[None, begin:p])
        bits.append(-logits[0, -1].double().log_softmax(-1)[tokens[p]] / math.log(2))
    return torch.stack(bits)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("reset", [False, True])
def test_buckets_agree_with_one_position_at_a_time(corpus, mixer, reset):
    model, context, segment = model_for(mixer), 21, 8
    windows, _ = file_windows(corpus, "test", context)
    got = loss_sums(model, windows[:5], segment, reset=reset, batch=2)
    for row, window in zip(got, windows, strict=False):
        want = losses(model, window, segment if reset else None)
        for (first, last), bits in zip(bucket_edges(context), row, strict=True):
            assert bits.item() == pytest.approx(want[first - 1 : last].sum().item(), rel=1e-4), (first, last)


def test_buckets_double_and_cover_every_position_once():
    for context in range(1, 70):
        edges = bucket_edges(context)
        assert [p for first, last in edges for p in range(first, last + 1)] == list(range(1, context + 1))
        assert all(last == 2**k for k, (_, last) in enumerate(edges[:-1]))


def test_segment_and_batch_do_not_matter(corpus):
    model = model_for("fm")
    windows, _ = file_windows(corpus, "test", 32)
    want = loss_sums(model, windows, 32, batch=99)
    for segment, batch in ((1, 3), (5, 2), (100, 1)):
        torch.testing.assert_close(loss_sums(model, windows, segment, batch=batch), want, rtol=1e-5, atol=1e-4)


def test_windows_are_whole_and_spread_over_each_file(corpus):
    windows, paths = file_windows(corpus, "test", 34, per_file=9)
    assert paths == [str(i) for i in range(5) for _ in range(2)]
    first = corpus.documents[0].tokens()
    assert windows[0].equal(first[:35]) and windows[1].equal(first[-35:])


def test_files_that_are_too_short_are_left_out_or_named(corpus):
    assert set(file_windows(corpus, "test", 72)[1]) == {"2", "3", "4"}
    with pytest.raises(DataError, match=r"longest file of the test split has 74 bytes, too few for a context of 75"):
        file_windows(corpus, "test", 75)


def test_mode_of_the_model_is_kept(corpus):
    model = model_for("fm").train()
    evaluate(model, file_windows(corpus, "test", 8))
    assert model.training


def test_means_and_intervals():
    """Two files, 1 and 3 windows: the mean is over bytes; draws of two files give (a, a), (a, b) or (b, b)."""
    sums = torch.tensor([[8.0, 16.0], [2.0, 4.0], [2.0, 4.0], [2.0, 4.0]], dtype=torch.float64)
    result = summarise(sums, ["a", "b", "b", "b"], [(1, 1), (2, 3)])
    assert result.mean == [14 / 4, 28 / 8]
    assert (result.low, result.high) == ([2.0, 2.0], [8.0, 8.0])
    assert (result.files, result.windows) == (2, 4)


def test_one_file_alone_is_resampled_by_window():
    result = summarise(torch.tensor([[1.0], [3.0]], dtype=torch.float64), ["a", "a"], [(1, 1)])
    assert (result.low, result.mean, result.high) == ([1.0], [2.0], [3.0])


def test_intervals_have_the_right_width():
    """Means of 400 numbers of spread 1: an interval of about 2 * 1.96 / 20."""
    sums = torch.from_numpy(np.random.default_rng(0).normal(5, 1, (400, 1)))
    result = summarise(sums, [str(i) for i in range(400)], [(1, 1)])
    assert result.low[0] < result.mean[0] < result.high[0]
    assert 0.17 < result.high[0] - result.low[0] < 0.22


def test_evaluate_puts_the_parts_together(corpus):
    model = model_for("fm-sparse")
    windows, paths = file_windows(corpus, "test", 16)
    sums = [loss_sums(model, windows, 4, reset=reset) for reset in (False, True)]
    stateful, reset = (summarise(v, paths, bucket_edges(16)) for v in sums)
    found, without = (evaluate(model, Windows(windows, paths), 4, reset=reset) for reset in (True, False))
    assert found.sums.equal(sums[0]) and (found.stateful, found.reset) == (stateful, reset) and stateful != reset
    assert found.gain == summarise(sums[1] - sums[0], paths, bucket_edges(16))
    assert (without.stateful, without.reset, without.gain) == (stateful, None, None)


def test_a_whole_file_costs_the_mean_of_its_bytes(corpus):
    model, document = model_for("fm"), corpus.documents[0]
    want = losses(model, document.tokens()).mean().item()
    assert document_loss(model, document) == pytest.approx(want, rel=1e-4)


def test_the_state_does_not_grow_with_the_context():
    """The model sees one segment at a time and a state of constant size, however long the windows."""
    sizes = []

    class Watched(LanguageModel):
        def forward(self, tokens, state=None):
            logits, state = super().forward(tokens, state)
            sizes.append((tokens.shape[1], sum(memory.nbytes for memory, _ in state)))
            return logits, state

    model = Watched(Config.lenient("fm", **SMALL))
    loss_sums(model, torch.randint(0, 256, (2, 257), dtype=torch.int16), 16)
    assert set(sizes) == {(16, 2 * 2 * 4 * 32 * 4)}  # layers, batch, slots, width, bytes

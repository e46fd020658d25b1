"""What the notebooks share: a slider where somebody can move it, else a picture; a model's weights, seen or changed."""

import io
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import PIL.Image
import pytest
import torch

from experiments.recall import Rival, sequences
from notebooks import support
from notebooks.support import rewritten, routings


@pytest.fixture
def widgets(monkeypatch):
    """A reader who has ipywidgets; what interact was called with."""
    calls = []
    known = SimpleNamespace(
        IntSlider=lambda **options: options, interact=lambda draw, **sliders: calls.append((draw, sliders))
    )
    monkeypatch.setattr(support, "READER", True)
    monkeypatch.setattr(support, "find_spec", lambda name: known)
    monkeypatch.setitem(sys.modules, "ipywidgets", known)
    return calls


def test_a_reader_gets_sliders(widgets):
    assert support.slider(print, at=(0, 9, 4), layer=(1, 3, 2)) is None
    ((draw, sliders),) = widgets
    assert draw is print
    assert {name: (s["min"], s["max"], s["value"]) for name, s in sliders.items()} == {
        "at": (0, 9, 4),
        "layer": (1, 3, 2),
    }


@pytest.mark.parametrize("missing", ["reader", "package"])
def test_else_there_is_the_first_picture(widgets, monkeypatch, missing):
    if missing == "reader":
        monkeypatch.setattr(support, "READER", False)
    else:
        monkeypatch.setattr(support, "find_spec", lambda name: None)
    assert support.slider(lambda at, layer: (at, layer), at=(0, 9, 4), layer=(1, 3, 2)) == (4, 2)
    assert not widgets


def test_a_figure_becomes_a_small_picture_and_is_closed():
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    picture = support.small(figure)
    assert picture.data[:4] == b"\x89PNG" and not plt.fignum_exists(figure.number)
    assert PIL.Image.open(io.BytesIO(picture.data)).mode == "P"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Rival("small", "FM, 4 slots", "fm", {"num_slots": 4}, width=8).model().requires_grad_(False)


def test_a_layer_is_rewritten_only_within(model):
    tokens = sequences(torch.Generator().manual_seed(1), 3, pairs=2, gap=5)
    seen = []

    def change(theta, kinds):
        seen.append((theta, kinds))
        return theta * (kinds != 2)[..., None]

    before, _ = model(tokens)
    with rewritten(model, 1, change):
        within, _ = model(tokens)
    ((theta, kinds),) = seen
    assert theta.shape == (3, 13, 4) and kinds[:, 4:9].eq(2).all() and kinds[:, :4].tolist() == 3 * [[0, 1, 0, 1]]
    assert torch.equal(before[:, :4], within[:, :4]) and not torch.allclose(before[:, 4:], within[:, 4:])
    with pytest.raises(ZeroDivisionError), rewritten(model, 1, lambda theta, kinds: 1 / 0):
        model(tokens)
    after, _ = model(tokens)
    assert torch.equal(before, after) and not model._forward_pre_hooks


def test_routings_are_those_of_the_layers(model):
    tokens = sequences(torch.Generator().manual_seed(1), 3, pairs=2, gap=5)
    first, second = routings(model, tokens)
    block = model.blocks[0]
    x = block.norm(model.embedding(tokens))
    torch.testing.assert_close(first.theta, block.mixer.route(x).theta)
    assert first.theta.shape == second.phi.shape == (3, 13, 4)
    with rewritten(model, 1, lambda theta, kinds: 0 * theta):
        assert not routings(model, tokens)[1].theta.any()
    assert not any(block.mixer._forward_pre_hooks for block in model.blocks)

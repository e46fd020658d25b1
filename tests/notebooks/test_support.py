"""What the notebooks share: a slider where somebody can move it, else a picture."""

import io
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import PIL.Image
import pytest

from notebooks import support


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

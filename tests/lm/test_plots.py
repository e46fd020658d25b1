"""Figures: each is drawn for every mixer it is for, from any legal numbers, without a display."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from lm import plots
from lm.evaluate import bucket_edges
from lm.memory import Activity, slot_activity
from lm.model import DOCUMENT_MARK, Config, LanguageModel
from lm.run import Buckets

SMALL = {"d_model": 16, "num_layers": 2, "num_slots": 5, "top_k": 2}
TEXT = torch.tensor([DOCUMENT_MARK, *b"def f($x):\n\treturn '\xc3\xa9'\r\n"])


def activity(mixer):
    return slot_activity(LanguageModel(Config.lenient(mixer, **SMALL)), TEXT[None])


def buckets(context, level=3.0):
    edges = bucket_edges(context)
    mean = [level / (k + 1) for k in range(len(edges))]
    low, high = ([m + d for m in mean] for d in (-0.1, 0.1))
    return Buckets([f for f, _ in edges], [last for _, last in edges], mean, low, high, 4, 9)


def drawn(path):
    """The picture as an array, once it has been seen to be more than an empty page."""
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600 and pixels.std() > 10
    return pixels


@pytest.mark.parametrize("mixer", ["fm", "fm-sparse"])
def test_slot_figures_of_both_memories(tmp_path, mixer):
    layers = activity(mixer)
    plots.draw_slots(layers[1], TEXT, tmp_path / "slots.png", layer=1)
    plots.draw_slot_use(layers, tmp_path / "use.png", top_k=2)
    drawn(tmp_path / "slots.png")
    drawn(tmp_path / "use.png")


def test_slots_never_written_and_always_replaced(tmp_path):
    theta = torch.zeros(1, len(TEXT), 3)
    theta[..., 1] = 1.0
    layer = Activity(torch.full_like(theta, 1 / 3), theta, theta)
    plots.draw_slots(layer, TEXT, tmp_path / "slots.png")
    plots.draw_slot_use([layer], tmp_path / "use.png")
    drawn(tmp_path / "use.png")


def test_length_figure_of_all_mixers(tmp_path):
    results = {mixer: buckets(64, level) for level, mixer in enumerate(plots.NAMES, 2)}
    plots.draw_lengths(
        results, tmp_path / "all.png", train_length=16, gain=results, references={"order-0 entropy": 4.4}
    )
    plots.draw_lengths({"a run": buckets(1)}, tmp_path / "one.png")
    (height, width), (_, one_panel) = (drawn(tmp_path / name).shape for name in ("all.png", "one.png"))
    assert width > one_panel > height


def test_length_title_says_what_the_numbers_say():
    flat = Buckets([1, 2], [1, 2], [3.0, 3.01], [2.9] * 2, [3.1] * 2, 4, 9)
    worse = Buckets([1, 2], [1, 2], [3.0, 3.5], [2.9] * 2, [3.1] * 2, 4, 9)
    better = Buckets([1, 2], [1, 2], [3.0, 2.5], [2.9] * 2, [3.1] * 2, 4, 9)
    title = plots._length_finding({"fm": flat, "mamba2": better, "transformer": worse}, 1)
    assert title.endswith("FM (dense) stays level, Mamba-2 falls by 0.50, Transformer rises by 0.50")


def test_the_panel_of_gains_shows_them_and_names_what_is_far_below(tmp_path, monkeypatch):
    seen, plot = [], Axes.plot

    def watched(axes, *values, **style):
        seen.append([list(v) for v in values])
        return plot(axes, *values, **style)

    monkeypatch.setattr(Axes, "plot", watched)
    notes, annotate = [], Axes.annotate
    monkeypatch.setattr(
        Axes, "annotate", lambda axes, text, *r, **k: notes.append(text) or annotate(axes, text, *r, **k)
    )
    level, edges = buckets(16), bucket_edges(16)
    small, bad = ([scale * (k + 1) for k in range(len(edges))] for scale in (0.01, -1.0))
    gain = {
        name: Buckets(level.first, level.last, mean, mean, mean, 4, 9)
        for name, mean in (("fm", small), ("transformer", bad))
    }
    plots.draw_lengths(dict.fromkeys(gain, level), tmp_path / "all.png", train_length=4, gain=gain)
    assert seen[2:] == [[[3, 4], small[3:]], [[3, 4], bad[3:]]]  # beyond the training length alone
    assert notes[-1] == "far below: Transformer"
    drawn(tmp_path / "all.png")
    plots.draw_lengths(
        dict.fromkeys(gain, level), tmp_path / "bad.png", train_length=4, gain={"fm": gain["transformer"]}
    )
    assert "far below" not in notes[-1]  # alone it is shown


def test_every_token_is_one_visible_character():
    shown = [plots.visible(token) for token in range(257)]
    assert all(len(c) == 1 and c.isprintable() and not c.isspace() for c in shown)
    assert shown[ord("a")] == "a" and shown[ord(" ")] == "·" and shown[ord("\n")] == "↵"


def test_the_map_shows_each_weight_where_it_belongs(tmp_path, monkeypatch):
    """Slots by use from the top, bytes from the left, zeros left white."""
    seen, imshow = [], Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda axes, image, **kw: seen.append(image) or imshow(axes, image, **kw))
    theta = torch.tensor([[[0.0, 0.1, 0.4], [0.3, 0.0, 0.4]]])
    plots.draw_slots(Activity(theta, theta, theta), torch.tensor([97, 98]), tmp_path / "slots.png")
    assert seen[0].filled(-1).tolist() == torch.tensor([[0.4, 0.4], [-1, 0.3], [0.1, -1]]).tolist()


def test_no_display_is_needed(tmp_path):
    """pyplot would open a connection to one."""
    code = "import sys, lm.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

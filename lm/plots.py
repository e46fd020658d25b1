"""Figures: what the slots do over a text, and what a longer context is worth.

Each function draws one PNG from numbers it is given; no display is needed. Titles say what the numbers say.
Colour maps rise evenly in lightness and lines differ in dash and marker, so that all of it can be read in grey.
"""

import math
import textwrap
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from layers import MIXERS
from lm.evaluate import positions
from lm.memory import Activity, effective_slots, entropies, half_life, slots_for_half
from lm.model import DOCUMENT_MARK
from lm.run import Buckets

NAMES = {name: row.title for name, row in MIXERS.items()}
VISIBLE = {"\n": "↵", "\t": "→", " ": "·", "\r": "←"}
STYLES = [
    ("#10406b", "-", "o"),
    ("#c1571b", "--", "s"),
    ("#5f9e6e", "-.", "^"),
    ("#8f8f8f", ":", "D"),
    ("#000000", (0, (5, 1, 1, 1, 1, 1)), "v"),
]
TEXT: dict = {"font.size": 13, "axes.titlesize": 15, "axes.titleweight": "bold", "axes.titlelocation": "left"}


@matplotlib.rc_context(TEXT)
def draw_slots(activity: Activity, tokens: Tensor, path: str | Path, layer: int = 0) -> None:
    """Write weights of one layer as a heat map, slots × bytes, with the text under the axis.

    activity: [1, T, M] each; tokens [T], of which about a hundred can be read. Slots are sorted by use.
    """
    theta = activity.theta[0].float().cpu().numpy()  # [T, M]
    order = np.argsort(-theta.sum(0), kind="stable")
    figure, axes = _figure(max(8.0, 1.9 + 0.145 * len(tokens)), 7.0)
    colours = matplotlib.colormaps["magma_r"].with_extremes(bad="white")
    weights = np.ma.masked_equal(theta[:, order].T, 0)  # white: not written at all
    norm = PowerNorm(0.5, vmin=0)  # the square root, for small weights to show beside large ones
    image = axes.imshow(weights, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    figure.colorbar(image, ax=axes, pad=0.01, label="write weight θ (share of the slot replaced)")
    axes.set_xticks(range(len(tokens)), [visible(token) for token in tokens.tolist()])
    axes.tick_params(axis="x", length=0, labelfontfamily="monospace", labelsize=12, pad=3)
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", labelsize=min(11, 330 / len(order)))
    axes.set_xlabel("the text, one byte a column (· space, ↵ end of line); white: not written")
    axes.set_ylabel("slot, the most used on top")
    axes.set_title(
        f"Layer {layer + 1}: a byte writes to about {effective_slots(theta):.1f} of {theta.shape[1]} slots; "
        f"half of all writing goes to {slots_for_half(theta)} of them"
    )
    figure.savefig(path)


@matplotlib.rc_context(TEXT)
def draw_slot_use(layers: list[Activity], path: str | Path, top_k: int | None = None) -> None:
    """Three panels by layer: share of the writing per slot, entropy of the router, half-life of each slot.

    layers: activity of every layer over one text, [1, T, M] each; top_k is marked beside the entropies.
    """
    figure, (use, entropy, life) = _figure(17.0, 5.6, 3)
    thetas = [layer.theta[0].float().cpu().numpy() for layer in layers]
    num_slots = thetas[0].shape[1]
    ranks = np.arange(1, num_slots + 1)
    for i, theta in enumerate(thetas):
        colour, dash, marker = STYLES[i % len(STYLES)]
        options = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 5, "label": f"layer {i + 1}"}
        use.plot(ranks, 100 * np.sort(theta.sum(0) / theta.sum())[::-1], **options)
        life.plot(ranks, np.sort(half_life(theta))[::-1], **options)
    halves = [slots_for_half(theta) for theta in thetas]
    use.axhline(100 / num_slots, color="black", linewidth=1, label="all alike")
    use.set(xlabel="slots of a layer, the most used first", ylabel="share of all writing (%)", ylim=(0, None))
    use.set_title(f"Half of the writing goes to {_span(halves)}\nof {num_slots} slots")
    use.legend()
    _draw_entropy(entropy, layers, num_slots, top_k)
    lives = np.concatenate([half_life(theta) for theta in thetas])
    life.set(xlabel="slots of a layer, the most lasting first", ylabel="half-life (bytes)")
    life.set_yscale("symlog", linthresh=1)  # as log, but 0 has a place
    life.set_title(f"Half of a slot is overwritten after\n{_lives(lives)}")
    life.legend()
    figure.savefig(path)


@matplotlib.rc_context(TEXT)
def draw_lengths(
    results: dict[str, Buckets], path: str | Path, *, train_length: int | None = None,
    gain: dict[str, Buckets] | None = None, references: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """Loss against position, with bands from low to high and the training length marked.

    results: by mixer; gain: what keeping the state saves over a reset every train_length bytes, which gets a panel of
    its own; references: bits per byte of what needs no learning, as `lm.data.reference_lines` has them.
    """
    first = next(iter(results.values()))
    trained = first.last.index(train_length) if train_length in first.last[:-1] else None
    two = bool(gain) and trained is not None
    figure, panels = _figure(17.0 if two else 12.0, 7.0, 2 if two else 1)
    axes = panels[0] if two else panels
    for (mixer, result), (colour, dash, marker) in zip(results.items(), cycle(STYLES), strict=False):
        axes.fill_between(range(len(result.mean)), result.low, result.high, color=colour, alpha=0.18, linewidth=0)
        name = NAMES.get(mixer, mixer)
        axes.plot(result.mean, color=colour, linestyle=dash, marker=marker, linewidth=2, label=name)
    for name, bits in (references or {}).items():
        axes.axhline(bits, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        axes.annotate(
            name, (1, bits), xytext=(6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=11,
        )  # fmt: skip
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.12 * (top - bottom))  # room for the words above the curves
    if trained is not None:
        axes.axvspan(trained + 0.5, len(first.last) - 0.5, color="black", alpha=0.07, linewidth=0)
        axes.annotate(
            f"beyond the training\nlength of {train_length:,}", (trained + 0.5, 0.98), xytext=(6, 0), va="top",
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=12,
        )  # fmt: skip
    _mark_positions(axes, first, 0)
    axes.set_ylabel("loss (bits per byte)")
    axes.set_title(_length_finding(results, train_length))
    if gain and trained is not None and train_length is not None:
        _draw_gain(panels[1], gain, trained, train_length)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
    figure.savefig(path)


def _draw_gain(axes, gain: dict[str, Buckets], trained: int, length: int) -> None:
    """From the training length on. What is further below 0 than the best is above it lies outside, and is named."""
    where = range(trained + 1, len(next(iter(gain.values())).last))
    shown = {mixer: [part[trained + 1 :] for part in (of.mean, of.low, of.high)] for mixer, of in gain.items()}
    most = max(max(high) for _, _, high in shown.values())
    outside = [mixer for mixer, (mean, _, _) in shown.items() if 0 < most < -max(mean)]
    for (mean, low, high), (colour, dash, marker) in zip(shown.values(), cycle(STYLES), strict=False):
        axes.fill_between(where, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(where, mean, color=colour, linestyle=dash, marker=marker, linewidth=2)
    axes.axhline(0, color="black", linewidth=1)
    if most > 0:
        lowest = min(min(low) for mixer, (_, low, _) in shown.items() if mixer not in outside)
        axes.set_ylim(max(min(lowest, 0), -most) - 0.15 * most, 1.1 * most)
    if outside:
        names = ", ".join(NAMES.get(mixer, mixer) for mixer in outside)
        axes.annotate(f"far below: {names}", (0.02, 0.03), xycoords="axes fraction", fontsize=12)
    _mark_positions(axes, next(iter(gain.values())), trained + 1)
    axes.set_ylabel("gain over reset (bits per byte)")
    parts = [f"{NAMES.get(mixer, mixer)} {of.mean[-1]:+.3f}" for mixer, of in gain.items()]
    axes.set_title(f"Gain over a reset every {length:,} bytes, at the end:\n{_in_lines(parts, 52)}")


def _mark_positions(axes, buckets: Buckets, start: int) -> None:
    names = [positions(*edge) for edge in zip(buckets.first[start:], buckets.last[start:], strict=True)]
    axes.set_xlim(start - 0.5, len(buckets.last) - 0.5)
    axes.set_xticks(range(start, len(buckets.last)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel("position in the text (bytes)")
    axes.grid(axis="y", alpha=0.3)


def visible(token: int) -> str:
    """One token as one character that shows.

    >>> [visible(token) for token in b"a \\n\\xc3"] + [visible(DOCUMENT_MARK)]
    ['a', '·', '↵', '▫', '§']
    """
    if token == DOCUMENT_MARK:
        return "§"
    character = chr(token)
    return VISIBLE.get(character, character if 32 < token < 127 else "▫")


def _draw_entropy(axes, layers: list[Activity], num_slots: int, top_k: int | None) -> None:
    """Boxes of the router's entropy, whiskers from 5 to 95 %; lines at the entropies of all and of the kept slots."""
    values = [entropies(layer.affinity[0].float().cpu().numpy()) for layer in layers]
    axes.boxplot(
        values, whis=(5, 95), showfliers=False, widths=0.55, patch_artist=True,
        boxprops={"facecolor": "#c9d7e6"}, medianprops={"color": "black", "linewidth": 2},
    )  # fmt: skip
    slots = {2**k: str(2**k) for k in range(num_slots.bit_length()) if 2**k < 0.8 * num_slots}
    slots[num_slots] = f"{num_slots}, all"
    axes.axhline(math.log2(num_slots), color="black", linewidth=1)
    if top_k and top_k < num_slots:
        slots[top_k] = f"{top_k}, kept"
        axes.axhline(math.log2(top_k), color="black", linewidth=1, linestyle="--", zorder=0)
    right = axes.secondary_yaxis("right")
    right.set_yticks([math.log2(n) for n in slots], slots.values())
    right.set_ylabel("the same as so many slots alike")
    axes.set(xlabel="layer", ylabel="entropy of the affinities (bits)", ylim=(0, 1.1 * math.log2(num_slots)))
    medians = [np.median(value) for value in values]
    axes.set_title(f"The router's choice is worth\n{_span([2**m for m in medians], '.1f')} slots of {num_slots}")


def _length_finding(results: dict[str, Buckets], train_length: int | None) -> str:
    parts = []
    for mixer, result in results.items():
        at = result.last.index(train_length) if train_length in result.last else 0
        change = result.mean[-1] - result.mean[at]
        verb = "stays level" if abs(change) < 0.02 else f"{'falls' if change < 0 else 'rises'} by {abs(change):.2f}"
        parts.append(f"{NAMES.get(mixer, mixer)} {verb}")
    lasts = next(iter(results.values())).last
    start = train_length if train_length in lasts else 1
    return f"Loss in bits per byte from {start:,} to {lasts[-1]:,} bytes:\n{_in_lines(parts, 72)}"


def _in_lines(parts: list[str], width: int) -> str:
    """The parts with commas between them, in lines that end after a part.

    >>> print(_in_lines(["Mamba-2 +0.04", "FM -0.01"], 15))
    Mamba-2 +0.04,
    FM -0.01
    """
    text = ", ".join(part.replace(" ", "\xa0") for part in parts)
    return textwrap.fill(text, width, break_on_hyphens=False).replace("\xa0", " ")


def _span(values: list, form: str = "d") -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _lives(lives: np.ndarray) -> str:
    finite = lives[np.isfinite(lives)]
    never = f", {len(lives) - len(finite)} never written" if len(finite) < len(lives) else ""
    return f"{finite.min():,.0f} to {finite.max():,.0f} bytes{never}" if len(finite) else "no slot is written"


def _figure(width: float, height: float, columns: int = 1):
    """A figure without pyplot, so that nothing is kept or shown; axes come singly or in a row."""
    figure = Figure((width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(1, columns)

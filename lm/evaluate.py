"""Does a longer context help? Loss in bits per byte by position, on files the model has not seen.

Each file is cut into windows of `context` bytes that do not overlap. Position p of a window is predicted from
the p tokens before it; positions fall into buckets 1, 2, 3-4, 5-8, ... up to the context. Every bucket is an
average over the same windows; the small ones are few bytes, and their intervals say how few. As a control the
state can be reset every so many bytes. What keeping the state saves beside it, the gain over reset, is the measure of
far context: a model that gains nothing makes no use of what lies further back. Loss alone is none: texts get easier.

Windows are read in segments and only the state is kept, so memory does not grow with the context for the
recurrent mixers (a Transformer's state is its cache: that grows).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lm.data import Corpus, DataError, Document
from lm.loss import mean_bits, token_bits
from lm.model import LanguageModel
from lm.run import Buckets

DRAWS = 2000  # bootstrap resamples


class Windows(NamedTuple):
    """Parts of files, all of one length."""

    tokens: Tensor  # int16 [N, context + 1]
    paths: list[str]  # of the file of each


@dataclass(frozen=True)
class Evaluation:
    """Of one model on some windows."""

    sums: Tensor  # bits by window and bucket, the state kept: two models' differ file by file
    stateful: Buckets
    reset: Buckets | None = None  # with the state reset after every segment
    gain: Buckets | None = None  # reset less stateful, file by file: what keeping the state saves


def bucket_edges(context: int) -> list[tuple[int, int]]:
    """First and last position of each bucket; the lengths double.

    >>> bucket_edges(8), bucket_edges(5)
    ([(1, 1), (2, 2), (3, 4), (5, 8)], [(1, 1), (2, 2), (3, 4), (5, 5)])
    """
    lasts = [1 << k for k in range((context - 1).bit_length())] + [context]
    firsts = [1] + [last + 1 for last in lasts[:-1]]
    return list(zip(firsts, lasts, strict=True))


def file_windows(corpus: Corpus, split: str, context: int, per_file: int = 8) -> Windows:
    """Whole windows of a split's files, spread evenly over each: int16 [N, context + 1], with their paths.

    A file of fewer than `context` bytes gives none; a DataError where that leaves nothing.
    """
    windows, paths = [], []
    for document in corpus.splits[split]:
        tokens = document.tokens()
        count = min(per_file, (len(tokens) - 1) // context)
        if count:
            starts = torch.linspace(0, len(tokens) - 1 - context, count).long().tolist()
            windows += [tokens[start : start + context + 1] for start in starts]
            paths += [document.path] * count
    if not windows:
        longest = max(len(document.data) for document in corpus.splits[split])
        raise DataError(
            f"{corpus.name}: the longest file of the {split} split has {longest:,} bytes, "
            f"too few for a context of {context:,}"
        )
    return Windows(torch.stack(windows), paths)


@torch.no_grad()
def loss_sums(
    model: LanguageModel, windows: Tensor, segment: int = 256, *, reset: bool = False, batch: int = 16,
    label: str | None = None,
) -> Tensor:  # fmt: skip
    """Summed loss by window and bucket, in bits: windows [N, context + 1] -> float64 [N, buckets].

    Reads `segment` tokens at a time; with `reset` each segment starts from an empty state. A label shows a bar.
    """
    device = next(model.parameters()).device
    edges = bucket_edges(windows.shape[1] - 1)
    bucket_of = torch.repeat_interleave(torch.tensor([last - first + 1 for first, last in edges]))
    sums = torch.zeros(len(windows), len(edges), dtype=torch.float64)
    was_training = model.training
    model.eval()
    for rows in tqdm(torch.arange(len(windows)).split(batch), label, disable=label is None, leave=False):
        state = None
        for places in torch.arange(windows.shape[1] - 1).split(segment):
            tokens, targets = (windows[rows][:, places + shift].long().to(device) for shift in (0, 1))
            logits, state = model(tokens, None if reset else state)
            sums[rows] = sums[rows].index_add(1, bucket_of[places], token_bits(logits, targets).cpu())
    model.train(was_training)
    return sums


@torch.no_grad()
def document_loss(model: LanguageModel, document: Document) -> float:
    """Bits per byte of one whole file, read from an empty state."""
    tokens = document.tokens()[None].long().to(next(model.parameters()).device)
    logits, _ = model(tokens[:, :-1])
    return mean_bits(logits, tokens[:, 1:]).item()


def evaluate(
    model: LanguageModel, windows: Windows, segment: int = 256, *, reset: bool = False, label: str | None = None
) -> Evaluation:
    """Bits per byte by position, with intervals over the files; with `reset` also the control, and the gain over it.

    Windows are read `segment` bytes at a time. A label shows bars.
    """
    sums = loss_sums(model, windows.tokens, segment, label=label)
    edges = bucket_edges(windows.tokens.shape[1] - 1)
    stateful = summarise(sums, windows.paths, edges)
    if not reset:
        return Evaluation(sums, stateful)
    control = loss_sums(model, windows.tokens, segment, reset=True, label=label and f"{label}, state reset")
    of_control, gain = (summarise(v, windows.paths, edges) for v in (control, control - sums))
    return Evaluation(sums, stateful, of_control, gain)


def summarise(sums: Tensor, paths: list[str], edges: list[tuple[int, int]]) -> Buckets:
    """Bucket means and 95 % intervals from sums [N, buckets]: files are drawn with replacement, seed 0.

    With windows of one file alone, the windows are drawn instead. Given the difference of two models' sums, it
    is that of their losses, file by file, whose interval is much narrower than either loss's own.
    """
    names = sorted(set(paths))
    units = [names.index(path) for path in paths] if len(names) > 1 else list(range(len(paths)))
    total = np.zeros((max(units) + 1, len(edges)))
    np.add.at(total, units, sums.numpy())
    count = np.bincount(units)[:, None] * np.array([last - first + 1 for first, last in edges])
    draws = np.random.default_rng(0).multinomial(len(total), np.full(len(total), 1 / len(total)), size=DRAWS)
    low, high = np.quantile((draws @ total) / (draws @ count), [0.025, 0.975], axis=0)
    first, last = (list(side) for side in zip(*edges, strict=True))
    mean = (total.sum(0) / count.sum(0)).tolist()
    return Buckets(first, last, mean, low.tolist(), high.tolist(), files=len(names), windows=len(paths))


def table(results: dict[str, Buckets], train_length: int | None = None) -> str:
    """Bits per byte by position, a column a result; a line after the training length.

    >>> fm = Buckets([1, 2], [1, 2], [5.0, 4.5], [4.9, 4.4], [5.1, 4.6], files=3, windows=7)
    >>> print(table({"fm": fm}, train_length=1))
    position                 fm
    1          5.00 (4.90-5.10)
    --------------------------- training length 1
    2          4.50 (4.40-4.60)
    """
    any_result = next(iter(results.values()))
    width = max(17, 2 + max(len(name) for name in results))
    lines = ["position  " + "".join(f"{name:>{width}}" for name in results)]
    for k, (first, last) in enumerate(zip(any_result.first, any_result.last, strict=True)):
        cells = (f"{r.mean[k]:.2f} ({r.low[k]:.2f}-{r.high[k]:.2f})" for r in results.values())
        lines.append(f"{positions(first, last):<10}" + "".join(f"{cell:>{width}}" for cell in cells))
        if last == train_length and last != any_result.last[-1]:
            lines.append("-" * len(lines[0]) + f" training length {train_length}")
    return "\n".join(lines)


def positions(first: int, last: int) -> str:
    """A bucket's name.

    >>> positions(1, 1), positions(129, 256)
    ('1', '129-256')
    """
    return str(first) if first == last else f"{first}-{last}"

"""Trainings with a fault planted in each, and models that see the future: for the detective of notebook 8.

Read no further before the case is solved.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from layers import MIXERS
from lm.data import sample_batch
from lm.loss import mean_bits
from lm.model import DOCUMENT_MARK, Config, LanguageModel
from lm.run import Settings
from lm.train import optimizer_for

FAULTS = ("sound", "future", "unshifted", "overlap", "padding")
CASE = {"A": "unshifted", "B": "overlap", "C": "future"}
HELD_OUT = 16  # windows


@dataclass(frozen=True)
class Suspect:
    """What a training leaves behind. Losses are in bits per byte, as its own loop computes them."""

    model: LanguageModel
    train: list[float]  # of every step
    held_out: dict[int, float]  # by the number of steps made
    inputs: Tensor  # [B, T] what the model was given in the last step
    targets: Tensor  # [B, T] what its predictions were compared with
    train_starts: list[int]  # where in the stream the windows began that were trained on
    held_out_starts: list[int]  # and those of the held-out loss
    window: int  # tokens of a window: the T that are predicted, and one before them


def train(
    fault: str, stream: Tensor, config: Config, settings: Settings, *, sees_future: str = "convolution"
) -> Suspect:
    """Train with one fault of FAULTS on a stream, of which the last quarter is to be held out."""
    torch.manual_seed(settings.seed)
    model, window = LanguageModel(config), settings.length + 1
    if fault == "future":
        let_see(model, sees_future)
    optimizer = optimizer_for(model, settings)
    scheduler = LambdaLR(optimizer, settings.rate)
    places = torch.arange(len(stream) - window + 1)  # of windows
    cut = 3 * len(stream) // 4
    learn_from, hold_out = places[: cut - window + 1], places[cut:]
    if fault == "overlap":
        learn_from, hold_out = places, places
    held_out = hold_out[torch.linspace(0, len(hold_out) - 1, HELD_OUT).long()]
    reported: list[float] = []
    by_step: dict[int, float] = {}
    starts: list[int] = []
    inputs = targets = torch.empty(0)
    for step in range(settings.steps):
        drawn = sample_batch(learn_from, settings.batch, 0, settings.seed, step)[:, 0]
        starts += drawn.tolist()
        inputs, targets = _pair(stream, drawn, window, fault)
        loss = mean_bits(model(inputs)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        scheduler.step()
        reported.append(loss.item())
        if (step + 1) % settings.evaluate_every == 0:
            with torch.no_grad():
                held_inputs, held_targets = _pair(stream, held_out, window, fault)
                by_step[step + 1] = mean_bits(model(held_inputs)[0], held_targets).item()
    return Suspect(model.eval(), reported, by_step, inputs, targets, starts, held_out.tolist(), window)


def _pair(stream: Tensor, starts: Tensor, window: int, fault: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, T] of windows."""
    windows = torch.stack([stream[start : start + window] for start in starts.tolist()]).long()
    if fault == "padding":  # as if the documents were shorter than the window
        windows[:, window // 3 :] = DOCUMENT_MARK
    return windows[:, :-1], windows[:, :-1] if fault == "unshifted" else windows[:, 1:]


class Centred(nn.Module):
    """A short convolution that is padded on both sides, as for images: it sees two tokens of the future."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv, self.width, self.tail_shape = conv, conv.width, conv.tail_shape

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.conv(F.pad(x, (0, 0, 0, 2))[:, 2:], tail)
        return y, tail


class OverTime(nn.Module):
    """A norm that takes out the mean over the window: every token sees a little of all others."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x - x.mean(1, keepdim=True))


def let_see(model: LanguageModel, how: str) -> LanguageModel:
    """The model, changed so that it sees the future: by a "convolution" in every layer, or a "norm" in the last."""
    if how == "norm":
        model.blocks[-1].mlp_norm = OverTime(model.blocks[-1].mlp_norm)
        return model
    for block in model.blocks:
        block.mixer.conv = Centred(block.mixer.conv)
    return model


def lineup(seed: int) -> Iterator[tuple[str, LanguageModel, bool]]:
    """Small models that are not trained: what it is, the model, whether it sees the future."""
    for mixer in MIXERS:
        for how in (None, "norm", "convolution"):
            torch.manual_seed(seed)
            model = LanguageModel(Config.lenient(mixer, d_model=16, num_layers=2, num_slots=4, head_width=8)).eval()
            if how is None:
                yield f"{mixer}, sound", model, False
            elif how == "norm" or hasattr(model.blocks[0].mixer, "conv"):
                yield f"{mixer}, with a {how} that sees the future", let_see(model, how), True


def case(stream: Tensor, little: Tensor, config: Config, settings: Settings) -> dict[str, Suspect]:
    """The three of the notebook. One of them has little text, so that it can learn it by heart."""
    texts = {"overlap": little}
    return {name: train(fault, texts.get(fault, stream[:400_000]), config, settings) for name, fault in CASE.items()}


def trials(seed: int) -> Iterator[tuple[str, Suspect, str]]:
    """Short trainings of small models on made-up documents: what it is, the suspect, its fault or "sound"."""
    generator = torch.Generator().manual_seed(seed)
    mixers = [*MIXERS, *MIXERS, *MIXERS]

    def documents(longest: int) -> Tensor:
        """Of 2 to `longest` letters, out of ten, with a mark before each."""
        letters = torch.randint(97, 107, (1000,), generator=generator)
        lengths = torch.randint(2, longest + 1, (400,), generator=generator)
        begins = lengths.cumsum(0)
        letters[begins[begins < len(letters)]] = DOCUMENT_MARK
        return letters

    def one(fault: str, longest: int = 40, sees_future: str = "norm") -> Suspect:
        config = Config.lenient(mixers.pop(), d_model=16, num_layers=2, num_slots=4, head_width=8)
        settings = Settings(steps=3, batch=4, length=24, seed=seed, evaluate_every=3)
        return train(fault, documents(longest), config, settings, sees_future=sees_future)

    for fault in FAULTS:
        yield f"one that is {fault}", one(fault), fault
    yield "one that sees two bytes ahead", one("future", sees_future="convolution"), "future"
    yield "a sound one, on very short documents", one("sound", longest=4), "sound"
    sound = one("sound")
    perfect = replace(sound, train=[0.1] * 3, held_out={3: 0.1})
    yield "a sound one, whose text is easy", perfect, "sound"
    last, window = max(sound.train_starts), sound.window
    yield "a sound one, whose windows touch", replace(sound, held_out_starts=[last + window]), "sound"
    for place in (last + window - 1, min(sound.train_starts) - window + 1):
        yield "one with a single byte in common", replace(sound, held_out_starts=[place]), "overlap"
    slow = replace(sound, train=[8.0] * 3, held_out={3: 9.0})
    yield "a sound one that has learned nothing yet", slow, "sound"

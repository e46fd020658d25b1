"""A training run as a record: what was asked for, on what text, how far it came, what was measured.

run.json holds it. Its keys are known here alone.
"""

import math
from dataclasses import asdict, dataclass, field

from layers.options import option
from lm.model import Config


@dataclass(frozen=True)
class Settings:
    """How to train. `warmup` steps rise to `lr`, the rest falls along a cosine to a tenth of it.

    burn_in: in every other step, a window starts from the state that so many bytes before it leave, read without
    gradients (truncated backpropagation through time), not from an empty one.
    """

    steps: int = option(2000, "optimiser steps")
    batch: int = option(16, "windows a step")
    length: int = option(256, "bytes a window")
    burn_in: int = option(0, "bytes read before every other window, for a state that is not empty")
    lr: float = option(3e-3, "highest learning rate")
    warmup: int = option(50, "steps until it is reached")
    weight_decay: float = option(0.1, "decay of the matrices")
    clip: float = option(1.0, "largest norm of the gradient")
    evaluate_every: int = option(100, "steps between held-out losses, each with a checkpoint")
    seed: int = option(0, "of the weights and the batches")

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip", "weight_decay"):
            if getattr(self, name) >= 1e30:
                raise ValueError(f"{name} must be below 1e30, got {getattr(self, name)}")
        for name, bits in (("batch", 31), ("seed", 63)):
            if getattr(self, name) >= 2**bits:
                raise ValueError(f"{name} must be below 2**{bits}, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in ("burn_in", "warmup", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0) as a share of lr.

        >>> settings = Settings(steps=110, warmup=10)
        >>> [round(settings.rate(step), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.55, 0.1]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Description:
    """Of a corpus: what a result must carry for two of them to be comparable (losses of two hashes are not)."""

    name: str
    manifest_hash: str
    python: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Point:
    """One entry of the history: losses in bits per byte after so many steps and tokens."""

    step: int
    tokens: int
    train: float  # smoothed
    held_out: float


@dataclass(frozen=True)
class Buckets:
    """Loss by position: three numbers a bucket, in bits per byte, and what they were measured over."""

    first: list[int]  # positions of bucket k: first[k] to last[k], counted from 1
    last: list[int]
    mean: list[float]
    low: list[float]  # 95 % bootstrap interval over files
    high: list[float]
    files: int
    windows: int


@dataclass(frozen=True)
class Results:
    """What a bundled model was measured to reach, in bits per byte."""

    stateful: Buckets
    reset: Buckets  # with the state reset every training length
    references: dict[str, float]  # what needs no learning, by name
    files: dict[str, float]  # of some whole files, by path
    license: float


@dataclass(frozen=True)
class Run:
    config: Config
    settings: Settings
    corpus: Description
    text: str | None  # where it lies; None: this Python's standard library, or unknown
    manifest: dict[str, str] | None = None  # the hash of every file; not kept with a result
    versions: dict[str, str] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    smoothed: float | None = None  # the training loss
    history: tuple[Point, ...] = ()
    results: Results | None = None

    def to_json(self) -> dict:
        record = {
            "step": self.step, "seconds": self.seconds, "smoothed": self.smoothed,
            "history": [asdict(point) for point in self.history], "text": self.text,
            "settings": asdict(self.settings), "corpus": asdict(self.corpus), "config": self.config.as_dict(),
            "versions": self.versions,
        }  # fmt: skip
        if self.manifest is not None:
            record["manifest"] = self.manifest
        if self.results is not None:
            record["results"] = asdict(self.results)
        return record

    @classmethod
    def from_json(cls, record: dict) -> "Run":
        """KeyError, TypeError or ValueError where it is no record. An option that the mixer lacks is passed over."""
        missing = {"config", "settings", "corpus", "text", "step", "history"} - record.keys()
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))} in run.json")
        results = record.get("results")
        if results is not None:
            buckets = {name: Buckets(**results[name]) for name in ("stateful", "reset")}
            results = Results(**{**results, **buckets})
        typed = {
            "config": Config.lenient(**record["config"]), "settings": Settings(**record["settings"]),
            "corpus": Description(**record["corpus"]), "results": results,
            "history": tuple(Point(**point) for point in record["history"]),
        }  # fmt: skip
        return cls(**{**record, **typed})

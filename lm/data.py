"""The text a model learns from: bytes of whole files, split by file, with a document mark before each.

The default corpus is the source of the Python standard library that runs the program: real text, long files,
nothing to download. `read_corpus(path)` takes a file or a folder of text instead. Tokens are the 256 bytes
plus DOCUMENT_MARK; a split's stream is mark, file, mark, file, ...

How files are split: a file belongs to train, validation or test (90 : 5 : 5) by a hash of its relative path,
so that adding a file moves no other. Where that leaves a split empty (one file, or a handful) every file is
cut instead: its first 90 % for training, the next 5 % for validation, the last 5 % for test.
"""

import hashlib
import lzma
import math
import os
import platform
import sysconfig
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lm.model import DOCUMENT_MARK

SPLITS = {"train": 0.90, "validation": 0.95, "test": 1.00}  # name: where it ends on [0, 1]

# Test data and tables teach a model little; the last two differ between machines with the same Python.
LEFT_OUT = [
    "test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "encodings",
    "pydoc_data/topics.py", "_sysconfigdata*", "config-*",
]  # fmt: skip
LEAST_LIBRARY = 1_000_000  # bytes; a standard library with less source than this has been stripped


class DataError(Exception):
    """The text cannot be used; the message says why and what would do."""


@dataclass(frozen=True)
class Document:
    """One file: its path relative to the corpus, and its bytes."""

    path: str
    data: bytes

    def tokens(self) -> Tensor:
        """The document mark, then the bytes: int16 [1 + len(data)], a quarter of what int64 would take."""
        mark = np.array([DOCUMENT_MARK], dtype=np.int16)
        return torch.from_numpy(np.concatenate([mark, np.frombuffer(self.data, dtype=np.uint8)]))


class Corpus:
    """Documents in three splits.

    >>> corpus = Corpus("example", [Document("a.txt", b"0123456789" * 10)])
    >>> {split: len(corpus.stream(split)) for split in SPLITS}     # one mark each, and 90, 5 and 5 bytes
    {'train': 91, 'validation': 6, 'test': 6}
    """

    def __init__(self, name: str, documents: list[Document]):
        self.name = name
        self.documents = sorted(documents, key=lambda document: document.path)
        self.splits = _by_file(self.documents)
        if not all(self.splits.values()):
            self.splits = _by_position(self.documents)

    @cached_property
    def manifest_hash(self) -> str:
        """16 hexadecimal digits that change with any path or any byte."""
        lines = (f"{hashlib.sha256(d.data).hexdigest()} {d.path}\n" for d in self.documents)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def description(self) -> dict:
        """What a result must carry for two of them to be comparable (losses of two hashes are not)."""
        return {
            "name": self.name,
            "manifest_hash": self.manifest_hash,
            "python": platform.python_version(),
            "files": len(self.documents),
            "bytes": sum(len(d.data) for d in self.documents),
        }

    def summary(self) -> str:
        """One line for people: the name, its size and what the splits hold."""
        files = ", ".join(f"{len(documents)} {split}" for split, documents in self.splits.items())
        size = sum(len(document.data) for document in self.documents)
        return f"{self.name}: {size / 1e6:.1f} MB, files: {files} (manifest {self.manifest_hash})"

    def text(self, split: str) -> bytes:
        """All files of a split, one after the other."""
        return b"".join(document.data for document in self.splits[split])

    def stream(self, split: str, at_least: int = 1) -> Tensor:
        """All tokens of a split, int16 [N]; a DataError where there are fewer than at_least."""
        stream = torch.cat([document.tokens() for document in self.splits[split]])
        if len(stream) < at_least:
            raise DataError(
                f"{self.name}: {len(stream):,} tokens in the {split} split, at least {at_least:,} are needed;"
                " give more text or a shorter --length"
            )
        return stream


def read_corpus(path: str | Path | None = None) -> Corpus:
    """The standard library of this Python, or the text at a path (a file, or a folder and all below it).

    Text is what decodes as UTF-8 and holds no zero byte. Left out of a folder are other files, hidden ones
    (their name or a folder's starts with a dot) and exact copies (one could land in two splits).
    DataError: nothing at the path, no text there, or a standard library without its sources.
    """
    if path is None:
        return _standard_library(Path(sysconfig.get_path("stdlib")))
    root = Path(path)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    found = [root] if root.is_file() else _walk(root, [".*"])
    documents = _read(found, root if root.is_dir() else root.parent)
    if not documents:
        what = "not UTF-8 text, or empty" if root.is_file() else f"no UTF-8 text in any of its {len(found)} files"
        raise DataError(f"{root}: {what}")
    return Corpus(root.resolve().name, documents)


def sample_batch(stream: Tensor, batch: int, length: int, seed: int, step: int) -> Tensor:
    """Random windows of a stream, int64 [batch, length + 1]: one more than is predicted.

    A pure function of (seed, step), so a resumed run sees what an uninterrupted one would have seen.
    """
    starts = np.random.default_rng([seed, step]).integers(0, len(stream) - length, size=batch)
    return torch.stack([stream[start : start + length + 1] for start in starts.tolist()]).long()


def even_windows(stream: Tensor, count: int, length: int) -> Tensor:
    """At most `count` windows that do not overlap, spread evenly: int64 [N, length + 1]."""
    count = min(count, (len(stream) - 1) // length)
    starts = torch.linspace(0, len(stream) - length - 1, count).long().tolist()
    return torch.stack([stream[start : start + length + 1] for start in starts]).long()


def reference_lines(data: bytes) -> dict[str, float]:
    """What needs no learning reaches on this text, in bits per byte: byte frequencies alone, zlib and xz.

    >>> {name: round(bits, 2) for name, bits in reference_lines(b"ab" * 4000).items()}
    {'order-0 entropy': 1.0, 'zlib -9': 0.03, 'xz -9': 0.11}
    """
    shares = [count / len(data) for count in Counter(data).values()]
    return {
        "order-0 entropy": -sum(share * math.log2(share) for share in shares),
        "zlib -9": 8 * len(zlib.compress(data, 9)) / len(data),
        "xz -9": 8 * len(lzma.compress(data, preset=9)) / len(data),
    }


def _standard_library(root: Path) -> Corpus:
    name = f"standard library of Python {platform.python_version()}"
    documents = _read(_walk(root, LEFT_OUT, ".py"), root) if root.is_dir() else []
    size = sum(len(document.data) for document in documents)
    if size < LEAST_LIBRARY:
        raise DataError(f"{name}: {root} holds only {size:,} bytes of source: give a text with --text")
    return Corpus(name, documents)


def _walk(root: Path, left_out: list[str], suffix: str = "") -> list[Path]:
    """Files below a folder that end in suffix, less the names and relative paths that match left_out."""
    found = []
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        kept = {
            name
            for name in [*subfolders, *names]
            if not any((here / name).relative_to(root).match(pattern) for pattern in left_out)
        }
        subfolders[:] = sorted(kept.intersection(subfolders))
        found += [here / name for name in sorted(kept.intersection(names)) if name.endswith(suffix)]
    return found


def _read(paths: list[Path], root: Path) -> list[Document]:
    first_with = {}
    for path in paths:
        if path.is_file() and _is_text(data := path.read_bytes()):
            first_with.setdefault(data, path.relative_to(root).as_posix())
    return [Document(path, data) for data, path in first_with.items()]


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return bool(data) and b"\0" not in data


def _by_file(documents: list[Document]) -> dict[str, list[Document]]:
    splits = {split: [] for split in SPLITS}
    for document in documents:
        digest = hashlib.sha256(document.path.encode("utf-8", "surrogateescape")).digest()
        place = int.from_bytes(digest[:4], "big") / 2**32
        splits[next(split for split, end in SPLITS.items() if place < end)].append(document)
    return splits


def _by_position(documents: list[Document]) -> dict[str, list[Document]]:
    splits, start = {}, 0.0
    for split, end in SPLITS.items():
        cuts = [(d.path, d.data[round(start * len(d.data)) : round(end * len(d.data))]) for d in documents]
        splits[split] = [Document(path, data) for path, data in cuts if data]
        start = end
    return splits

"""The text a model learns from: bytes of whole files, split by file, with a document mark before each.

The default corpus is the source of the Python standard library that runs the program: real text, long files,
nothing to download. `read_corpus(path)` takes a file or a folder of text instead. Tokens are the 256 bytes
plus DOCUMENT_MARK; a split's stream is mark, file, mark, file, ...

How files are split: a file belongs to train, validation or test (90 : 5 : 5) by a hash of its relative path,
so that adding a file moves no other. Where that leaves a split empty (one file, or a handful) every file is
cut instead: its first 90 % for training, the next 5 % for validation, the last 5 % for test.

What this project writes is never text: a run that read its own checkpoints would not find its text again.
"""

import hashlib
import lzma
import math
import os
import platform
import stat
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lm import checkpoint
from lm.model import DOCUMENT_MARK
from lm.run import Description

SPLITS = {"train": 0.90, "validation": 0.95, "test": 1.00}  # name: where it ends on [0, 1]

# Test data and tables teach a model little; the last two differ between machines with the same Python.
LEFT_OUT = [
    "test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "encodings",
    "pydoc_data/topics.py", "_sysconfigdata*", "config-*",
]  # fmt: skip
LEAST_LIBRARY = 1_000_000  # bytes; a standard library with less source than this has been stripped

NEEDED = "--text takes a file or folder of UTF-8 text"


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

    def __init__(self, name: str, documents: list[Document], left_out: dict[str, int] | None = None):
        self.name = name
        self.left_out = left_out or {}  # by kind, how many files and folders are no part of it
        self.documents = sorted(documents, key=lambda document: document.path)
        self.splits = _by_file(self.documents)
        if not all(self.splits.values()):
            self.splits = _by_position(self.documents)

    @cached_property
    def manifest(self) -> dict[str, str]:
        """The SHA-256 of every file, by path."""
        return {document.path: hashlib.sha256(document.data).hexdigest() for document in self.documents}

    @cached_property
    def manifest_hash(self) -> str:
        """16 hexadecimal digits that change with any path or any byte."""
        lines = (f"{digest} {path}\n" for path, digest in self.manifest.items())
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def changes(self, manifest: dict[str, str]) -> str:
        """What was added to, is gone from or is different in an earlier manifest; nothing for the same text.

        >>> corpus = Corpus("now", [Document("a.txt", b"as it was"), Document("new.txt", b"!")])
        >>> corpus.changes({"a.txt": corpus.manifest["a.txt"], "b.txt": "0"})
        'added: new.txt; gone: b.txt'
        """
        if len(manifest) == 1 and list(manifest.values()) == list(self.manifest.values()):
            return ""  # the name of a single file changes nothing: neither its bytes nor where they are cut
        kinds = {
            "added": self.manifest.keys() - manifest.keys(),
            "gone": manifest.keys() - self.manifest.keys(),
            "different": {path for path, digest in self.manifest.items() if manifest.get(path, digest) != digest},
        }
        return "; ".join(f"{kind}: {_some(paths)}" for kind, paths in kinds.items() if paths)

    def description(self) -> Description:
        size = sum(len(document.data) for document in self.documents)
        return Description(self.name, self.manifest_hash, platform.python_version(), len(self.documents), size)

    def summary(self) -> str:
        """One line for people: the name, its size, what the splits hold, and what was left out."""
        files = ", ".join(f"{len(documents)} {split}" for split, documents in self.splits.items())
        size = sum(len(document.data) for document in self.documents)
        left_out = f", left out: {_counts(self.left_out)}" if self.left_out else ""
        return f"{self.name}: {size / 1e6:.1f} MB, files: {files} (manifest {self.manifest_hash}){left_out}"

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


def read_corpus(path: str | Path | None = None, out: str | Path | None = None) -> Corpus:
    """The standard library of this Python, or the text at a path (a file, or a folder and all below it).

    Text is what decodes as UTF-8 and holds no zero byte. Left out of a folder, and counted by kind, are other files,
    what cannot be read, hidden names (they start with a dot), linked folders, exact copies (one could land in two
    splits), results and folders of runs. `out` is the folder that a run will be written to: no text either.
    DataError: nothing at the path, no text there, or a standard library without its sources.
    """
    if path is None:
        return _standard_library(Path(sysconfig.get_path("stdlib")))
    root = Path(path)
    is_file = _is_file(root)
    if not is_file and _is_run(root, out):
        raise DataError(f"{root}: a run is written there, which is never text: --text names another folder than --out")
    left_out = Counter()
    found = [root] if is_file else _walk(root, lambda path: _unwanted(path, out), left_out)
    documents = _read(found, root.parent if is_file else root, left_out)
    if not documents:
        what = next(iter(left_out)) if is_file else f"no UTF-8 text in any of its {len(found)} files"
        why = f" (left out: {_counts(left_out)})" if left_out and not is_file else ""
        raise DataError(f"{root}: {what}{why}; {NEEDED}")
    return Corpus(root.resolve().name, documents, left_out)


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
    def unwanted(path: Path) -> str | None:
        chosen = not any(path.relative_to(root).match(pattern) for pattern in LEFT_OUT)
        return None if chosen and (path.suffix == ".py" or os.path.isdir(path)) else "not chosen"

    name = f"standard library of Python {platform.python_version()}"
    left_out = Counter()
    documents = _read(_walk(root, unwanted, left_out), root, left_out)
    size = sum(len(document.data) for document in documents)
    if size < LEAST_LIBRARY:
        raise DataError(f"{name}: {root} holds only {size:,} bytes of source: give a text with --text")
    return Corpus(name, documents, {kind: left_out[kind] for kind in ("not UTF-8", "unreadable") if left_out[kind]})


def _is_file(root: Path) -> bool:
    """Whether a text is one file or a folder; a DataError for anything else (a pipe can be read only once)."""
    try:
        mode = root.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise DataError(f"{root}: {'no such file or folder' if missing else error.strerror}; {NEEDED}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise DataError(f"{root}: {kinds.get(stat.S_IFMT(mode), 'a device')}; {NEEDED}")
    return stat.S_ISREG(mode)


def _is_run(folder: Path, out: str | Path | None) -> bool:
    return checkpoint.holds_run(folder) or (out is not None and folder.resolve() == Path(out).resolve())


def _unwanted(path: Path, out: str | Path | None) -> str | None:
    """Why a name below a folder of text is left out, if it is."""
    if path.name.startswith("."):
        return "hidden"
    if os.path.isdir(path):  # Path.is_dir raises where the folder above may be listed but not entered
        return "linked folders" if os.path.islink(path) else "runs" if _is_run(path, out) else None
    return None


def _walk(root: Path, unwanted: Callable[[Path], str | None], left_out: Counter) -> list[Path]:
    """Files below a folder; counts the folders that cannot be read and what `unwanted` names a kind for."""
    found = []
    for folder, subfolders, names in os.walk(root, onerror=lambda _: left_out.update(["unreadable"])):
        kinds = {name: unwanted(Path(folder, name)) for name in (*subfolders, *names)}
        left_out.update(kind for kind in kinds.values() if kind)
        subfolders[:] = sorted(name for name in subfolders if not kinds[name])
        found += [Path(folder, name) for name in sorted(names) if not kinds[name]]
    return found


def _read(paths: list[Path], root: Path, left_out: Counter) -> list[Document]:
    first_with = {}
    for path in paths:
        try:
            data = path.read_bytes() if path.is_file() else None  # a pipe would be waited for
        except OSError:
            data = None
        if kind := "copies" if data in first_with else _no_text(path, data):
            left_out[kind] += 1
        else:
            first_with[data] = path.relative_to(root).as_posix()
    return [Document(path, data) for data, path in first_with.items()]


def _no_text(path: Path, data: bytes | None) -> str | None:
    """What a file is that is no text to learn from."""
    if data is None:
        return "unreadable"
    if not data:
        return "empty"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if b"\0" in data:
        return "with zero bytes"
    if path.suffix == ".json" and b'"manifest_hash"' in data:  # it names the corpus, so it cannot be a part of it
        return "results of runs"
    return None


def _counts(left_out: dict[str, int]) -> str:
    return ", ".join(f"{kind} {left_out[kind]:,}" for kind in sorted(left_out))


def _some(paths: set[str], most: int = 3) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(sorted(paths)[:most]) + more


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

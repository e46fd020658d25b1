"""The corpus: what is read, how it is split, and what is said when it cannot be used."""

import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from lm import data
from lm.data import Corpus, DataError, Document, even_windows, read_corpus, reference_lines, sample_batch
from lm.model import DOCUMENT_MARK


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def many(tmp_path):
    return write(tmp_path / "many", {f"part{i % 5}/{i}.txt": b"file %d, " % i * (i + 20) for i in range(200)})


def test_standard_library_is_read_without_tests_and_tables():
    corpus = read_corpus()
    paths = [document.path for document in corpus.documents]
    assert "argparse.py" in paths and "json/decoder.py" in paths
    assert not [p for p in paths if set(p.split("/")) & {"test", "tests", "site-packages", "idlelib", "encodings"}]
    assert not [p for p in paths if p.startswith(("_sysconfigdata", "config-")) or p == "pydoc_data/topics.py"]
    assert all(path.endswith(".py") for path in paths)
    library = Path(sysconfig.get_path("stdlib"), "argparse.py")
    assert library.read_bytes() in [document.data for document in corpus.documents]
    assert corpus.description()["python"] == sys.version.split()[0]
    assert all(corpus.splits.values())


def test_whole_files_are_split_by_their_path_alone(many):
    before = read_corpus(many)
    names = {split: {d.path for d in documents} for split, documents in before.splits.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 200
    assert 160 < len(names["train"]) < 195 and names["validation"] and names["test"]
    write(many, {"another.txt": b"more", "part0/0.txt": b"changed"})
    after = read_corpus(many)
    for split, was in names.items():
        assert {d.path for d in after.splits[split]} - {"another.txt"} == was


def test_the_hash_changes_with_any_name_or_byte_and_nothing_else(many):
    first = read_corpus(many).manifest_hash
    assert first == read_corpus(many).manifest_hash == Corpus("x", read_corpus(many).documents[::-1]).manifest_hash
    (many / "part1/1.txt").rename(many / "part1/one.txt")
    renamed = read_corpus(many).manifest_hash
    (many / "part1/one.txt").write_bytes(b"!")
    assert len({first, renamed, read_corpus(many).manifest_hash}) == 3
    assert len({Corpus("x", [Document(path, b"same")]).manifest_hash for path in "ab"}) == 2


def test_a_single_file_is_cut_in_order(tmp_path):
    content = bytes(range(32, 127)) * 20
    corpus = read_corpus(write(tmp_path, {"one.txt": content}) / "one.txt")
    parts = [corpus.text(split) for split in ("train", "validation", "test")]
    assert b"".join(parts) == content
    assert [len(part) for part in parts] == [1710, 95, 95]


def test_a_few_files_are_each_cut(tmp_path):
    files = {f"{i}.txt": b"%d" % i * 100 for i in range(3)}
    corpus = read_corpus(write(tmp_path, files))
    assert {split: [len(d.data) for d in ds] for split, ds in corpus.splits.items()} == {
        "train": [90] * 3, "validation": [5] * 3, "test": [5] * 3,
    }  # fmt: skip


def test_what_is_no_text_is_left_out(tmp_path):
    good = {"a.txt": b"plain", "b.txt": "naïve".encode(), "sub/c.txt": b"deep"}
    bad = {"zero.bin": b"a\0b", "latin.txt": b"na\xefve", "empty.txt": b"", ".hidden": b"x", ".git/config": b"y"}
    copy = {"z-copy.txt": b"plain"}
    documents = read_corpus(write(tmp_path, good | bad | copy)).documents
    assert [document.path for document in documents] == ["a.txt", "b.txt", "sub/c.txt"]


def test_stream_is_mark_and_bytes_of_every_file():
    corpus = Corpus("x", [Document("b", b"\xff\x00"), Document("a", b"hi")])
    corpus.splits["train"] = corpus.documents
    assert corpus.stream("train").tolist() == [DOCUMENT_MARK, 104, 105, DOCUMENT_MARK, 255, 0]


@pytest.mark.parametrize(
    ("files", "at", "message"),
    [
        ({}, "nothing", "no such file or folder"),
        ({}, "", "no UTF-8 text in any of its 0 files"),
        ({"a.bin": b"\0", "b.png": b"\x89PNG\xff"}, "", "no UTF-8 text in any of its 2 files"),
        ({"a.bin": b"\0"}, "a.bin", "not UTF-8 text, or empty"),
        ({"a.txt": b""}, "a.txt", "not UTF-8 text, or empty"),
    ],
)
def test_unusable_text_is_named(tmp_path, files, at, message):
    path = write(tmp_path, files) / at
    with pytest.raises(DataError, match=message) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)


def test_text_shorter_than_the_context_says_how_short(tmp_path):
    corpus = read_corpus(write(tmp_path, {"a.txt": b"x" * 100}))
    with pytest.raises(DataError, match=r"91 tokens in the train split, at least 257 are needed.*--length"):
        corpus.stream("train", at_least=257)


def test_a_stripped_standard_library_asks_for_text(tmp_path, monkeypatch):
    write(tmp_path, {"os.py": b"import sys"})
    for stripped in (tmp_path, tmp_path / "python311.zip"):
        monkeypatch.setattr(data.sysconfig, "get_path", lambda name, at=stripped: str(at))
        with pytest.raises(DataError, match=r"bytes of source: give a text with --text"):
            read_corpus()


def test_batches_depend_on_seed_and_step_alone():
    stream = torch.arange(1000, dtype=torch.int16)
    batch = sample_batch(stream, 8, 16, seed=3, step=7)
    assert batch.shape == (8, 17) and batch.dtype == torch.int64
    assert (batch.diff(dim=1) == 1).all()
    torch.manual_seed(1)
    assert batch.equal(sample_batch(stream, 8, 16, seed=3, step=7))
    for seed, step in ((3, 8), (4, 7), (7, 3)):
        assert not batch.equal(sample_batch(stream, 8, 16, seed=seed, step=step))


def test_batches_reach_both_ends_of_the_stream():
    starts = torch.cat([sample_batch(torch.arange(10), 64, 6, 0, step)[:, 0] for step in range(4)])
    assert starts.unique().tolist() == [0, 1, 2, 3]
    assert sample_batch(torch.arange(7), 4, 6, 0, 0).tolist() == [list(range(7))] * 4


@pytest.mark.parametrize(("size", "count", "starts"), [(7, 5, [0]), (14, 5, [0, 7]), (101, 3, [0, 47, 94])])
def test_even_windows_do_not_overlap(size, count, starts):
    windows = even_windows(torch.arange(size, dtype=torch.int16), count, 6)
    assert windows[:, 0].tolist() == starts
    assert (windows.diff(dim=1) == 1).all() and windows.shape[1] == 7


def test_reference_lines_know_easy_from_hard():
    noise = torch.randint(0, 256, (20_000,), dtype=torch.uint8).numpy().tobytes()
    assert all(7.9 < bits < 8.1 for bits in reference_lines(noise).values())
    assert reference_lines(b"a" * 5000)["order-0 entropy"] == 0

"""The corpus: what is read, how it is split, and what is said when it cannot be used."""

import os
import socket
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
    assert corpus.description().python == sys.version.split()[0]
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


def test_what_is_no_text_is_left_out_and_counted(tmp_path):
    good = {"a.txt": b"plain", "b.txt": "naïve".encode(), "sub/c.txt": b"deep", "d.json": b'{"manifest": 1}'}
    bad = {
        "hidden": {".hidden": b"x", ".git/config": b"y"},
        "not UTF-8": {"latin.txt": b"na\xefve", "utf-16.txt": "text".encode("utf-16")},
        "with zero bytes": {"zero.bin": b"a\0b"},
        "empty": {"empty.txt": b""},
        "copies": {"z-copy.txt": b"plain", "sub/z.txt": b"plain"},
        "results of runs": {"length.json": b'{"corpus": {"manifest_hash": "0"}}'},
        "runs": {"out/fm/step-00000003/run.json": b"{}", "published/fm/run.json": b"{}"},
    }
    folder = write(tmp_path / "text", good.copy())
    for files in bad.values():
        write(folder, files)
    write(folder, {"out/fm/notes.txt": b"beside a run", "published/fm/model.safetensors": b"w", "--out/a.txt": b"here"})
    (folder / "linked").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "broken").symlink_to("nowhere")
    corpus = read_corpus(folder, folder / "--out")
    assert [document.path for document in corpus.documents] == sorted(good)
    counts = {kind: len(files) for kind, files in bad.items()} | {"linked folders": 1, "unreadable": 1, "runs": 3}
    assert corpus.left_out == counts
    assert corpus.summary().endswith(
        "), left out: copies 2, empty 1, hidden 2, linked folders 1, not UTF-8 2, results of runs 1, runs 3,"
        " unreadable 1, with zero bytes 1"
    )


def test_a_file_and_a_folder_that_cannot_be_read_are_alike(tmp_path, monkeypatch):
    """Whoever is root reads everything, so the refusal is made up."""
    folder = write(tmp_path, {"open.txt": b"open", "shut.txt": b"no", "shut/a.txt": b"no", "shut/b.txt": b"no"})
    real = {"scandir": os.scandir, "read_bytes": Path.read_bytes}

    def refusing(name):
        def read(path):
            if Path(path).stem == "shut":
                raise PermissionError(13, "Permission denied", str(path))
            return real[name](path)

        return read

    monkeypatch.setattr(os, "scandir", refusing("scandir"))
    monkeypatch.setattr(Path, "read_bytes", refusing("read_bytes"))
    corpus = read_corpus(folder)
    assert [document.path for document in corpus.documents] == ["open.txt"] and corpus.left_out == {"unreadable": 2}
    with pytest.raises(DataError, match=r"shut.txt: unreadable; --text takes a file or folder of UTF-8 text"):
        read_corpus(folder / "shut.txt")
    with pytest.raises(DataError, match=r"shut: no UTF-8 text in any of its 0 files \(left out: unreadable 1\)"):
        read_corpus(folder / "shut")


def test_a_folder_that_may_be_listed_but_not_entered(tmp_path):
    folder = write(tmp_path, {"open.txt": b"open", "shut/a.txt": b"no", "shut/sub/b.txt": b"no"})
    (folder / "shut").chmod(0o600)
    try:
        if os.path.exists(folder / "shut" / "a.txt"):
            pytest.skip("permissions do not stop this user")
        corpus = read_corpus(folder)
    finally:
        (folder / "shut").chmod(0o700)
    assert [document.path for document in corpus.documents] == ["open.txt"] and corpus.left_out["unreadable"] >= 2


def test_the_library_counts_what_nobody_chose_to_leave_out(tmp_path, monkeypatch):
    files = {"a.py": b"#", "b.py": b"# \xef", "empty.py": b"", "c.txt": b"c", "test/d.py": b"d"}
    monkeypatch.setattr(data, "LEAST_LIBRARY", 1)
    monkeypatch.setattr(data.sysconfig, "get_path", lambda name: str(write(tmp_path, files)))
    corpus = read_corpus()
    assert [document.path for document in corpus.documents] == ["a.py"] and corpus.left_out == {"not UTF-8": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_what_is_neither_file_nor_folder_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path must be short
        try:
            opened.bind("socket")
        finally:
            os.chdir(here)
        for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "socket", "a socket"), ("/dev/null", "a device")):
            with pytest.raises(DataError, match=rf"^{path}: {kind}; --text takes a file or folder of UTF-8 text$"):
                read_corpus(path)
        write(tmp_path, {"a.txt": b"text"})
        assert read_corpus(tmp_path).left_out == {"unreadable": 2}  # and it did not wait for somebody to write


def test_a_run_is_no_text(tmp_path):
    folder = write(tmp_path, {"a.txt": b"mine", "run/step-00000001/run.json": b"{}", "run/notes.txt": b"mine"})
    for path, out in ((folder, folder), (folder / "run", None), (folder / "run", folder)):
        with pytest.raises(
            DataError, match=r"a run is written there, which is never text: --text names another folder"
        ):
            read_corpus(path, out)
    for out in (None, folder / "run", folder / "elsewhere"):
        assert [document.path for document in read_corpus(folder, out).documents] == ["a.txt"]
    assert read_corpus(folder / "a.txt", folder).text("train")  # one file may lie where the run goes


def test_changes_name_what_is_not_as_it_was(many):
    before = read_corpus(many)
    assert before.changes(before.manifest) == ""
    (many / "part1/1.txt").rename(many / "part1/one.txt")
    write(many, {"part2/2.txt": b"!", "part2/7.txt": b"?"})
    after = read_corpus(many)
    assert (
        after.changes(before.manifest) == "added: part1/one.txt; gone: part1/1.txt; different: part2/2.txt, part2/7.txt"
    )
    assert before.changes({}) == "added: part0/0.txt, part0/10.txt, part0/100.txt and 197 more"
    one, other = (Corpus("x", [Document(name, b"same")]) for name in "ab")
    assert one.changes(other.manifest) == "" != Corpus("x", [Document("a", b"?")]).changes(other.manifest)


def test_stream_is_mark_and_bytes_of_every_file():
    corpus = Corpus("x", [Document("b", b"\xff\x00"), Document("a", b"hi")])
    corpus.splits["train"] = corpus.documents
    assert corpus.stream("train").tolist() == [DOCUMENT_MARK, 104, 105, DOCUMENT_MARK, 255, 0]


@pytest.mark.parametrize(
    ("files", "at", "message"),
    [
        ({}, "nothing", "no such file or folder; --text takes a file or folder of UTF-8 text"),
        ({"a.txt": b"text"}, "a.txt/b", "no such file or folder; --text takes"),
        ({}, "", "no UTF-8 text in any of its 0 files"),
        (
            {"a.bin": b"\0", "b.png": b"\x89PNG\xff"},
            "",
            r"no UTF-8 text in any of its 2 files \(left out: not UTF-8 1, with",
        ),
        ({"a.bin": b"\0"}, "a.bin", "with zero bytes; --text takes"),
        ({"a.txt": b"\xff"}, "a.txt", "not UTF-8; --text takes"),
        ({"a.txt": b""}, "a.txt", "empty; --text takes"),
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

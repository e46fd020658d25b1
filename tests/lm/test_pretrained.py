"""The bundled models: how they are made, and that each is what its numbers say."""

import json
import sys
from pathlib import Path

import pytest
import torch

from lm import checkpoint, cli, pretrained
from lm.data import Document, read_corpus
from lm.evaluate import document_loss

SMALL = ["--width", "16", "--layers", "1", "--steps", "3", "--batch", "2", "--length", "16", "--quiet"]
every_model = pytest.mark.parametrize("name", pretrained.names())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 60)
    return str(path)


@pytest.fixture
def folder(text, tmp_path, monkeypatch):
    """A run, published where no model was before."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
    run = str(tmp_path / "run")
    options = ["--mixer", "fm", "--slots", "4", "--text", text, "--out", run]
    assert cli.main(["train", *SMALL, *options]) == 0
    where = ["--context", "32", "--text", text, "--folder", str(tmp_path / "models")]
    assert cli.main(["publish", run, "small", *where]) == 0
    return tmp_path


def test_a_published_model_is_the_run_rounded_with_its_numbers(folder, text):
    path = pretrained.find("small")
    model, whole = checkpoint.read_model(path), checkpoint.read_model(checkpoint.latest(folder / "run"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.half().float()), name
    run = checkpoint.read_run(path)
    assert run.results.license == document_loss(model, Document("LICENSE", pretrained.license_text()))
    (document,) = read_corpus(text).splits["test"]
    assert run.results.files == {"fox.txt": document_loss(model, document)}
    assert run.results.stateful.last[-1] == 32 and run.text is None and run.manifest is None
    assert run.results.stateful != run.results.reset
    assert "manifest" not in json.loads((path / "run.json").read_bytes())
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "run.json"]


def test_publishing_again_replaces(folder, text):
    where = ["--context", "16", "--text", text, "--folder", str(folder / "models")]
    (folder / "models" / ".small.part").mkdir()  # of a call that was killed
    assert cli.main(["publish", str(folder / "run"), "small", *where]) == 0
    assert checkpoint.read_run(pretrained.find("small")).results.stateful.last[-1] == 16
    assert sorted(path.name for path in (folder / "models").iterdir()) == [".lock", "small"]


def test_a_folder_that_is_no_model_is_not_replaced(folder, text, capsys):
    note = folder / "models" / "notes" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine", encoding="utf-8")
    where = ["--context", "16", "--text", text, "--folder", str(folder / "models")]
    assert cli.main(["publish", str(folder / "run"), "notes", *where]) == 2
    assert "notes is no model and would be replaced: give another NAME" in capsys.readouterr().err
    assert note.read_text(encoding="utf-8") == "mine"


def test_commands_find_a_bundled_model_by_name_and_all_by_default(folder, text, capsys):
    assert cli.main(["generate", "small", "--length", "5"]) == 0
    assert "5 tokens" in capsys.readouterr().err
    out = ["--context", "32", "--text", text, "--out", str(folder / "out")]
    assert cli.main(["evaluate", *out]) == 0
    assert list(json.loads((folder / "out" / "length.json").read_text(encoding="utf-8"))["stateful"]) == ["fm"]


def test_a_name_is_a_model_and_a_path_is_a_folder(folder, monkeypatch, capsys):
    """Whatever folders there are, with or without a run in them; and no run is ever gone on with by a model's name."""
    monkeypatch.chdir(folder)
    (folder / "small").mkdir()
    bundled, run = folder / "models" / "small", folder / "run"
    assert pretrained.find("small") == bundled
    with pytest.raises(checkpoint.CheckpointError, match=r"small: no checkpoint there .*; bundled models: small"):
        pretrained.find("./small")
    with pytest.raises(checkpoint.CheckpointError, match="small: no checkpoint there"):
        checkpoint.latest("small")
    assert cli.main(["generate", "small", "--length", "5"]) == 0
    assert "bundled" not in capsys.readouterr().err
    (folder / "small").rmdir()
    run.rename(folder / "small")
    assert pretrained.find("small") == bundled and pretrained.find("./small").resolve() == folder / "small"
    assert cli.main(["generate", "small", "--length", "5"]) == 0
    assert "small is the bundled model; ./small is the run in the folder" in capsys.readouterr().err


def test_the_licence_is_the_same_text_in_a_clone_and_in_a_package(tmp_path, monkeypatch):
    want = pretrained.license_text()
    assert want == (Path(__file__).parents[2] / "LICENSE").read_bytes().replace(b"\r\n", b"\n")
    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "lm" / "pretrained.py"))
    (tmp_path / "LICENSE").write_text("of some other package", encoding="utf-8")
    info = tmp_path / "factorization_memory-0.1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: factorization-memory\nVersion: 0.1.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(checkpoint.CheckpointError, match="neither in a clone nor installed"):
        pretrained.license_text()
    (info / "licenses" / "LICENSE").write_bytes(want)
    assert pretrained.license_text() == want


def test_a_published_model_reads_the_library_of_any_python(folder, capsys):
    options = ["--context", "64", "--per-file", "1", "--out", str(folder / "out")]
    assert cli.main(["evaluate", *options]) == 0
    assert "trained on fox.txt, measured on standard library of Python" in capsys.readouterr().out


def test_without_models_evaluate_asks_for_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    assert cli.main(["evaluate"]) == 2
    assert "no model is bundled: name the folder of a run" in capsys.readouterr().err


@every_model
def test_a_bundled_model_is_small_and_reads_as_its_numbers_say(name):
    path = pretrained.find(name)
    assert sum(file.stat().st_size for file in path.iterdir()) < 2e6
    run, model = pretrained.load(name)
    loss = document_loss(model, Document("LICENSE", pretrained.license_text()))
    assert loss == pytest.approx(run.results.license, abs=1e-3)
    corpus = read_corpus()
    if corpus.manifest_hash == run.corpus.manifest_hash:  # losses of two Python versions are not compared
        for document in corpus.splits["test"]:
            if document.path in run.results.files:
                expected = run.results.files[document.path]
                assert document_loss(model, document) == pytest.approx(expected, abs=1e-3), document.path

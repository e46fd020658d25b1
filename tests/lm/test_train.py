"""Training: the same bits after a stop and a start, whole checkpoints or none, and stops that say where they are."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layers import MIXERS
from lm import checkpoint, loss, train
from lm.checkpoint import CheckpointError, checkpoints, latest, read_model, read_run
from lm.data import Corpus, DataError, Document, sample_batch
from lm.model import Config, LanguageModel
from lm.run import Run, Settings
from lm.train import Diverged

SMALL = {"d_model": 16, "num_layers": 1, "head_width": 8, "state_width": 4, "num_slots": 4, "top_k": 2}
SMALL |= {"router_noise": 0.1}  # drawn anew in every step, the same after a resume
SETTINGS = Settings(steps=6, batch=2, length=16, warmup=2, evaluate_every=2)
pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.fixture(scope="module")
def corpus():
    text = b"the quick brown fox jumps over the lazy dog. " * 40
    return Corpus("foxes", [Document("fox.txt", text)])


def run(corpus, folder, mixer="fm-sparse", settings=SETTINGS, **options):
    return train.train(Config.lenient(mixer, **SMALL), settings, corpus, folder, quiet=True, **options)


def interrupt_at(monkeypatch, step):
    """Send this process what Ctrl-C sends, during one step."""
    update, steps = train.update, iter(range(10_000))

    def interrupting(*args):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return update(*args)

    monkeypatch.setattr(train, "update", interrupting)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_resumed_run_ends_in_the_same_bits(corpus, tmp_path, monkeypatch, mixer):
    settings = dataclasses.replace(SETTINGS, burn_in=5)
    whole = run(corpus, tmp_path / "whole", mixer, settings)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)  # the third step: the held-out loss is due after the second and the fourth
        with pytest.raises(KeyboardInterrupt, match=r"stopped at step 3, saved .*step-00000003; --resume continues"):
            run(corpus, tmp_path / "parts", mixer, settings)
    torch.manual_seed(99)
    torch.rand(5)  # the state of the generator must come from the checkpoint
    resumed = train.resume(tmp_path / "parts", corpus, quiet=True)
    for name, weight in whole.state_dict().items():
        assert weight.equal(resumed.state_dict()[name]), name
    files = [latest(tmp_path / part) for part in ("whole", "parts")]
    for name in ("model.safetensors", "training.safetensors"):
        assert len({(file / name).read_bytes() for file in files}) == 1, name
    records = [dataclasses.replace(read_run(file), seconds=0.0) for file in files]
    assert records[0] == records[1]
    assert [point.step for point in records[0].history] == [2, 4, 6]


def test_a_run_repeats_and_its_seed_matters(corpus, tmp_path):
    first, again = run(corpus, tmp_path / "a"), run(corpus, tmp_path / "b")
    other = run(corpus, tmp_path / "c", settings=dataclasses.replace(SETTINGS, seed=1))
    assert first.embedding.weight.equal(again.embedding.weight)
    assert not first.embedding.weight.equal(other.embedding.weight)


@pytest.mark.parametrize("mixer", MIXERS)
def test_training_learns(corpus, tmp_path, mixer):
    run(corpus, tmp_path, mixer, Settings(steps=40, batch=4, length=32, lr=1e-2, warmup=0, evaluate_every=40))
    loss = read_run(latest(tmp_path)).history[-1].held_out
    assert loss < 5.0  # 8 bits to begin with


def test_the_record_says_what_the_run_was(corpus, tmp_path):
    run(corpus, tmp_path, text="some/text")
    record = read_run(latest(tmp_path))
    assert record.config == Config.lenient("fm-sparse", **SMALL) and record.settings == SETTINGS
    assert record.corpus == corpus.description() and record.text.endswith("/some/text")
    assert record.versions["torch"] == torch.__version__ and record.manifest == corpus.manifest
    assert record.history[-1].tokens == 6 * 2 * 16 and record.seconds > 0
    stored = json.loads((latest(tmp_path) / "run.json").read_bytes())
    assert record.to_json() == stored and Run.from_json(stored) == record
    assert stored["settings"]["burn_in"] == 0 and stored["config"]["top_k"] == 2


def test_held_out_loss_is_of_the_model_that_was_saved(corpus, tmp_path):
    run(corpus, tmp_path)
    model = read_model(latest(tmp_path))
    _, windows = train._texts(corpus, SETTINGS)
    logits, _ = model(windows[:, :-1])
    loss = -logits.log_softmax(-1).gather(-1, windows[:, 1:, None]).mean() / math.log(2)
    assert read_run(latest(tmp_path)).history[-1].held_out == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("killed_at", ["_write 1", "_write 2", "_write 3", "replace 1", "rmtree 1"])
def test_a_kill_while_saving_leaves_one_whole_checkpoint(corpus, tmp_path, monkeypatch, killed_at):
    """BaseException from every place where a save can stop; the run then goes on as if it had not."""
    name, count = killed_at.split()
    where = {"_write": checkpoint, "replace": os, "rmtree": shutil}[name]
    real, calls = getattr(where, name), []

    def dying(*args, **options):
        calls.append(args)
        if len(calls) == int(count):
            if name == "_write":
                real(args[0], args[1][: len(args[1]) // 2])
            raise SystemExit("killed")
        return real(*args, **options)

    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path)
    before = latest(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(where, name, dying)
        with pytest.raises(SystemExit, match="killed"):
            train.resume(tmp_path, corpus, quiet=True)
    now = latest(tmp_path)
    assert now == (tmp_path / "step-00000004" if name == "rmtree" else before)
    assert read_run(now).step == int(now.name.removeprefix("step-"))
    resumed = train.resume(tmp_path, corpus, quiet=True)
    assert resumed.embedding.weight.equal(run(corpus, tmp_path / "whole").embedding.weight)
    assert [path.name for path in tmp_path.glob("*step-*")] == ["step-00000006"]


def test_everything_is_synced_before_it_is_renamed(corpus, tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("sync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *args: events.append("rename") or replace(*args))
    run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, steps=1))
    assert events == ["sync"] * 4 + ["rename", "sync"]  # three files, their folder; the run's folder


def test_interrupt_twice_stops_at_once_without_saving(corpus, tmp_path, monkeypatch):
    def stuck(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def handler(signum, frame):
        raise AssertionError("the handler from before was called while a step ran")

    signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(train, "update", stuck)
    with pytest.raises(KeyboardInterrupt, match="without saving"):
        run(corpus, tmp_path)
    assert not checkpoints(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_where_an_interrupt_is_ignored_it_stays_ignored(corpus, tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_at(monkeypatch, 2)
    try:
        run(corpus, tmp_path)
    except KeyboardInterrupt as interrupt:
        pytest.fail(str(interrupt))  # for pytest an interrupt would be its own
    assert latest(tmp_path).name == "step-00000006" and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_an_interrupt_in_the_last_step_is_not_lost(corpus, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, SETTINGS.steps - 1)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6"):
        run(corpus, tmp_path)
    train.resume(tmp_path, corpus, quiet=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_checkpoint(corpus, tmp_path, monkeypatch, bad):
    real, calls = train.bits_per_byte, []

    def poisoned(model, windows, before):
        calls.append(len(windows))
        return real(model, windows, before) * (bad if model.training and sum(n == 2 for n in calls) > 3 else 1.0)

    monkeypatch.setattr(train, "bits_per_byte", poisoned)
    monkeypatch.setattr(train, "held_out_loss", lambda *_: 1.0)
    with pytest.raises(Diverged, match=r"not finite at step 3: the last good checkpoint is .*step-00000002"):
        run(corpus, tmp_path)
    assert all(weight.isfinite().all() for weight in read_model(latest(tmp_path)).state_dict().values())


def test_a_gradient_that_is_no_number_stops_before_it_is_used(corpus):
    model = LanguageModel(Config.lenient("fm", **SMALL))
    optimizer = train.optimizer_for(model, SETTINGS)
    before = model.embedding.weight.detach().clone()
    model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert train.update(model, optimizer, torch.randint(0, 256, (2, 9)), 1.0) is None
    assert model.embedding.weight.equal(before)


def test_divergence_before_the_first_checkpoint_and_in_the_held_out_loss(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "held_out_loss", lambda *_: float("nan"))
    with pytest.raises(Diverged, match="held-out loss was not finite at step 2: there is no checkpoint yet"):
        run(corpus, tmp_path)
    assert not checkpoints(tmp_path)


def test_a_run_in_the_way_is_kept_unless_replaced(corpus, tmp_path):
    run(corpus, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds a run already: --resume continues it, --overwrite replaces it"):
        run(corpus, tmp_path)
    with pytest.raises(DataError):  # found out before anything is removed
        run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, length=5000), overwrite=True)
    assert latest(tmp_path).name == "step-00000006"
    run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, steps=2), overwrite=True)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002"]


def test_a_kill_while_replacing_leaves_no_half_a_checkpoint(corpus, tmp_path, monkeypatch):
    def dying(folder):
        (folder / "model.safetensors").unlink()
        raise SystemExit("killed")

    run(corpus, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dying)
        with pytest.raises(SystemExit, match="killed"):
            run(corpus, tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        latest(tmp_path)
    run(corpus, tmp_path)


def test_another_text_cannot_be_resumed(corpus, tmp_path):
    run(corpus, tmp_path)
    cats = Corpus("cats", [Document(f"cat{i}.txt", b"meow %d" % i * 200) for i in range(5)])
    with pytest.raises(CheckpointError) as caught:
        train.resume(tmp_path, cats, quiet=True)
    assert f"its text was foxes ({corpus.manifest_hash}), which is not what cats ({cats.manifest_hash}) holds; " in str(
        caught.value
    )
    assert "added: cat0.txt, cat1.txt, cat2.txt and 2 more; gone: fox.txt; --text names another" in str(caught.value)


def test_a_single_text_may_have_another_name(corpus, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=2)
    run(corpus, tmp_path, settings=settings, text="fox.txt")
    renamed = Corpus("vixens", [Document("vixen.txt", corpus.documents[0].data)])
    found = latest(tmp_path)
    record = json.loads((found / "run.json").read_bytes())
    record["settings"]["steps"] = 6
    (found / "run.json").write_text(json.dumps(record), encoding="utf-8")
    resumed = train.resume(tmp_path, renamed, text="vixen.txt", quiet=True)
    assert resumed.embedding.weight.isfinite().all()
    record = read_run(latest(tmp_path))
    assert (record.step, record.corpus.name) == (6, "vixens") and record.text.endswith("/vixen.txt")


def test_missing_and_damaged_checkpoints_are_named(corpus, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        latest(tmp_path)
    run(corpus, tmp_path)
    found = latest(tmp_path)
    assert latest(found) == found
    for name, content in {
        "training.safetensors": b"",
        "model.safetensors": (found / "model.safetensors").read_bytes()[:-9],
        "run.json": json.dumps({"step": 3}).encode(),
    }.items():
        (found / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{found.name}: damaged or of another version \(.+\)"):
            train.resume(tmp_path, corpus, quiet=True)


def test_vectors_do_not_decay_and_matrices_do():
    model = LanguageModel(Config.lenient("fm", **SMALL))
    decay = {
        id(p): group["weight_decay"]
        for group in train.optimizer_for(model, SETTINGS).param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if parameter.ndim < 2 else 0.1), name


def test_rate_rises_then_falls_to_a_tenth():
    settings = Settings(steps=1000, warmup=100)
    rates = [settings.rate(step) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == rates[99] == rates[100] == 1.0
    assert rates[:100] == sorted(rates[:100]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)


def test_each_step_has_its_rate_and_its_batch(corpus, tmp_path, monkeypatch):
    rates, batches, update = [], [], train.update

    def noting(model, optimizer, windows, clip, burn_in):
        rates.append(optimizer.param_groups[1]["lr"])
        batches.append((windows, burn_in))
        return update(model, optimizer, windows, clip, burn_in)

    monkeypatch.setattr(train, "update", noting)
    run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, burn_in=7))
    assert rates == pytest.approx([SETTINGS.lr * SETTINGS.rate(step) for step in range(6)])
    stream = corpus.stream("train")
    for step, (windows, burn_in) in enumerate(batches):
        assert burn_in == (0, 7)[step % 2]
        assert windows.equal(sample_batch(stream, 2, burn_in + 16, SETTINGS.seed, step))


def test_what_comes_before_a_window_fills_the_state_and_gets_no_gradient(corpus):
    model = LanguageModel(Config.lenient("fm-sparse", **{**SMALL, "router_noise": 0.0}))
    tokens = corpus.stream("train")[None, :25].long()
    bits = loss.bits_per_byte(model, tokens, burn_in=8)
    (gradient,) = torch.autograd.grad(bits, model.embedding.weight)
    _, state = model(tokens[:, :8])
    state = tuple(tuple(v.detach() for v in part) for part in state)
    logits, _ = model(tokens[:, 8:-1], state)
    want = torch.nn.functional.cross_entropy(logits[0], tokens[0, 9:]) / math.log(2)
    assert bits.item() == pytest.approx(want.item()) and bits != loss.bits_per_byte(model, tokens[:, 8:])
    torch.testing.assert_close(gradient, torch.autograd.grad(want, model.embedding.weight)[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("batch", 0, "batch must be at least 1"),
        ("length", -3, "length must be at least 1"),
        ("evaluate_every", 0, "evaluate_every must be at least 1"),
        ("lr", 0.0, "lr must be greater than 0, got 0.0"),
        ("clip", float("nan"), "clip must be greater than 0, got nan"),
        ("warmup", -1, "warmup must not be negative"),
        ("weight_decay", -0.1, "weight_decay must not be negative"),
        ("seed", -1, "seed must not be negative"),
        ("seed", 2**63, "seed must be below 2.*63, got 9223372036854775808"),
        ("batch", 2**31, "batch must be below 2.*31, got 2147483648"),
        ("lr", float("inf"), "lr must be below 1e30, got inf"),
        ("weight_decay", 1e300, "weight_decay must be below 1e30, got 1e.300"),
        ("burn_in", -1, "burn_in must not be negative"),
    ],
)
def test_bad_settings_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{field: value})


def test_text_shorter_than_a_window(tmp_path):
    with pytest.raises(DataError, match="91 tokens in the train split, at least 257 are needed"):
        run(Corpus("x", [Document("x", b"x" * 100)]), tmp_path, settings=Settings())


def test_text_for_training_but_not_for_holding_out(corpus, tmp_path):
    with pytest.raises(DataError, match="in the validation split, at least 201"):
        run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, length=200))


def test_another_process_keeps_out_until_it_ends(corpus, tmp_path):
    """It is the system's lock that counts, so a kill frees the folder and a file that names a living process does not
    keep it."""
    (tmp_path / ".lock").write_text(f"{os.getppid()}\n", encoding="utf-8")
    code = (
        "import pathlib, sys; from lm.checkpoint import claim\n"
        "with claim(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(CheckpointError, match=rf"--out .*: another run is writing here \(pid {other.pid}\)"):
            run(corpus, tmp_path)
        other.kill()
    run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, steps=2))
    with checkpoint.claim(tmp_path), pytest.raises(CheckpointError, match=rf"another run .*\(pid {os.getpid()}\)"):
        train.resume(tmp_path, corpus, quiet=True)
    train.resume(tmp_path, corpus, quiet=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOSYS, "None")])
def test_a_file_system_without_locks_can_be_trained_on(corpus, tmp_path, monkeypatch, error):
    def no_locks(descriptor):
        raise error

    monkeypatch.setattr(checkpoint, "_lock", no_locks)
    run(corpus, tmp_path)


def test_the_lock_of_windows_is_behind_the_pid(tmp_path, monkeypatch):
    """With the calls that Windows has: the byte lies where nobody reads, a second lock is refused at once."""
    taken = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            at = os.lseek(descriptor, 0, os.SEEK_CUR)
            if taken:
                raise PermissionError(errno.EACCES, "Permission denied")
            taken.append((mode, at, count))

    monkeypatch.setattr(checkpoint, "msvcrt", Msvcrt, raising=False)
    monkeypatch.setattr(checkpoint, "WINDOWS", True)
    refused = pytest.raises(CheckpointError, match=rf"another run is writing here \(pid {os.getpid()}\)")
    with checkpoint.claim(tmp_path), refused, checkpoint.claim(tmp_path):
        pass
    assert taken == [(2, 1 << 20, 1)]
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"


@pytest.mark.parametrize("lost", ["run.json", "model.safetensors"])
def test_a_reader_goes_on_with_the_newer_checkpoint(corpus, tmp_path, monkeypatch, lost):
    """A save takes the checkpoint away while it is read; only what is damaged and still there is an error."""
    run(corpus, tmp_path, settings=dataclasses.replace(SETTINGS, steps=2))
    newer = tmp_path / "step-00000004"
    part = "read_run" if lost == "run.json" else "read_model"
    real = getattr(checkpoint, part)

    def saved_meanwhile(found, *args):
        if not newer.exists():
            shutil.copytree(found, newer)
            record = json.loads((newer / "run.json").read_bytes()) | {"step": 4}
            (newer / "run.json").write_text(json.dumps(record), encoding="utf-8")
            checkpoint.remove(found)
        return real(found, *args)

    monkeypatch.setattr(checkpoint, part, saved_meanwhile)
    found, record, model = checkpoint.read(tmp_path)
    assert (found, record.step) == (newer, 4) and isinstance(model, LanguageModel)
    (newer / lost).write_bytes(b"")
    with pytest.raises(CheckpointError, match="step-00000004: damaged"):
        checkpoint.read(tmp_path)


def test_only_our_own_files_are_ours(corpus, tmp_path):
    """What is named nearly as a checkpoint, or as one but holds none, neither blocks a run nor goes with one."""
    mine = ["step-notes.txt", "step-00000002.txt", "step-by-step/a.txt", "step-00000001/photo.png", "run.json"]
    mine += [".step-notes", ".step-00000002.txt", ".step-by-step/a.txt"]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine", encoding="utf-8")
    run(corpus, tmp_path)
    assert latest(tmp_path).name == "step-00000006"
    run(corpus, tmp_path, overwrite=True)
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in mine] == ["mine"] * len(mine)


def test_a_folder_of_ours_by_name_alone_is_not_replaced(corpus, tmp_path):
    photo = tmp_path / "step-00000002" / "photo.png"
    photo.parent.mkdir()
    photo.write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="step-00000002 could not be saved"):
        run(corpus, tmp_path)
    assert photo.read_text(encoding="utf-8") == "mine" and not checkpoints(tmp_path)


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (99_999_999, 100_000_000, 7):
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "run.json").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000007", "step-99999999", "step-100000000"]


@pytest.mark.parametrize("full_at", [1, 2, 3, 5])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(corpus, tmp_path, monkeypatch, full_at):
    real, calls = checkpoint._write, []

    def write(path, data):
        calls.append(path)
        if len(calls) == full_at:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", write)
        with pytest.raises(CheckpointError) as caught:
            run(corpus, tmp_path)
    said = str(caught.value)
    assert "could not be saved (No space left on device)" in said and not list(tmp_path.glob(".step-*"))
    if full_at < 4:
        assert "step-00000002 could" in said and said.endswith("there is none yet") and not checkpoints(tmp_path)
        return
    last = tmp_path / "step-00000002"
    assert (
        said.endswith(f"the last checkpoint, {last}, is whole: --resume goes on from it") and latest(tmp_path) == last
    )
    resumed = train.resume(tmp_path, corpus, quiet=True)
    assert resumed.embedding.weight.equal(run(corpus, tmp_path / "whole").embedding.weight)


def test_what_cannot_be_removed_stops_no_training(corpus, tmp_path, monkeypatch):
    def being_read(path):
        raise PermissionError(errno.EACCES, "Access is denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "remove", being_read)
        run(corpus, tmp_path)
    assert len(checkpoints(tmp_path)) == 3 and latest(tmp_path).name == "step-00000006"


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(corpus, tmp_path, monkeypatch):
    def went_on(*_):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(train, "update", went_on)
    (tmp_path / "file").touch()
    for folder, reason in (("file", "it is a file"), ("file/run", "Not a directory")):
        with pytest.raises(CheckpointError, match=rf"--out .*{folder}: nothing can be written there \({reason}\)"):
            run(corpus, tmp_path / folder)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoint, "TemporaryFile", read_only)  # permissions would not stop root
    with pytest.raises(CheckpointError, match=r"nothing can be written there \(Read-only file system\)"):
        run(corpus, tmp_path / "run")

"""The GPU run, without a GPU: rows that fail, a run that is cut off, what the record says, the order of worth."""

import json
import os
import subprocess
import sys
import time
import types
from functools import partial

import pytest
import torch

import reference
from experiments import frame, interruptible
from experiments.interruptible import BROKEN, Row

pytest.importorskip("triton", reason="triton is not installed")

from experiments import speed_gpu


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "record.json"
    interruptible.begin(path, {"on": "a card"}, resume=False)
    return path


class Clock:
    """Time that only passes while rows are measured."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def row(self, name: str, seconds: float, kind: str = "", work: float = 1.0, measure=lambda: {"ms": 1.5}) -> Row:
        def takes_time() -> dict:
            self.now += seconds
            return measure()

        return Row("speed", {"form": name}, takes_time, kind, work)


def work(rows, path, until=1e9, clock=None, **how):
    return interruptible.work(rows, path, until, clock=clock or Clock(), say=lambda row: None, **how)


def fails():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def names(rows: list[dict]) -> list[str]:
    return [row["form"] for row in rows]


def test_every_row_is_written_before_the_next_begins(path):
    clock, seen = Clock(), []

    def look() -> dict:
        record = interruptible.read(path)
        seen.append((names(record["rows"]), record["running"]["form"], names(record["not measured"])))
        return {"ms": 1.0}

    rows = [clock.row(name, 1, measure=look) for name in "abc"]
    assert work(rows, path) == 0
    assert seen == [([], "a", ["b", "c"]), (["a"], "b", ["c"]), (["a", "b"], "c", [])]
    record = interruptible.read(path)
    assert names(record["rows"]) == ["a", "b", "c"] and not record["not measured"] and record["running"] is None
    assert record["rows"][0] == {"part": "speed", "form": "a", "ms": 1.0, "seconds": 0}


def test_a_write_that_is_cut_off_leaves_the_record_as_it_was(path, monkeypatch):
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr(frame.os, "replace", lambda *_: fails())
    with pytest.raises(RuntimeError):
        interruptible.write(path, {"rows": []})
    with pytest.raises(TypeError):
        interruptible.write(path, {"rows": [object()]})
    assert path.read_text(encoding="utf-8") == before


def test_a_row_that_would_not_fit_is_passed_over_and_said(path):
    clock = Clock()
    rows = [
        clock.row("a", 10, kind="k", work=1.0),
        clock.row("four times a", 40, kind="k", work=4.0),  # 40 of the 35 s left
        clock.row("b", 20, kind="k", work=2.0),
        clock.row("twice b", 1, kind="k", work=4.0),
        clock.row("another kind", 1),  # judged by the longest of the last three, 20 of the 15 s left
    ]
    assert work(rows, path, until=45, clock=clock) == 0
    record = interruptible.read(path)
    assert names(record["rows"]) == ["a", "b"] and clock.now == 30
    why = {row["form"]: row["why"] for row in record["not measured"]}
    assert why == {
        "four times a": "would take about 40 s, 35 s were left",
        "twice b": "would take about 40 s, 15 s were left",
        "another kind": "would take about 20 s, 15 s were left",
    }


def test_less_work_is_not_taken_to_be_quicker(path):
    clock = Clock()
    rows = [clock.row("a", 10, kind="k", work=8.0), clock.row("b", 1, kind="k", work=1.0)]
    assert work(rows, path, until=19, clock=clock) == 0
    assert names(interruptible.read(path)["rows"]) == ["a"]


def test_a_row_that_fails_is_told_and_the_run_goes_on(path):
    clock = Clock()
    assert work([clock.row("a", 1, measure=fails), clock.row("b", 1)], path) == 0
    failed, fine = interruptible.read(path)["rows"]
    assert failed["failed"]["exception"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert any("in fails" in line for line in failed["failed"]["traceback"]) and "ms" not in failed
    assert fine["form"] == "b" and "failed" not in fine


def test_a_process_that_lost_the_gpu_measures_nothing_more(path):
    clock = Clock()
    rows = [clock.row("a", 1, measure=fails), clock.row("b", 1)]
    assert work(rows, path, healthy=lambda: False) == BROKEN
    record = interruptible.read(path)
    assert names(record["rows"]) == ["a"] and names(record["not measured"]) == ["b"]
    assert work(rows, path, healthy=lambda: False) == 0  # in a new process, from b on
    assert names(interruptible.read(path)["rows"]) == ["a", "b"]


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from experiments import interruptible
from experiments.interruptible import Row

def row(name, measure):
    return Row("speed", {"form": name}, measure)

def fails():
    raise RuntimeError("lost")

rows = [
    row("fine", lambda: {"ms": 1.0}),
    row("loses the device", fails),
    row("kills its process", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    row("leaves", lambda: os._exit(3)),
    row("fine again", lambda: {"ms": 2.0}),
    row("never ends", lambda: time.sleep(1000) or {}),
    row("fine at last", lambda: {"ms": 3.0}),
]
healthy = lambda: False
sys.exit(interruptible.work(rows, Path(sys.argv[1]), 1e12, healthy=healthy))
"""


def test_another_process_goes_on_where_one_died(path, monkeypatch):
    """And where a row never ends."""
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, str(path)]
    monkeypatch.setenv("PYTHONPATH", str(frame.ROOT))
    assert interruptible.supervise(command, path, time.time() + 1000, limit=2) == 0
    record = interruptible.read(path)
    what = {row["form"]: row.get("failed", {}).get("exception") for row in record["rows"]}
    assert what == {
        "fine": None,
        "loses the device": "RuntimeError: lost",
        "kills its process": "its process ended: SIGKILL",
        "leaves": "its process ended: exit code 3",
        "fine again": None,
        "never ends": "stopped: it took longer than 2 s",
        "fine at last": None,
    }
    assert record["running"] is None and not record["not measured"]


def test_a_row_is_stopped_at_the_end_of_the_run_and_the_rest_is_listed(path):
    """The process that measures was already within a row."""
    rows = [{"part": "speed", "form": form} for form in ("never ends", "not reached")]
    running = rows[0] | {"since": time.time()}
    interruptible.write(path, interruptible.read(path) | {"running": running, "not measured": rows[1:]})
    command = [sys.executable, "-X", "utf8", "-c", "import time; time.sleep(1000)"]
    started = time.time()
    assert interruptible.supervise(command, path, started + 1, grace=1) == 0
    record = interruptible.read(path)
    assert [row["failed"]["exception"] for row in record["rows"]] == ["stopped: the time of the run was over"]
    assert 2 <= record["rows"][0]["seconds"] < 60
    assert record["running"] is None and names(record["not measured"]) == ["not reached"]


def test_a_process_that_does_nothing_is_not_started_for_ever(path):
    assert (
        interruptible.supervise([sys.executable, "-X", "utf8", "-c", "raise SystemExit(2)"], path, time.time() + 60)
        == 2
    )


def test_resume_takes_up_what_is_missing_or_failed(path):
    clock = Clock()
    work([clock.row("a", 7), clock.row("b", 1, measure=fails)], path)
    interruptible.begin(path, {"on": "a card"}, resume=True)
    assert names(interruptible.read(path)["rows"]) == ["a"]
    never = clock.row("a", 1, measure=fails)
    assert work([never, clock.row("b", 1), clock.row("c", 1)], path) == 0
    assert [(row["form"], "failed" in row) for row in interruptible.read(path)["rows"]] == [
        ("a", False), ("b", False), ("c", False),
    ]  # fmt: skip


def test_resume_is_refused_where_the_numbers_would_not_belong_together(path, tmp_path):
    with pytest.raises(ValueError, match="it was measured with on a card, now another"):
        interruptible.begin(path, {"on": "another"}, resume=True)
    with pytest.raises(ValueError, match="there is none"):
        interruptible.begin(tmp_path / "none.json", {}, resume=True)


def test_rows_come_in_order_of_worth():
    rows = speed_gpu.all_rows()
    assert len({row.key for row in rows}) == len(rows)
    parts = [row.part for row in rows]
    assert list(dict.fromkeys(parts)) == [
        "correctness",
        "rates",
        "decode",
        "speed",
        "sparse",
        "configurations",
        "verify",
    ]
    at_first = [row.what["what"] for row in rows[: parts.index("rates")]]
    assert all("float32" in what or "bfloat16" in what for what in at_first)
    assert {what.split(",")[0] for what in at_first} == {"dense", "sparse", "steps", "verify"}
    first, last = parts.index("configurations"), len(parts) - 1 - parts[::-1].index("configurations")
    before = [row.what for row in rows[:first] if row.part in ("speed", "sparse")]
    assert {(w["B"], w["D"]) for w in before} == {(8, 1024)} and {w["T"] for w in before} == {4096, 16384}
    assert [w["T"] for w in before] == sorted(w["T"] for w in before)
    assert {row.what["form"] for row in rows[:first] if row.part == "speed"} == {"triton"}
    compared = [row.what["form"] for row in rows[last + 1 : last + 9]]
    assert compared == [*speed_gpu.COMPARED, *speed_gpu.COMPARED]
    assert {row.what["T"] for row in rows[last + 1 : last + 9]} == {4096, 16384}
    assert parts[last + 9 :].count("correctness") > len(at_first)
    rest = [row for row in rows if row.part != "verify"]  # which comes last
    assert {row.what["form"] for row in rest[-15:]} == {"chunked"}  # nobody knows how long these take
    assert parts[len(rest) :] == ["verify"] * 9


def test_what_is_compiled_first_is_what_takes_longest_and_a_failure_ends_nothing():
    rows = speed_gpu.to_compile()
    assert [row.what.get("form") for row in rows[: len(speed_gpu.COMPARED)]] == list(speed_gpu.COMPARED)
    assert not any(row.kind == "large" for row in rows)
    assert {row.part for row in rows} == {"speed", "correctness", "decode", "configurations"}
    done = []
    mine = [Row("speed", {"form": name}, lambda name=name: done.append(name) or fails()) for name in "ab"]
    speed_gpu.compile_some(mine, time.time() + 60)
    speed_gpu.compile_some(mine, time.time() - 1)
    assert done == ["a", "b"]


def test_processes_that_compile_share_the_configurations_and_time_none():
    tuner, tried = speed_gpu.Autotuner, []
    kernel = types.SimpleNamespace(configs=[*range(5)], early_config_prune=None, perf_model=None, nargs={})

    def calls(index: int, count: int) -> list:
        with speed_gpu.share_of_tuning(index, count):
            found = tuner.prune_configs(kernel, {})
            times = [tuner.do_bench(partial(tried.append, config), quantiles=(0.5, 0.2)) for config in found]
        assert times == [(0.0, 0.0)] * len(found)
        return found

    assert [calls(index, 2) for index in range(2)] == [[0, 2, 4], [1, 3]]
    assert tried == [0, 2, 4, 1, 3]
    assert calls(7, 8) == [0]  # a process with no share still runs what comes after
    assert tuner.prune_configs(kernel, {}) == [*range(5)]  # as before
    rows = [{row.key for row in speed_gpu.to_compile(index, 3)} for index in range(3)]
    assert set.union(*rows) == {row.key for row in speed_gpu.to_compile()}
    assert len(set.intersection(*rows)) == len(speed_gpu.COMPARED) * len(speed_gpu.SHAPES)


def test_a_record_belongs_to_one_state_of_the_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(speed_gpu, "TINY", True)
    monkeypatch.setattr(frame, "ROOT", tmp_path)
    kernel = tmp_path / "fast" / "kernels" / "dense.py"
    kernel.parent.mkdir(parents=True)
    known = []
    for text in ("a", "b"):
        kernel.write_text(text, encoding="utf-8")
        known.append(speed_gpu.about())
    assert known[0]["fast"] != known[1]["fast"] and known[0].keys() == known[1].keys() >= {"others", "driver"}


def test_tables_say_what_is_wrong_and_what_is_missing():
    right = [
        {"part": "correctness", "what": "sparse, float32", "passed": True, "error": 1.5e-7},
        {"part": "correctness", "what": "verify, dense, float16", "passed": False, "cases": 28},
        {"part": "correctness", "what": "dense, another GPU", "absent": "there is one"},
        {"part": "correctness", "what": "dense, alone", "passed": False},
    ]
    table = speed_gpu.right_table({"rows": right})
    assert "| sparse, error against float64 | 1.5e-07 | – | – |" in table
    assert "| `verify`, dense | – | – | 28 cases, **wrong** |" in table
    assert table.endswith("| 1 other checks | 0 right | | |")
    rows = [{"part": "rates", "GB/s": 2000.0}, *step_rows(0.5, 2.0), *step_rows(0.5, 2.0)[:1]]
    rows[-1] = rows[-1] | {"form": "dense", "K": 64, "ms": 1.0, "GB/s": 1000.0}
    line = "| 256, 64, 1024 | 1000.0 µs | 50% | 500.0 µs | 2000.0 µs | 4.00× | 2.00× |"
    assert speed_gpu.decode_table({"rows": rows}).endswith(line)
    rows[2] = {name: v for name, v in rows[2].items() if name != "ms"} | {"absent": "no mamba_ssm"}
    assert speed_gpu.decode_table({"rows": rows}).endswith("| 500.0 µs | – | – | – |")


def step_rows(ours: float, mamba: float) -> list[dict]:
    at = {"part": "decode", "B": 256, "M": 64, "D": 1024, "K": 4, "seconds": 1.0}
    return [at | {"form": "sparse", "ms": ours, "GB/s": 1.0}, at | {"form": "Mamba-2 step", "K": 64, "ms": mamba}]


def test_goals_are_the_worst_of_what_was_measured():
    at = {"part": "speed", "B": 8, "M": 64, "D": 1024}
    rows = [at | {"T": t, "form": form, "both ms": ms} for t, form, ms in [
        (1024, "triton", 2.0), (1024, "flash attention", 1.0), (4096, "triton", 8.0), (4096, "flash attention", 12.0),
        (4096, "fla chunk_gla", 4.0), (16384, "fla chunk_gla", 16.0), (16384, "triton", 20.0),
    ]]  # fmt: skip
    rows += step_rows(1.0, 2.5)
    rows += [{"part": "rates", "what": "", "GB/s": 2000.0}, {"part": "decode", "form": "dense", "GB/s": 1000.0}]
    found = {goal["what"]: (goal["measured"], goal["reached"]) for goal in speed_gpu.goals(rows)}
    assert found == {
        "time of fla chunk_gsa over ours, forward + backward": (None, None),
        "time of fla chunk_gla over ours, forward + backward": (0.5, False),
        "time of flash attention over ours, from T = 4096 on": (1.5, True),
        "time of Mamba-2's step over the sparse one's": (2.5, True),
        "share of a copy's bandwidth in the dense step": (0.5, False),
    }


def test_the_fastest_blocks_are_named():
    default, other = (str(tuple(blocks)) for blocks in speed_gpu.dense_kernels.CONFIGURATIONS[:2])
    rows = [
        {"part": "configurations", "form": "dense", "blocks": default, "both ms": 3.0},
        {"part": "configurations", "form": "dense", "blocks": other, "both ms": 2.0},
        {"part": "configurations", "form": "step", "blocks": str(tuple(speed_gpu.step_kernels.DEFAULT)), "ms": 1.0},
        {"part": "configurations", "form": "sparse", "blocks": "x", "failed": {}},
    ]
    assert speed_gpu.fastest(rows) == {
        "dense": {"blocks": other, "ms": 2.0, "is the default": False},
        "step": {"blocks": str(tuple(speed_gpu.step_kernels.DEFAULT)), "ms": 1.0, "is the default": True},
    }


def test_the_report_counts_what_is_wrong(path, capsys):
    def code(*rows: dict) -> int:
        rows = [{"part": "correctness", "what": "x", "seconds": 1.0} | row for row in rows]
        interruptible.write(path, interruptible.read(path) | {"rows": rows})
        record = interruptible.read(path)
        speed_gpu.report(record)
        return len(speed_gpu.problems(record))

    failed = {"failed": {"exception": "no", "traceback": []}}
    assert code({"passed": True}, {"form": "flash attention", **failed}, {"absent": "no fla"}) == 0
    assert code({"passed": True}, {"passed": False}) == 1
    assert code({"passed": True}, {"form": "triton", **failed}) == 1
    assert code() == 1
    capsys.readouterr()


@pytest.fixture
def on_cpu(monkeypatch):
    for name, value in {"TINY": True, "DEVICE": "cpu", "SPEED_DTYPE": torch.float32}.items():
        monkeypatch.setattr(speed_gpu, name, value)


def test_a_row_of_verify_says_what_is_wrong(monkeypatch, on_cpu):
    sizes = {"lengths": "2", "widths": "8", "slots": "3"}
    assert speed_gpu.verified("step", "float32", **sizes) == {"passed": True, "cases": 24}

    def faulty(theta, phi, value, state, eps):
        y, state = reference.step(theta, phi, value, state, eps=eps)
        return 1.01 * y, state

    monkeypatch.setattr(speed_gpu.fast, "step", faulty)
    row = speed_gpu.verified("step", "float32", **sizes)
    assert not row["passed"] and row["wrong"][0].startswith("WRONG  length 2") and row["guess"]


def stand_in(monkeypatch, module: str, **functions) -> None:
    """A package that is not here, of which every part can be imported."""
    parts = module.split(".")
    for i in range(len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[: i + 1]), types.ModuleType(parts[i]))
    for name, function in functions.items():
        setattr(sys.modules[module], name, function)


def test_what_it_is_compared_with_is_called_with_inputs_of_its_shapes(monkeypatch, on_cpu):
    """The signatures are those of flash-linear-attention and of Mamba-2."""
    B, T, M, D = 2, 3, 4, 128

    def chunk_gla(q, k, v, g):
        assert q.shape == k.shape == g.shape == (B, T, 1, M) and v.shape == (B, T, 1, D) and (g < 0).all()
        return (q + k + g).sum(-1, keepdim=True) * v, None

    def chunk_gsa(q, k, v, s, g):
        assert q.shape == k.shape == (B, T, 1, 64) and v.shape == (B, T, 1, D)
        assert s.shape == g.shape == (B, T, 1, M) and (s >= 0).all() and (g < 0).all()
        return (q + k + (s + g).sum(-1, keepdim=True)).sum(-1, keepdim=True) * v, None

    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size):
        assert x.shape == (*dt.shape, 64) and dt.shape == (2, T, 2) and A.shape == (2,) and chunk_size == 256
        assert B.shape == C.shape == (2, T, 1, M) and (A <= 0).all() and (dt > 0).all()
        return x * (dt * A)[..., None] + (B + C).sum(-1)[..., None]

    def selective_state_update(state, x, dt, A, B, C, D, dt_bias, dt_softplus):
        heads = (2, 64)
        assert state.shape == (5, *heads, M) and x.shape == dt.shape == (5, *heads) and A.shape == (*heads, M)
        assert B.shape == C.shape == (5, 1, M) and D.shape == dt_bias.shape == heads and dt_softplus
        assert (A < 0).all() and 0 in A.stride() and 0 in dt.stride()  # one number a head

    stand_in(monkeypatch, "fla.ops.gla", chunk_gla=chunk_gla)
    stand_in(monkeypatch, "fla.ops.gsa", chunk_gsa=chunk_gsa)
    module = "mamba_ssm.ops.triton.selective_state_update"
    stand_in(monkeypatch, module, selective_state_update=selective_state_update)
    stand_in(monkeypatch, "mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=mamba_chunk_scan_combined)
    for form in speed_gpu.COMPARED:
        assert speed_gpu.speed(form, B, T, M, D).keys() == {"forward ms", "both ms"}
    assert speed_gpu.decode_of_mamba2(5, M, D).keys() == {"ms", "host ms", "GB/s"}


def test_what_is_not_installed_is_absent(monkeypatch, on_cpu):
    monkeypatch.setitem(sys.modules, "fla", None)
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    rows = [speed_gpu.speed(form, 1, 2, 3, 64) for form in speed_gpu.COMPARED if form != "flash attention"]
    for row in (*rows, speed_gpu.decode_of_mamba2(1, 3, 64)):
        assert row.keys() == {"absent"}


def test_a_failure_of_the_device_is_noticed(monkeypatch, capsys):
    monkeypatch.setattr(speed_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert speed_gpu.healthy()
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    assert not speed_gpu.healthy()
    assert "this process lost the GPU, a new one goes on: CUDA error: an illegal" in capsys.readouterr().out


def test_a_time_is_that_of_device_events(monkeypatch):
    """On a device of one's own making: the caches are cold, the device sleeps, and calls take turns."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 100.0

    monkeypatch.setattr(speed_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("sleep"))
    assert speed_gpu.milliseconds([lambda: log.append("a"), lambda: log.append("b")], seconds=0.35) == 100
    once = ["sleep", "event", None, "event"]
    assert log == ["a", "b", *(what or name for name in "aba" for what in once)]


def tiny(tmp_path, *options: str, **environment: str) -> tuple[subprocess.CompletedProcess, dict]:
    out = tmp_path / "out"
    command = [sys.executable, "-X", "utf8", "-m", "experiments", "speed_gpu", "--tiny", "--out", str(out), *options]
    variables = os.environ | {"PYTHONPATH": str(frame.ROOT), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=variables, cwd=frame.ROOT)
    return done, json.loads((out / "speed_gpu.json").read_text(encoding="utf-8"))


def test_the_command_ends_in_time_and_needs_nothing_but_torch_triton_and_numpy(tmp_path):
    """Other packages are there, but cannot be imported; what could not be measured is listed on the terminal, too."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in 'hypothesis pytest matplotlib tqdm safetensors nbclient jupyter_client'.split():\n"
        "    sys.modules[name] = None\n",
        encoding="utf-8",
    )
    done, record = tiny(tmp_path, "--minutes", "0.05", PYTHONPATH=f"{tmp_path / 'without'}{os.pathsep}{frame.ROOT}")
    assert done.returncode == 0, done.stdout + done.stderr
    rows, missing = record["rows"], record["not measured"]
    assert rows and missing and len(rows) + len(missing) > 70
    assert all(row["passed"] for row in rows if row["part"] == "correctness")
    assert done.stdout.count("not measured: ") == len(missing)
    assert record["about"]["triton"] in done.stdout and record["running"] is None


def test_a_time_stands_beside_that_of_our_kernels_at_equal_sizes():
    def row(part, form, tokens, ms, **more):
        times = {"forward ms": ms / 3, "both ms": ms, "peak MiB": 7}
        return {"part": part, "form": form, "B": 1, "T": tokens, "M": 64, "D": 8} | more | times

    rows = [
        row("sparse", "sparse", 4, 2.0, K=3), row("sparse", "dense over zeros", 4, 5.0, K=3),
        row("speed", "triton", 4, 4.0), row("speed", "triton", 16, 16.0), row("speed", "flash attention", 4, 2.0),
        row("speed", "flash attention", 32, 9.0),
    ]  # fmt: skip
    lines = [line.split(" | ") for line in speed_gpu.speed_table({"rows": rows}).splitlines()[2:]]
    assert [(line[0], line[1], line[-1].rstrip(" |")) for line in lines] == [
        ("| triton", "1, 4, 64, 8", ""),
        ("| flash attention", "1, 4, 64, 8", "0.50×"),
        ("| triton", "1, 16, 64, 8", ""),
        ("| flash attention", "1, 32, 64, 8", ""),
        ("| sparse", "1, 4, 64, 8", ""),
        ("| dense over zeros", "1, 4, 64, 8", "2.50×"),
    ]

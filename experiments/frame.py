"""What all experiments share: record and command, results as files, what shows them, processes, clocks, memory, inputs.

Measure, table, draw: `measure` makes a result, which is stored as JSON; tables on pages and figures are made of the
stored result alone, so that --draw can make them again. This module and experiments/agreement.py import torch and the
standard library only: speed_gpu runs on machines that have little else.
"""

import argparse
import hashlib
import io
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lm.machine import environment

if TYPE_CHECKING:
    from experiments.compare import Case

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
SEED = 0
CLOSING = "<!-- end -->"
MACHINE = ("on", "triton")  # of what a result is about: what the losses of models on a CPU do not depend on

Name = TypeVar("Name")


class UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


class Unavailable(Exception):
    """This machine lacks what the experiment is about; the message says what. Nothing is measured, nothing failed."""


# --- the record and the command --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """What a module of experiments/ declares as EXPERIMENT."""

    name: str
    measure: Callable[["Run"], dict]  # the result, as JSON can hold it: {"about": about(...), "rows": [...], ...}
    # Part, or "" for the only one: the table as Markdown. It stands on one page, between `<!-- result: NAME -->` (or
    # NAME/part) and `<!-- end -->`.
    tables: Mapping[str, Callable[[dict], str]] = field(default_factory=dict)
    figures: Mapping[str, Callable[[dict, Path], None]] = field(default_factory=dict)  # file name: draws it there
    problems: Callable[[dict], list[str]] = lambda result: []  # with any, the command fails and stores nothing
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None  # its own, beside those of all
    cases: Callable[[bool], "list[Case]"] | None = None  # what --base times; given whether sizes are tiny
    folder: Path = RESULTS  # of the stored result and the figures
    load: Callable[[], dict] | None = None  # reads a result that others store


@dataclass
class Run:
    """One call of an experiment's measure."""

    experiment: Experiment
    folder: Path  # where the result and its figures go
    tiny: bool  # sizes that take seconds and mean nothing
    options: argparse.Namespace
    keep: bool = True  # whether anything is written at the end

    def save(self, result: dict) -> None:
        """Store what there is so far, for an experiment that is long."""
        write(self.folder / f"{self.experiment.name}.json", text_of(result))

    def resume(self, empty: dict, *, anywhere: bool = False) -> dict:
        """What an earlier run stored so far if it was about the same, else the empty result, and it says why.

        anywhere: an earlier run may be of another machine, as where no figure is a time. `also_here` then names both.
        Such runs take hours, so nothing takes the place of what is stored: where that is about something else, it is
        a UsageError.
        """
        path = self.folder / f"{self.experiment.name}.json"
        if not path.exists():
            return empty
        found, wanted = json.loads(path.read_text(encoding="utf-8")), as_stored(empty["about"])
        unlike = [key for key in {**found["about"], **wanted} if found["about"].get(key) != wanted.get(key)]
        unlike = [key for key in unlike if not (anywhere and key in MACHINE)]
        values = ", ".join(f"{key} is {wanted.get(key)}, was {found['about'].get(key)}" for key in unlike)
        if unlike and anywhere:
            raise UsageError(f"{path} is of another run, --out must name another folder: {values}")
        if unlike:
            print(f"{path.name} is of another run, so this one begins anew: {values}", flush=True)
        return empty if unlike else found


def main(experiment: Experiment, arguments: list[str]) -> int:
    """Run the command of one experiment: 0, or 1 (problems), 2 (unusable input), 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a ?
    options = _parser(experiment).parse_args(arguments)
    try:
        return _run(experiment, options)
    except Unavailable as reason:
        print(f"{reason}: nothing measured, nothing changed")
        return 0
    except (UsageError, OSError) as error:
        print(f"python -m experiments {experiment.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m experiments {experiment.name}: interrupted", file=sys.stderr)
        return 130


def _parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m experiments {experiment.name}")
    parser.add_argument("--tiny", action="store_true", help="every line in seconds, at sizes that mean nothing")
    parser.add_argument("--out", type=Path, help="folder for the result and its figures; pages stay as they are")
    if experiment.tables or experiment.figures:
        parser.add_argument("--draw", action="store_true", help="measure nothing: show what is stored")
    if experiment.cases:
        parser.add_argument("--base", metavar="REV", help="time a git revision beside the working tree")
    experiment.options(parser)
    return parser


def _run(experiment: Experiment, options: argparse.Namespace) -> int:
    if experiment.cases and options.base:
        from experiments import compare

        print(compare.table(compare.measure(experiment.cases(options.tiny), options.base)))
        return 0
    if (experiment.tables or experiment.figures) and options.draw:
        written = show(experiment, stored(experiment), options.out or experiment.folder, pages=options.out is None)
        print(f"written: {', '.join(written)}")
        return 0
    temporary = options.tiny and options.out is None
    with tempfile.TemporaryDirectory() if temporary else nullcontext(options.out or experiment.folder) as folder:
        run = Run(experiment, Path(folder), options.tiny, options)
        result = as_stored(experiment.measure(run))
        for table in experiment.tables.values():
            print(f"\n{table(result)}")
        problems = experiment.problems(result)
        print(*problems, sep="\n", end="\n" if problems else "")
        if not problems and run.keep:
            if experiment.load is None:
                run.save(result)
            written = show(experiment, result, run.folder, pages=not options.tiny and options.out is None)
            written = [*written, *([] if experiment.load else [f"{experiment.name}.json"])]
            print("tiny: nothing is kept" if temporary else f"written: {', '.join(written)}")
        return int(bool(problems))


# --- results as files, and what shows them ---------------------------------------------------------------------


def about(corpus: dict | None = None, **more: object) -> dict:
    """What a result depends on besides the code: machine, versions, threads, seed, and the corpus if there is one."""
    known = {**environment(), "threads": torch.get_num_threads(), "seed": SEED}
    return known | ({} if corpus is None else {"corpus": corpus}) | more


def also_here(result: dict) -> None:
    """Name this machine among those that a result comes from: another may have measured its first rows."""
    here = environment()["on"]
    if here not in result["about"]["on"].split("; "):
        result["about"]["on"] += f"; {here}"


def study(
    run: Run, known: dict, wanted: Iterable[tuple], function: Callable[..., dict], key: Callable[[dict], tuple],
    place: Callable[[dict], Any], line: Callable[[dict], str], processes: int,
) -> dict:  # fmt: skip
    """Independent runs: those that are stored stay, those that are missing are made and stored as they end.

    A run is function(*key). What comes out does not depend on the machine, so a later call may go on elsewhere. Rows
    are sorted by their place; a line of each is printed.
    """
    result = run.resume({"about": known, "rows": []}, anywhere=True)
    have = {key(row) for row in result["rows"]}
    for ended in in_processes(function, (at for at in wanted if at not in have), processes):
        result["rows"].append(ended.result())
        print(line(result["rows"][-1]), flush=True)
        result["rows"].sort(key=place)
        also_here(result)
        run.save(result)
    return result


def study_options(parser: argparse.ArgumentParser, what: str, only: bool = True, device: bool = False) -> None:
    """Of a command that makes the runs of a study, each of one `what`, where `device` says if it can choose."""
    if only:
        parser.add_argument("--only", nargs="*", default=[], metavar=what.upper(), help=f"some {what}s (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help=f"runs of a {what} (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time (default: %(default)s)")
    if device:
        parser.add_argument("--device", default="cpu", help="where models are trained: cpu or cuda (default: cpu)")


def made_on(device: str) -> dict[str, str]:
    """What a row says of where it was made: nothing on a CPU, else the device and the versions there."""
    if device == "cpu":
        return {}
    here = environment()
    return {"made on": f"{here['on']}, torch {here['torch']}, triton {here['triton']}"}


def asked_for(run: Run, names: Iterable[str], tiny: Sequence[str] = ()) -> tuple[list[str], range]:
    """The names and the seeds that a command asks for, or a UsageError. tiny: the names of a tiny run, of one seed."""
    options, names = run.options, [*names]
    for option in ("seeds", "processes"):
        if getattr(options, option) < 1:
            raise UsageError(f"--{option} must be at least 1, got {getattr(options, option)}")
    device = getattr(options, "device", "cpu")
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"--device must be cpu, or cuda where there is a GPU, got {device!r}")
    only = getattr(options, "only", [])
    for name in only:
        if name not in names:
            raise UsageError(f"--only must name some of {', '.join(names)}, got {name!r}")
    if run.tiny and tiny:
        return [*tiny], range(1)
    return only or names, range(options.seeds)


def stored(experiment: Experiment) -> dict:
    """The result that is stored; a UsageError where there is none."""
    if experiment.load is not None:
        return as_stored(experiment.load())
    path = experiment.folder / f"{experiment.name}.json"
    if not path.exists():
        raise UsageError(f"nothing is stored yet: no {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def as_stored(result: dict) -> dict:
    """As it will be read again: tuples are lists, keys are strings."""
    return json.loads(json.dumps(result))


def text_of(result: dict) -> str:
    """JSON with one line a row, so that a change of a row shows as one line.

    >>> print(text_of({"about": {"seed": 0}, "rows": [{"K": 1}, {"K": 2}]}), end="")
    {
    "about": {"seed": 0},
    "rows": [
     {"K": 1},
     {"K": 2}
    ]
    }
    """

    def value(of: object) -> str:
        if not (isinstance(of, list) and of and isinstance(of[0], dict | list)):
            return json.dumps(of)
        return "[\n " + ",\n ".join(map(json.dumps, of)) + "\n]"

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {value(of)}" for name, of in result.items()) + "\n}\n"


def write(path: Path, text: str) -> None:
    """The whole text or, if anything goes wrong, what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def fingerprint(result: dict) -> str:
    """Of the numbers, not of how a file sets them out."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def show(experiment: Experiment, result: dict, folder: Path, *, pages: bool) -> list[str]:
    """Draw the figures of a result into a folder and, if asked to, put its tables on their pages: what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in experiment.figures.items():
        part = folder / f".part-{name}"
        draw(result, part)
        _mark(part, fingerprint(result))
        os.replace(part, folder / name)
    changed = []
    for part, table in experiment.tables.items() if pages else ():
        marker = _marker(experiment, part)
        page = page_of(marker)
        before, after = _split(marker, page)
        write(page, f"{before}\n\n{table(result)}\n\n{after}")
        changed.append(f"{marker} in {page.name}")
    return [*experiment.figures, *changed]


def stale(experiment: Experiment) -> list[str]:
    """Tables on pages and figures that do not show the stored result."""
    result, found = stored(experiment), []
    for part, table in experiment.tables.items():
        marker = _marker(experiment, part)
        page = page_of(marker)
        before, after = _split(marker, page)
        if page.read_text(encoding="utf-8")[len(before) : -len(after)].strip() != table(result):
            found.append(f"{marker} in {page.name}")
    for name in experiment.figures:
        path = experiment.folder / name
        if not path.exists() or _mark_of(path) != fingerprint(result):
            found.append(name)
    return found


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def markers() -> list[str]:
    """What all pages say that they show; a mark inside a line only speaks of one."""
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    return [marker for text in texts for marker in re.findall(r"^<!-- result: (\S+) -->$", text, re.MULTILINE)]


def page_of(marker: str) -> Path:
    """The page that shows a table; a UsageError unless there is exactly one."""
    found = [page for page in pages() if _opening(marker) in page.read_text(encoding="utf-8")]
    if len(found) != 1:
        where = ", ".join(page.name for page in found) or "none does"
        raise UsageError(f"one page must hold {_opening(marker)} and, after it, {CLOSING}: {where}")
    return found[0]


def _split(marker: str, page: Path) -> tuple[str, str]:
    """The text of a page before and after a table, markers included."""
    before, opening, rest = page.read_text(encoding="utf-8").partition(_opening(marker))
    table, closing, after = rest.partition(CLOSING)
    if not closing or "<!--" in table or opening in after:
        raise UsageError(f"{page.name} must hold {opening} once and, after it, {CLOSING}")
    return before + opening, closing + after


def _marker(experiment: Experiment, part: str) -> str:
    return f"{experiment.name}/{part}" if part else experiment.name


def _opening(marker: str) -> str:
    return f"<!-- result: {marker} -->"


def _mark(path: Path, source: str) -> None:
    """Put into a PNG what it was drawn from."""
    from PIL import Image, PngImagePlugin

    with Image.open(path) as picture:
        picture.load()
        text = PngImagePlugin.PngInfo()
        text.add_text("Source", source)
        picture.save(path, "PNG", pnginfo=text, dpi=picture.info.get("dpi"), optimize=True)


def _mark_of(path: Path) -> str | None:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.info.get("Source")


# --- processes -------------------------------------------------------------------------------------------------


def in_processes(function: Callable, jobs: Iterable[tuple], processes: int) -> Iterator[Future]:
    """Calls of a function, `processes` at a time in as many processes of one thread: each as it ends.

    No more are begun once the caller stops asking, as after Ctrl-C; those that run are waited for.
    """
    jobs, running = iter(jobs), set()
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        while True:
            running |= {pool.submit(function, *job) for job in islice(jobs, processes - len(running))}
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from ended


# --- clocks ----------------------------------------------------------------------------------------------------


def seconds(function: Callable[[], object], repeats: int = 1, warmups: int = 1) -> list[float]:
    """How long each of some calls took, after some that do not count; a GPU that is in use is waited for."""
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        _wait()
        began = time.perf_counter()
        function()
        _wait()
        times.append(time.perf_counter() - began)
    return times


def medians(calls: Mapping[Name, Callable[[], object]], rounds: int, *, calls_a_time: int = 1) -> dict[Name, float]:
    """Median seconds of one call each. The calls take turns, so that a slow moment of the machine meets all of them."""

    def repeat(function: Callable[[], object]) -> None:
        for _ in range(calls_a_time):
            function()

    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, function in calls.items():
            times[name] += seconds(partial(repeat, function))
    return {name: statistics.median(found) / calls_a_time for name, found in times.items()}


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


# --- memory ----------------------------------------------------------------------------------------------------


def extra_memory(prepare: Callable[..., Callable[[], object]], *arguments: object) -> int | None:
    """Peak resident bytes of a call above what there was before it, in a process of its own; its result is included.

    prepare(*arguments) makes the call there. None without Linux's /proc.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, arguments).result()


def _peak(prepare: Callable[..., Callable[[], object]], arguments: tuple) -> int:
    run = prepare(*arguments)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    results = run()
    peak = _status("VmHWM")
    del results
    return peak - before


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


# --- inputs ----------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """One call of a memory: the dense form has no slots."""

    theta: Tensor  # [B, T, M], or [B, T, K] in the sparse form, as phi and slots
    phi: Tensor
    value: Tensor  # [B, T, D]
    num_slots: int
    slots: Tensor | None = None
    state: Tensor | None = None  # [B, M, D]

    def arguments(self) -> list[Tensor | int]:
        """In the order in which reference and fast take them."""
        form = [self.value] if self.slots is None else [self.slots, self.value, self.num_slots]
        return [self.theta, self.phi, *form, *([] if self.state is None else [self.state])]

    def leaves(self) -> list[Tensor]:
        """Those that gradients are asked of."""
        return [v for v in (self.theta, self.phi, self.value, self.state) if v is not None]

    def cast(self, dtype: torch.dtype, *, requires_grad: bool = False) -> "Inputs":
        """Copies in a dtype; the state stays in float32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        theta, phi, value = (v.detach().to(dtype, copy=True) for v in (self.theta, self.phi, self.value))
        state = None if self.state is None else self.state.detach().to(wide, copy=True)
        made = self._replace(theta=theta, phi=phi, value=value, state=state)
        for leaf in made.leaves():
            leaf.requires_grad_(requires_grad)
        return made

    def at(self, t: int) -> "Inputs":
        """One token, as a step takes it."""
        slots = None if self.slots is None else self.slots[:, t]
        theta, phi, value = (v.detach()[:, t] for v in (self.theta, self.phi, self.value))
        return self._replace(theta=theta, phi=phi, value=value, slots=slots)


def router_inputs(
    batch: int, tokens: int, num_slots: int, width: int, top_k: int | None = None, *, skew: float | None = None,
    rates: tuple[float, float] | None = (0.6, 0.5), state: bool = False, requires_grad: bool = False,
    dtype: torch.dtype = torch.float32, weights_dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu", seed: int = SEED,
) -> Inputs:  # fmt: skip
    """Random inputs as a layer's router makes them: affinities by softmax, times an update and a merge rate.

    top_k makes the sparse form. skew: None for the normal logits of a fresh router; a number makes the slots' use
    follow a Zipf law with that exponent, 0 for even use. rates: update and merge rate; None draws both for each token.
    weights_dtype: of theta and phi, where it is not that of the value.

    >>> inputs = router_inputs(1, 5, 4, 3, top_k=2)
    >>> [tuple(v.shape) for v in (inputs.theta, inputs.slots, inputs.value)]
    [(1, 5, 2), (1, 5, 2), (1, 5, 3)]
    >>> bool(inputs.theta.sum(-1).allclose(torch.tensor(0.6)))
    True
    """
    on = {"generator": torch.Generator(device).manual_seed(seed), "device": device}
    if skew is None:
        logits = torch.randn(batch, tokens, num_slots, **on)
    else:  # with Gumbel noise the largest logit is drawn from the law itself
        noise = -torch.log(-torch.log(torch.rand(batch, tokens, num_slots, **on)))
        logits = noise - skew * torch.arange(1, num_slots + 1, device=device).log()
    slots = None
    if top_k is not None:
        logits, slots = logits.topk(top_k)
    affinity = logits.softmax(-1)
    value = torch.randn(batch, tokens, width, **on).to(dtype)
    update, merge = torch.randn(2, batch, tokens, 1, **on).sigmoid() if rates is None else rates
    theta, phi = ((rate * affinity).to(weights_dtype or dtype) for rate in (update, merge))
    initial = torch.randn(batch, num_slots, width, **on) if state else None
    made = Inputs(theta, phi, value, num_slots, slots, initial)
    for leaf in made.leaves():
        leaf.requires_grad_(requires_grad)
    return made


def forward(memory: Callable, inputs: Inputs) -> Callable[[], object]:
    """A call of the memory without gradients."""

    def run():
        with torch.no_grad():
            return memory(*inputs.arguments())

    return run


def forward_backward(memory: Callable, inputs: Inputs) -> Callable[[], object]:
    """A call of the memory and the gradients of y."""
    generator = torch.Generator(inputs.value.device).manual_seed(SEED + 1)
    dy = torch.randn(inputs.value.shape, generator=generator, device=inputs.value.device).to(inputs.value.dtype)
    return lambda: torch.autograd.grad(memory(*inputs.arguments())[0], inputs.leaves(), dy)

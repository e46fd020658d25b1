"""The command line: python -m lm train | evaluate | generate | publish."""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

import fast
from lm import checkpoint, plots
from lm.checkpoint import CheckpointError
from lm.data import SPLITS, Corpus, DataError, Document, read_corpus, reference_lines
from lm.evaluate import bucket_edges, document_loss, file_windows, loss_sums, summarise, table
from lm.generate import Report, generate, printable
from lm.model import OPTIONS, Config, LanguageModel, mixers_with
from lm.train import Diverged, Settings, check_same, resume, train

# option: (field of Config, what it is)
MODEL_OPTIONS = {
    "mixer": ("mixer", "what mixes the tokens"),
    "width": ("d_model", "model width"),
    "layers": ("num_layers", "number of blocks"),
    "mlp-width": ("mlp_width", "width of the SwiGLU"),
    "slots": ("num_slots", "memory slots a layer"),
    "top-k": ("top_k", "slots a token uses"),
    "tau": ("temperature", "temperature of the router"),
    "rates": ("rates", "update and merge rates for each"),
    "router-noise": ("router_noise", "standard deviation of noise on the router's logits in training"),
    "balance": ("balance", "weight of a loss that evens out the use of slots"),
    "backend": ("backend", "how the memory is computed"),
    "expansion": ("expansion", "slot or inner width over the model's"),
    "conv": ("conv", "width of the short convolution, 0 for none"),
    "head-width": ("head_width", "width of a head"),
    "state-width": ("state_width", "state numbers per channel"),
}
DERIVED = {"mlp_width": "in proportion", "top_k": "a quarter of the slots"}  # defaults that depend on other options
CHOICES = {"mixer": tuple(OPTIONS), "rates": ("token", "slot"), "backend": ("auto", *fast.backends())}

RUN = "folder of a run or of one checkpoint, or the name of a model that comes along (fm; ./fm is a folder)"

SETTINGS_OPTIONS = {
    "steps": "optimiser steps",
    "batch": "windows a step",
    "length": "bytes a window",
    "before": "bytes read before every other window, for a state that is not empty",
    "lr": "highest learning rate",
    "warmup": "steps until it is reached",
    "weight-decay": "decay of the matrices",
    "clip": "largest norm of the gradient",
    "evaluate-every": "steps between held-out losses, each with a checkpoint",
    "seed": "of the weights and the batches",
}


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 1 (diverged), 2 (unusable input) or 130 (Ctrl-C)."""
    with _output():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
        sys.stdout.flush()  # here, so that a broken pipe shows while it can be dealt with
        return 0
    except (UsageError, DataError, CheckpointError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, head for one, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _complain(args, error, 2)
    except (Diverged, torch.OutOfMemoryError) as error:
        return _complain(args, error, 1)
    except KeyboardInterrupt as interrupt:
        return _complain(args, interrupt if interrupt.args else "interrupted", 130)


@contextmanager
def _output() -> Iterator[None]:
    """Streams that take whatever is printed."""
    with ExitStack() as until_the_end:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:  # closed by whoever started this program
                until_the_end.enter_context(
                    redirect(until_the_end.enter_context(open(os.devnull, "w", encoding="utf-8")))
                )
            elif hasattr(stream, "reconfigure"):  # a notebook's lacks it
                stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a ?
        yield


def _complain(args: argparse.Namespace, message: object, code: int) -> int:
    print(f"python -m lm {args.command}: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lm", description="A byte-level language model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | evaluate | generate | publish")
    _train_options(commands.add_parser("train", help="train a model, or go on with one"))
    _evaluate_options(commands.add_parser("evaluate", help="loss by position, in a table and a figure"))
    _generate_options(commands.add_parser("generate", help="text that follows a prompt"))
    _publish_options(commands.add_parser("publish", help="measure a model and put it among those that come along"))
    return parser


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.add_argument("--out", help="folder of the run (default: out/MIXER)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own options")
    where.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _text_option(parser)
    _device_option(parser)
    model = parser.add_argument_group("model")
    for option, (field, what) in MODEL_OPTIONS.items():
        mixers = mixers_with(field)
        value = getattr(Config(mixer=mixers[-1]), field)
        default = DERIVED.get(field, Config().mixer if field == "mixer" else value)
        only = "" if mixers == tuple(OPTIONS) else f"{', '.join(mixers)}: "
        _given_only(model, option, field, type(value), f"{only}{what} (default: {default})", CHOICES.get(option))
    model.add_argument("--no-gate", dest="gate", action="store_false", default=argparse.SUPPRESS,
                       help=f"{', '.join(mixers_with('gate'))}: without the output gate")  # fmt: skip
    training = parser.add_argument_group("training")
    settings = Settings()
    for option, what in SETTINGS_OPTIONS.items():
        field = option.replace("-", "_")
        default = getattr(settings, field)
        _given_only(training, option, field, type(default), f"{what} (default: {default})")


def _given_only(group, option: str, field: str, kind: type, what: str, choices=None) -> None:
    """An option that is absent from the result unless it was given."""
    shown = None if choices else {int: "N", float: "X", str: "NAME"}[kind]
    group.add_argument(
        f"--{option}", dest=field, type=kind, help=what, choices=choices, metavar=shown, default=argparse.SUPPRESS
    )


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{RUN} (default: all that come along)")
    parser.add_argument("--context", type=_positive, default=2048, help="longest position (default: %(default)s)")
    parser.add_argument("--split", choices=list(SPLITS), default="test", help="(default: %(default)s)")
    parser.add_argument("--reset", action="store_true", help="also with the state emptied every training length")
    parser.add_argument("--per-file", type=_positive, default=8, help="most windows a file (default: %(default)s)")
    parser.add_argument("--out", help="folder for length.json and length.png (default: the first run's; out)")
    _text_option(parser, "what the first run was trained on")
    _device_option(parser)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_generate)
    parser.add_argument("run_folder", nargs="?", default="fm-sparse", metavar="RUN", help=f"{RUN} (default: fm-sparse)")
    parser.add_argument("--prompt", default="", help="text to go on from (default: the start of a file)")
    parser.add_argument("--length", type=_positive, default=500, help="most bytes (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest (default: 0.8)")
    parser.add_argument("--top-p", type=float, default=0.95, help="share of the likeliest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    _device_option(parser)


def _publish_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_publish)
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run or of one checkpoint")
    parser.add_argument("name", nargs="?", metavar="NAME", help="(default: the mixer)")
    parser.add_argument("--context", type=_positive, default=16384, help="longest position (default: %(default)s)")
    parser.add_argument("--folder", default=str(checkpoint.PUBLISHED), help="where to (default: lm/checkpoints)")
    _text_option(parser, "what the run was trained on")


def _text_option(parser: argparse.ArgumentParser, default: str = "the standard library of this Python") -> None:
    parser.add_argument("--text", help=f"a file or folder of text (default: {default})")


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: a GPU where there is one)")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


@contextmanager
def _usage_errors(*kinds: type) -> Iterator[None]:
    """What a check of the user's values raises is the user's to read; any other ValueError is a fault of ours.

    The message speaks of the options given in place of the fields, of these kinds, that they went to.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(_in_flags(str(error), [field for kind in kinds for field in _fields(kind)])) from error


def _in_flags(message: str, fields: list[str]) -> str:
    """
    >>> _in_flags("top_k must be None or lie in [1, num_slots = 4], got 5", ["top_k", "num_slots"])
    '--top-k must be None or lie in [1, --slots = 4], got 5'
    """
    renamed = {field: flag for field, flag in zip(fields, _flags(fields), strict=True) if flag != f"--{field}"}
    return re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), message)


def _train(args: argparse.Namespace) -> None:
    device = _device(args.device)
    given = vars(args)
    chosen = {field: given[field] for field in _fields(Config) if field in given}
    how = {field: given[field] for field in _fields(Settings) if field in given}
    if args.resume:
        if chosen or how:
            raise UsageError(f"--resume takes the run's own options: leave out {', '.join(_flags(chosen | how))}")
        if args.out is None:
            raise UsageError("--resume needs --out, the folder of the run")
        _, record, _ = checkpoint.read(args.out)
        corpus = read_corpus(args.text or record["text"])
        resume(args.out, corpus, text=args.text, device=device, quiet=args.quiet)
        print(f"saved {checkpoint.latest(args.out)}")
        return
    with _usage_errors(Config, Settings):
        config, settings = _config(chosen), Settings(**how)
        parameters = _parameters(config)
    _check_memory(parameters, device)
    folder = Path(args.out or f"out/{config.mixer}")
    corpus = read_corpus(args.text, folder)
    print(f"{config.mixer}, {parameters:,} parameters, {corpus.summary()}", flush=True)
    train(config, settings, corpus, folder, text=args.text, overwrite=args.overwrite, device=device, quiet=args.quiet)
    print(f"saved {checkpoint.latest(folder)}")


def _config(chosen: dict) -> Config:
    mixer = chosen.get("mixer", Config.mixer)
    for field, flag in zip(chosen, _flags(chosen), strict=True):
        if mixer not in (mixers := mixers_with(field)):
            raise ValueError(f"{flag} is for --mixer {' or '.join(mixers)}, not for {mixer}")
    config = Config(**chosen)
    if reason := fast.backends().get(config.backend):
        raise ValueError(f"--backend {config.backend} cannot run here: {reason}")
    return config


def _parameters(config: Config) -> int:
    """Of the whole model, from one of one block and one of two, since blocks are alike; neither takes any memory."""
    try:
        with torch.device("meta"):
            one, two = (LanguageModel(dataclasses.replace(config, num_layers=n)).num_parameters() for n in (1, 2))
    except (RuntimeError, OverflowError) as error:
        raise UsageError(f"no model can be so large: {str(error).splitlines()[0]}") from error
    return one + (config.num_layers - 1) * (two - one)


def _check_memory(parameters: int, device: str) -> None:
    needs = 4 * 4 * parameters  # weights, gradients and two moments in float32
    if device == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needs > has:
            raise UsageError(
                f"training {parameters:,} parameters takes {needs / 1e9:,.0f} GB of memory, this machine has "
                f"{has / 1e9:,.0f}; a smaller --width or fewer --layers help"
            )


def _evaluate(args: argparse.Namespace) -> None:
    device = _device(args.device)
    runs = args.runs or checkpoint.published()
    if not runs:
        raise UsageError("no trained model comes along: name the folder of a run")
    if twice := [run for run in runs if runs.count(run) > 1]:
        raise UsageError(f"{twice[0]} is named twice")
    found, records, models = zip(*(checkpoint.read(_find(run)) for run in runs), strict=True)
    mixers = [record["config"]["mixer"] for record in records]
    names = mixers if len(set(mixers)) == len(mixers) else runs
    corpus = _corpus_of(found[0], records[0], args.text)
    windows, paths = file_windows(corpus, args.split, args.context, args.per_file)
    folder = Path(args.out or ("out" if found[0].parent == checkpoint.PUBLISHED else runs[0]))
    checkpoint.writable(folder)
    length = records[0]["settings"]["length"]
    carried, emptied = {}, {}
    for name, model in zip(names, models, strict=True):
        model.to(device)
        for reset, results in [(False, carried), (True, emptied)][: 1 + args.reset]:
            sums = loss_sums(model, windows, length, reset=reset, label=name)
            results[name] = summarise(sums, paths, bucket_edges(args.context))
    if corpus.manifest_hash != records[0]["corpus"]["manifest_hash"]:
        print(f"trained on {records[0]['corpus']['name']}, measured on {corpus.name}")
    print(table(carried, length))
    if emptied:
        print(f"\nstate emptied every {length} bytes\n{table(emptied, length)}")
    references = reference_lines(corpus.text(args.split))
    print("\n" + ", ".join(f"{name} {bits:.2f}" for name, bits in references.items()) + " bits per byte")
    plots.draw_lengths(carried, folder / "length.png", train_length=length, reset=emptied, references=references)
    result = {
        "corpus": corpus.description(),
        "split": args.split,
        "runs": {
            name: {"checkpoint": str(path), **checkpoint.without_manifest(record)}
            for name, path, record in zip(names, found, records, strict=True)
        },
        "carried": {name: dataclasses.asdict(buckets) for name, buckets in carried.items()},
        "reset": {name: dataclasses.asdict(buckets) for name, buckets in emptied.items()},
        "references": references,
    }
    (folder / "length.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'length.json'} and {folder / 'length.png'}")


def _publish(args: argparse.Namespace) -> None:
    found, record, model = checkpoint.read(_find(args.run_folder))
    corpus = _corpus_of(found, record, args.text)
    name = args.name or record["config"]["mixer"]
    if Path(name).name != name or name.startswith("."):
        raise UsageError(f"NAME must be the name of a folder, without a path and no dot first, got {name}")
    windows, paths = file_windows(corpus, "test", args.context)
    checkpoint.writable(Path(args.folder), "--folder")
    length = record["settings"]["length"]

    def results(model: LanguageModel) -> dict:
        sums = [loss_sums(model, windows, length, reset=reset, label=name) for reset in (False, True)]
        carried, emptied = (summarise(v, paths, bucket_edges(args.context)) for v in sums)
        print(table({name: carried, f"every {length} emptied": emptied}, length))
        few = sorted(corpus.splits["test"], key=lambda document: len(document.data))[:3]
        return {
            "carried": dataclasses.asdict(carried),
            "reset": dataclasses.asdict(emptied),
            "references": reference_lines(corpus.text("test")),
            "files": {document.path: document_loss(model, document) for document in few},
            "license": document_loss(model, Document("LICENSE", license_text())),
        }

    final = checkpoint.publish(record, model, name, results, Path(args.folder))
    print(f"wrote {final}: {sum(file.stat().st_size for file in final.iterdir()) / 1e6:.2f} MB")
    if final.parent == checkpoint.PUBLISHED:
        print("python -m experiments length --draw puts it into the table and the figure of all")


def license_text() -> bytes:
    """The licence, a text that is the same on every machine: beside the code in a clone, else among the package's."""
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():
        return (root / "LICENSE").read_text(encoding="utf-8").encode()  # as text: its line ends differ between systems
    try:
        found = importlib.metadata.distribution("factorization-memory").read_text("licenses/LICENSE")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None:
        raise UsageError("the text of the LICENSE, which a published model reads, is neither in a clone nor installed")
    return found.encode()


def _generate(args: argparse.Namespace) -> None:
    _, _, model = checkpoint.read(_find(args.run_folder), _device(args.device))
    report = Report()
    with _usage_errors():
        tokens = generate(
            model, os.fsencode(args.prompt), args.length, temperature=args.temperature, top_p=args.top_p,
            seed=args.seed, report=report,
        )  # fmt: skip
    print(args.prompt, end="")
    for piece in printable(tokens):
        print(piece, end="", flush=True)
    print()
    print(report, file=sys.stderr)


def _find(run: str) -> Path:
    found = checkpoint.find(run)
    if found.parent == checkpoint.PUBLISHED and checkpoint.checkpoints(Path(run)):
        print(f"{run} is the model that comes along; ./{run} is the run in the folder", file=sys.stderr)
    return found


def _corpus_of(path: Path, record: dict, text: str | None) -> Corpus:
    """The text given or, without one, that of a checkpoint, which must be as it was.

    A model that comes along may meet the library of another Python: its test split has files of the same names.
    """
    corpus = read_corpus(text or record["text"])
    if text is None and path.parent != checkpoint.PUBLISHED:
        check_same(corpus, record, path)
    return corpus


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" is a device without numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].removesuffix(".")
        raise UsageError(f"--device {name} cannot be used here: {reason}") from error
    return name


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _flags(fields: Iterable[str]) -> list[str]:
    known = {field: option for option, (field, _) in MODEL_OPTIONS.items()} | {"gate": "no-gate"}
    return [f"--{known.get(field, field.replace('_', '-'))}" for field in fields]

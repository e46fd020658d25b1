"""The command line: python -m lm train | evaluate | generate | publish | check."""

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

import fast
from layers import mixers_with
from lm import check, checkpoint, machine, plots, pretrained
from lm.checkpoint import CheckpointError
from lm.data import SPLITS, Corpus, DataError, read_corpus, reference_lines
from lm.evaluate import evaluate, file_windows, table
from lm.flags import Flag, flags_of, flags_of_models, in_flags
from lm.generate import Report, generate, printable
from lm.model import Config, LanguageModel
from lm.run import Run, Settings
from lm.train import Diverged, check_same, resume, train

RUN = "folder of a run or of one checkpoint, or the name of a bundled model (fm; ./fm is a folder)"


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 1 (diverged), 2 (unusable input) or 130 (Ctrl-C)."""
    with _output():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    args = _parser().parse_args(arguments)
    try:
        code = args.run(args)
        sys.stdout.flush()  # here, so that a broken pipe shows while it can be dealt with
        return code or 0
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
            elif isinstance(stream, io.TextIOWrapper):  # a notebook's is none
                stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a ?
        yield


def _complain(args: argparse.Namespace, message: object, code: int) -> int:
    print(f"python -m lm {args.command}: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lm", description="A byte-level language model.")
    names = "train | evaluate | generate | publish | check"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    _train_options(commands.add_parser("train", help="train a model, or go on with one"))
    _evaluate_options(commands.add_parser("evaluate", help="loss by position, in a table and a figure"))
    _generate_options(commands.add_parser("generate", help="text that follows a prompt"))
    _publish_options(commands.add_parser("publish", help="measure a model and put it among the bundled ones"))
    commands.add_parser("check", help=check.HELP, description=check.HELP).set_defaults(run=lambda _: check.main([]))
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
    for flag in flags_of_models():
        flag.add_to(model)
    training = parser.add_argument_group("training")
    for flag in flags_of(Settings()):
        flag.add_to(training)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{RUN} (default: all bundled models)")
    parser.add_argument("--context", type=_positive, default=2048, help="longest position (default: %(default)s)")
    parser.add_argument("--split", choices=list(SPLITS), default="test", help="(default: %(default)s)")
    parser.add_argument("--reset", action="store_true", help="also with the state reset every training length")
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
    parser.add_argument("--folder", default=str(pretrained.FOLDER), help="where to (default: lm/checkpoints)")
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
def _usage_errors(flags: Sequence[Flag] = ()) -> Iterator[None]:
    """What a check of the user's values raises is the user's to read; any other ValueError is a fault of ours.

    The message speaks of the options given in place of the fields that they went to.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(in_flags(str(error), flags)) from error


def _train(args: argparse.Namespace) -> None:
    device = _device(args.device)
    of_model, of_training = flags_of_models(), flags_of(Settings())
    chosen, how = ([flag for flag in flags if flag.field in args] for flags in (of_model, of_training))
    if args.resume:
        if chosen or how:
            given = ", ".join(f"--{flag.name}" for flag in (*chosen, *how))
            raise UsageError(f"--resume takes the run's own options: leave out {given}")
        if args.out is None:
            raise UsageError("--resume needs --out, the folder of the run")
        _, run, _ = checkpoint.read(args.out)
        corpus = read_corpus(args.text or run.text)
        resume(args.out, corpus, text=args.text, device=device, quiet=args.quiet)
        print(f"saved {checkpoint.latest(args.out)}")
        return
    with _usage_errors([*of_model, *of_training]):
        config = _config(args, chosen)
        settings = Settings(**{flag.field: getattr(args, flag.field) for flag in how})
        parameters = _parameters(config)
    _check_memory(parameters, device)
    folder = Path(args.out or f"out/{config.mixer}")
    corpus = read_corpus(args.text, folder)
    print(f"{config.mixer}, {parameters:,} parameters, {corpus.summary()}", flush=True)
    train(config, settings, corpus, folder, text=args.text, overwrite=args.overwrite, device=device, quiet=args.quiet)
    print(f"saved {checkpoint.latest(folder)}")


def _config(args: argparse.Namespace, chosen: list[Flag]) -> Config:
    given = {flag.field: getattr(args, flag.field) for flag in chosen}
    mixer = given.get("mixer", Config.mixer)
    for flag in chosen:
        if (having := mixers_with(flag.field)) and mixer not in having:
            raise ValueError(f"--{flag.name} is for --mixer {' or '.join(having)}, not for {mixer}")
    if reason := fast.backends().get(given.get("backend", "auto")):
        raise ValueError(f"--backend {given['backend']} cannot run here: {reason}")
    return Config.of(**given)


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
    has = machine.memory()
    if device == "cpu" and has is not None and needs > has:
        raise UsageError(
            f"training {parameters:,} parameters takes {needs / 1e9:,.0f} GB of memory, this machine has "
            f"{has / 1e9:,.0f}; a smaller --width or fewer --layers help"
        )


def _evaluate(args: argparse.Namespace) -> None:
    device = _device(args.device)
    names = args.runs or pretrained.names()
    if not names:
        raise UsageError("no model is bundled: name the folder of a run")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is named twice")
    found, runs, models = zip(*(checkpoint.read(_find(name)) for name in names), strict=True)
    first = runs[0]
    folder = Path(args.out or ("out" if found[0].parent == pretrained.FOLDER else names[0]))
    mixers = [run.config.mixer for run in runs]
    names = mixers if len(set(mixers)) == len(mixers) else names
    corpus = _corpus_of(found[0], first, args.text)
    windows = file_windows(corpus, args.split, args.context, args.per_file)
    checkpoint.writable(folder)
    length = first.settings.length
    by_position = {
        name: evaluate(model.to(device), windows, length, reset=args.reset, label=name)
        for name, model in zip(names, models, strict=True)
    }
    stateful = {name: result.stateful for name, result in by_position.items()}
    reset = {name: result.reset for name, result in by_position.items() if result.reset is not None}
    gain = {name: result.gain for name, result in by_position.items() if result.gain is not None}
    if corpus.manifest_hash != first.corpus.manifest_hash:
        print(f"trained on {first.corpus.name}, measured on {corpus.name}")
    print(table(stateful, length))
    if reset:
        print(f"\nstate reset every {length} bytes\n{table(reset, length)}")
        ends = (f"{name} {of.mean[-1]:.3f} ({of.low[-1]:.3f} to {of.high[-1]:.3f})" for name, of in gain.items())
        print(f"\ngain over reset, last row: {', '.join(ends)}")
    references = reference_lines(corpus.text(args.split))
    print("\n" + ", ".join(f"{name} {bits:.2f}" for name, bits in references.items()) + " bits per byte")
    plots.draw_lengths(stateful, folder / "length.png", train_length=length, gain=gain, references=references)
    result = {
        "corpus": dataclasses.asdict(corpus.description()),
        "split": args.split,
        "runs": {
            name: {"checkpoint": str(path), **dataclasses.replace(run, manifest=None).to_json()}
            for name, path, run in zip(names, found, runs, strict=True)
        },
        "stateful": {name: dataclasses.asdict(buckets) for name, buckets in stateful.items()},
        "reset": {name: dataclasses.asdict(buckets) for name, buckets in reset.items()},
        "gain": {name: dataclasses.asdict(buckets) for name, buckets in gain.items()},
        "references": references,
    }
    (folder / "length.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'length.json'} and {folder / 'length.png'}")


def _publish(args: argparse.Namespace) -> None:
    found, run, model = checkpoint.read(_find(args.run_folder))
    corpus = _corpus_of(found, run, args.text)
    name = args.name or run.config.mixer
    if Path(name).name != name or name.startswith("."):
        raise UsageError(f"NAME must be the name of a folder, without a path and no dot first, got {name}")
    windows = file_windows(corpus, "test", args.context)
    checkpoint.writable(Path(args.folder), "--folder")
    final = pretrained.publish(run, model, name, corpus, windows, Path(args.folder))
    results, length = checkpoint.read_run(final).results, run.settings.length
    assert results is not None
    print(table({name: results.stateful, f"every {length} reset": results.reset}, length))
    print(f"wrote {final}: {sum(file.stat().st_size for file in final.iterdir()) / 1e6:.2f} MB")
    if final.parent == pretrained.FOLDER:
        print("python -m experiments length --no-training puts it into the table of all")


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
    found = pretrained.find(run)
    if found.parent == pretrained.FOLDER and checkpoint.checkpoints(Path(run)):
        print(f"{run} is the bundled model; ./{run} is the run in the folder", file=sys.stderr)
    return found


def _corpus_of(path: Path, run: Run, text: str | None) -> Corpus:
    """The text given or, without one, that of a checkpoint, which must be as it was.

    A bundled model may meet the library of another Python: its test split has files of the same names.
    """
    corpus = read_corpus(text or run.text)
    if text is None and path.parent != pretrained.FOLDER:
        check_same(corpus, run, path)
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

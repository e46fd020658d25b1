"""python -m verify: a kernel on the command line. Exits with 0 (right), 1 (wrong) or 2 (could not run)."""

import argparse
import sys
from typing import NoReturn

from verify import api, files, guess
from verify.adapters import CannotRun, load
from verify.cases import FORMS
from verify.report import Report, line

RIGHT, WRONG, COULD_NOT_RUN = 0, 1, 2
ABOUT = """
  python -m verify MODULE:FUNCTION          a kernel in Python
  python -m verify export cases.npz         cases as a file (or a folder of npy), for a kernel in another language
  python -m verify compare cases.npz mine.npz
  python -m verify --prove                  right implementations, and planted faults with what caught them
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(COULD_NOT_RUN, f"could not run: {message}\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("python -m verify", epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", nargs="*", help="MODULE:FUNCTION, or export FILE, or compare FILE FILE")
    add("--form", choices=FORMS, default="dense")
    add("--vjp", metavar="MODULE:FUNCTION", help="gradients: (the arguments, dy, dfinal_state) -> those of the inputs")
    add("--no-grad", action="store_true", help="leave gradients out")
    add("--no-state", action="store_true", help="the function gives y alone")
    add("--dtypes", help="such as float32,bfloat16; by default all")
    add("--lengths", default=api.LENGTHS, metavar="SIZES", help='what T may be, such as "64*n", 1..512 or 16,32')
    add("--widths", default=api.SIZES, metavar="SIZES", help="what D may be")
    add("--slots", default=api.SIZES, metavar="SIZES", help="what M may be")
    add("--packed", action="store_true", help="the function takes cu_seqlens")
    add("--arrays", help="torch, numpy, jax or another library with DLPack; by default found from the code")
    add("--device", default="cpu")
    add("--laws", type=int, default=0, metavar="N", help="N generated examples for each law; needs hypothesis")
    add("--large", action="store_true", help="more numbers than an int32 counts too; about 20 GB")
    add("--json", action="store_true", help="print the results as JSON")
    add("--prove", action="store_true", help="hold the tool to its own planted faults")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        match options.what:
            case [] if options.prove:
                return _prove()
            case ["export", path]:
                sizes = options.lengths, options.widths, options.slots
                limits = api.limits(options.form, options.dtypes, *sizes, options.packed)
                count = files.export(path, limits, not options.no_grad, not options.no_state)
                print(f"{count} cases in {path}")
                return RIGHT
            case ["compare", cases, mine]:
                results = files.compare_files(cases, mine)
                return _finish(Report(results, guess=guess.from_pattern(results)), options, shown=False)
            case [name]:
                return _finish(_check(name, options), options, shown=not options.json)
        raise CannotRun("one of MODULE:FUNCTION, export FILE, compare FILE FILE or --prove is needed")
    except CannotRun as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN


def _check(name: str, options: argparse.Namespace) -> Report:
    return api.check(
        load(name), options.form, vjp=load(options.vjp) if options.vjp else None, grad=not options.no_grad,
        state=not options.no_state, dtypes=options.dtypes, lengths=options.lengths, widths=options.widths,
        slots=options.slots, packed=options.packed, arrays=options.arrays, device=options.device, laws=options.laws,
        large=options.large, show=None if options.json else lambda result: print(line(result), flush=True),
    )  # fmt: skip


def _finish(report: Report, options: argparse.Namespace, shown: bool) -> int:
    if options.json:
        print(report.json())
    else:
        print("\n".join(report.tail()) if shown else report)
    return RIGHT if report.ok else WRONG


def _prove() -> int:
    from verify.faults import prove

    return RIGHT if prove(lambda text: print(text, flush=True)) else WRONG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

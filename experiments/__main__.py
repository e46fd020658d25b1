"""python -m experiments NAME runs an experiment; without a name it lists them."""

import os
import sys
from importlib import import_module

from experiments import EXPERIMENTS

LOADED = ("claims",)  # whose results others store

if sys.argv[1:2] == ["demo"]:
    # Torch's idle threads spin while they wait for work, and the demo shares its cores with whatever else runs there:
    # lm/__main__.py has the figures. GNU OpenMP reads this once, so before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def draw(name: str) -> int:
    """What shows the stored result of an experiment; nothing where there is none."""
    from experiments import frame

    stored = frame.RESULTS / f"{name}.json"
    if name in LOADED or stored.exists():
        experiment = import_module(f"experiments.{name}").EXPERIMENT
        return frame.main(experiment, ["--draw"]) if experiment.tables or experiment.figures else 0
    return 0


def main(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("python -m experiments NAME [--help], or --draw for the tables and figures of all that is stored\n")
        print(*(f"    {known:<15}{what}" for known, what in EXPERIMENTS.items()), sep="\n")
        return 0
    if name == "--draw" and not rest:
        return max(map(draw, EXPERIMENTS))
    if name not in EXPERIMENTS:
        print(f"python -m experiments: no experiment {name!r}; there are {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    experiment = import_module(f"experiments.{name}").EXPERIMENT
    from experiments import frame

    return frame.main(experiment, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

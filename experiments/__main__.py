"""python -m experiments NAME runs an experiment; without a name it lists them."""

import os
import sys
from importlib import import_module

from experiments import EXPERIMENTS

if sys.argv[1:2] == ["demo"]:
    # Torch's idle threads spin while they wait for work, and the demo shares its cores with whatever else runs there:
    # lm/__main__.py has the figures. GNU OpenMP reads this once, so before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("python -m experiments NAME [--help]\n")
        print(*(f"    {known:<15}{what}" for known, what in EXPERIMENTS.items()), sep="\n")
        return 0
    if name not in EXPERIMENTS:
        print(f"python -m experiments: no experiment {name!r}; there are {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    experiment = import_module(f"experiments.{name}").EXPERIMENT
    from experiments import frame

    return frame.main(experiment, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""python -m lm: the commands are in lm/cli.py."""

import os
import sys

# Torch's idle threads spin while they wait for work. Where another program wants a core too, that makes training four
# times as slow; sleeping at once costs a quarter where none does; a short spin costs 8 % and 50 % (two cores, an
# fm-sparse step). GNU OpenMP reads this once, so before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from lm.cli import main

if __name__ == "__main__":
    sys.exit(main())

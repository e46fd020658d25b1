"""python -m lm: the commands are in lm/command_line.py."""

import os
import sys

# Torch's idle threads spin, waiting for work; where another program wants a core too, that can make every step ten
# times as slow. Sleeping costs little. It has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lm.command_line import main

if __name__ == "__main__":
    sys.exit(main())

"""python -m tests.mutants [part of a name]."""

import sys

from tests.mutants import main

sys.exit(main())

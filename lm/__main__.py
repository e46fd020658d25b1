"""python -m lm: the commands are in lm/cli.py, and `check` in lm/check.py."""

import os
import sys

# Torch's idle threads spin while they wait for work. Where another program wants a core too, that makes training four
# times as slow; sleeping at once costs a quarter where none does; a short spin costs 8 % and 50 % (two cores, an
# fm-sparse step). GNU OpenMP reads this once, so before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main() -> int:
    if sys.argv[1:2] == ["check"]:  # which runs where what the other commands import is missing
        from lm import check

        return check.main(sys.argv[2:])
    from lm import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""raypipe cluster for `ray job submit`; takes the options of `raypipe cluster`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["cluster", *sys.argv[1:]]))

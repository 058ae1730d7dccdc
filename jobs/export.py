"""raypipe export for `ray job submit`; takes the options of `raypipe export`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

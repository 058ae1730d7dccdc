"""raypipe report for `ray job submit`; takes the options of `raypipe report`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

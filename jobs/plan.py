"""raypipe plan for `ray job submit`; takes the options of `raypipe plan`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))

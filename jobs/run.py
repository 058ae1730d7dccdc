"""raypipe run for `ray job submit`; takes the options of `raypipe run`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

"""raypipe simulate for `ray job submit`; takes the options of `raypipe simulate`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["simulate", *sys.argv[1:]]))

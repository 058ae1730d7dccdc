"""raypipe explore for `ray job submit`; takes the options of `raypipe explore`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))

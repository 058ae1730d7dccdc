"""raypipe classify for `ray job submit`; takes the options of `raypipe classify`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["classify", *sys.argv[1:]]))

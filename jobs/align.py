"""raypipe align for `ray job submit`; takes the options of `raypipe align`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))

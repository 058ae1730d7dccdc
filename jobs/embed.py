"""raypipe embed for `ray job submit`; takes the options of `raypipe embed`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))

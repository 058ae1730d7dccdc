"""raypipe models for `ray job submit`; takes the options of `raypipe models`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["models", *sys.argv[1:]]))

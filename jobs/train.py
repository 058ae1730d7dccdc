"""raypipe train for `ray job submit`; takes the options of `raypipe train`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

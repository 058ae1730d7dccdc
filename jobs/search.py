"""raypipe search for `ray job submit`; takes the options of `raypipe search`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))

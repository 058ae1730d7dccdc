"""raypipe compare for `ray job submit`; takes the options of `raypipe compare`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))

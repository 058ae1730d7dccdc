"""raypipe discover for `ray job submit`; takes the options of `raypipe discover`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["discover", *sys.argv[1:]]))

"""raypipe evaluate for `ray job submit`; takes the options of `raypipe evaluate`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

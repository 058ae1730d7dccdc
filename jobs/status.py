"""raypipe status for `ray job submit`; takes the options of `raypipe status`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))

"""raypipe reprocess for `ray job submit`; takes the options of `raypipe reprocess`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["reprocess", *sys.argv[1:]]))

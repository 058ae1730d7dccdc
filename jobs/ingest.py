"""raypipe ingest for `ray job submit`; takes the options of `raypipe ingest`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))

"""raypipe describe for `ray job submit`; takes the options of `raypipe describe`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["describe", *sys.argv[1:]]))

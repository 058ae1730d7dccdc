"""raypipe tune for `ray job submit`; takes the options of `raypipe tune`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))

"""raypipe translate for `ray job submit`; takes the options of `raypipe translate`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["translate", *sys.argv[1:]]))

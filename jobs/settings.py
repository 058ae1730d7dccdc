"""raypipe settings for `ray job submit`; takes the options of `raypipe settings`."""

import sys

from raypipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["settings", *sys.argv[1:]]))

"""Prepare the sky that the model in the box is trained on.

Usage: python -m recipes.any_telescope prepare --data DIR --out FILE [--population N] [--fitted N]
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from recipes.any_telescope.prepare import prepare

FOLDERS = ("responses", "csc", "missions")
"""Folders of real spectra with responses; those of `ciao` are never seen in training."""


def main() -> None:
    """Prepare a sky and save it."""
    parser = argparse.ArgumentParser(prog="python -m recipes.any_telescope")
    add = parser.add_argument
    add("verb", choices=("prepare",))
    add("--data", type=Path, required=True, help="folder with responses, csc, missions and catalog")
    add("--out", type=Path, required=True)
    add("--population", type=int, default=22_000, help="sources of the built-in classes")
    add("--fitted", type=int, default=8_000, help="sources from fits of real detections")
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    catalog = options.data / "catalog" / "csc20_detections.parquet"
    folders = [options.data / name for name in FOLDERS]
    sky = prepare(folders, catalog, options.population, options.fitted, options.seed)
    sky.save(options.out)


if __name__ == "__main__":
    main()

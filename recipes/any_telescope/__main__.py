"""Prepare the sky that the model in the box is trained on, and make the bundle of a network.

Usage: python -m recipes.any_telescope prepare --data DIR --sky FILE [--population N] [--fitted N]
       python -m recipes.any_telescope.train SKY NETWORK [...]
       python -m recipes.any_telescope bundle --data DIR --sky FILE --network FILE --out FOLDER

DIR has the folders `responses`, `csc`, `missions` and `catalog`, and `ciao`, whose spectra are
judged but whose responses are not trained on.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

FOLDERS = ("responses", "csc", "missions")


def main() -> None:
    """Prepare a sky, or make a bundle."""
    parser = argparse.ArgumentParser(prog="python -m recipes.any_telescope")
    add = parser.add_argument
    add("verb", choices=("prepare", "bundle"))
    add("--data", type=Path, required=True)
    add("--sky", type=Path, required=True)
    add("--population", type=int, default=22_000, help="sources of the built-in classes")
    add("--fitted", type=int, default=8_000, help="sources from fits of real detections")
    add("--seed", type=int, default=0)
    add("--network", type=Path)
    add("--out", type=Path, help="folder of the bundle; its name is the model's")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folders = [options.data / name for name in FOLDERS]
    if options.verb == "prepare":
        from recipes.any_telescope.prepare import prepare

        catalog = options.data / "catalog" / "csc20_detections.parquet"
        sky = prepare(folders, catalog, options.population, options.fitted, options.seed)
        sky.save(options.sky)
        return
    if options.network is None or options.out is None:
        parser.error("bundle needs --network FILE and --out FOLDER")
    from recipes.any_telescope.bundle import make_bundle

    out: Path = options.out
    print(make_bundle(options.network, options.sky, options.data, folders, out, out.name))


if __name__ == "__main__":
    main()

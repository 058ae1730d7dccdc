"""Measure whether latents are those of the source, whatever telescope observed it.

Usage: python -m benchmarks.telescopes all --data DIR --workdir DIR [--set KEY=VALUE ...]
       python -m benchmarks.telescopes prepare --data DIR --workdir DIR
       python -m benchmarks.telescopes fit --workdir DIR [--without NICER | --only CHANDRA] [...]
       python -m benchmarks.telescopes judge --data DIR --workdir DIR [--json FILE] [--plot FILE]

DIR of --data has the folders `responses`, `csc` and `missions`, whose responses the surveys are
drawn through, and `ciao`, whose spectra are judged as well. `prepare` draws the surveys into arrays
in --workdir. `fit` trains a network on them and keeps it in --workdir; it needs torch and the
package's model and learner, no Ray, no xraydb and no astropy, so that it can run on another machine
that has the folder. --without leaves out a telescope (the word of TELESCOP), --only leaves out all
others. `judge` prints the table of all networks that are there. `all` does everything, with one
network for all telescopes, one without each of them, and a short training on ACIS alone for the
time per spectrum.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.telescopes.fit import Choice, fit

EPOCHS_OF_TIMING = 2


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    settings = [f"train.epochs={options.epochs}", "train.patience=1000", *options.set]
    device = torch.device(options.device)
    if options.verb in ("prepare", "all"):
        from benchmarks.telescopes.views import prepare

        sizes = options.train, options.test, options.sources
        prepare(options.data, options.workdir, *sizes, options.seed)
    if options.verb == "fit":
        choice = Choice(without=options.without, only=options.only)
        fit(options.workdir, choice, settings, device, again=options.again)
    if options.verb == "all":
        fit(options.workdir, Choice(), settings, device)
        timing = [*settings, f"train.epochs={EPOCHS_OF_TIMING}"]
        fit(options.workdir, Choice(only="CHANDRA"), timing, device)
        for telescope in Choice.known(options.workdir):
            fit(options.workdir, Choice(without=telescope), settings, device)
    if options.verb in ("judge", "all"):
        from benchmarks.telescopes.judge import judge

        judge(options.data, options.workdir, device, options.json, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.telescopes", description=(__doc__ or "").split("\n", 1)[0]
    )
    add = parser.add_argument
    add("verb", choices=("prepare", "fit", "judge", "all"))
    add("--data", type=Path, help="folder with responses, csc, missions and ciao")
    add("--workdir", type=Path, required=True, help="folder for arrays and networks")
    add("--train", type=int, default=32_000, help="detections to train on (%(default)s)")
    add("--test", type=int, default=4_000, help="detections to judge (%(default)s)")
    add("--sources", type=int, default=700, help="sources observed several times (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the surveys (%(default)s)")
    add("--epochs", type=int, default=24, help="epochs of every network (%(default)s)")
    add("--set", action="append", default=[], help="setting of all networks, section.key=value")
    add("--without", help="telescope to leave out, as TELESCOP names it")
    add("--only", help="telescope to train on alone")
    add("--again", action="store_true", help="train even if the network is there")
    add("--device", default="cpu", help="device to train and judge on (%(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    add("--json", type=Path, help="file for the figures")
    add("--plot", type=Path, help="file for the plots of real spectra")
    options = parser.parse_args()
    if options.verb != "fit" and options.data is None:
        parser.error(f"{options.verb} needs --data DIR")
    if options.without and options.only:
        parser.error("--without and --only exclude each other")
    return options


if __name__ == "__main__":
    main()

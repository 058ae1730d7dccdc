"""Compare alignments of a catalog's model with those of models that are tuned to the view.

    python -m benchmarks.alignment_finetune --population W --workdir DIR --out FILE
        [--weights 0 0.1 1]

W is the workspace of an embedded survey of the simulated population, which is copied to DIR. The
view are the true parameters of its sources in noise, as in `benchmarks.alignment`. For each weight,
`raypipe align --finetune` tunes the model; weight 0 trains it further without the view, as a
control. All spectra are then encoded with each model, and heads are fitted to each catalog with the
same settings and the same division of sources. They are judged by the same pair of each test
source, which neither tuning nor heads have seen. The Cash statistic per bin is that of the
detections of the test sources, after refinement. `--out` collects the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

import raypipe
from benchmarks.alignment import _copied
from benchmarks.alignment_optima import noisy_parameters
from raypipe.aligning.data import Division, divide, join_view, make_pairs
from raypipe.aligning.fit import fit
from raypipe.aligning.measure import gallery_rows, measure_retrieval
from raypipe.alignment.bundle import About, Alignment
from raypipe.alignment.view_table import read_view_table
from raypipe.catalog.schema import catalog_table
from raypipe.config import Config
from raypipe.identity import source_keys
from raypipe.model.bundle import Model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import model_folder, spectra_folder
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace

DRAWS = 64
ROWS_AT_ONCE = 500
KEY = "detection_id"


def embed(store: Workspace, release: str, model: Model) -> tuple[pa.Table, pd.Series]:
    """Return the catalog of a model, and the Cash statistic per bin by detection_id."""
    library, tables, cash = ResponseLibrary(store), [], []
    settings = model.config.embed.model_copy(update={"posterior_draws": DRAWS, "fluxes": False})
    for name in store.files(spectra_folder(release), ".parquet"):
        part = store.read_table(name)
        for start in range(0, len(part), ROWS_AT_ONCE):
            rows = part.slice(start, ROWS_AT_ONCE).combine_chunks()
            batch = SpectraBatch.from_table(rows, library)
            measured = model.encode_batch(batch, None, settings)
            keys = source_keys(rows["name"].to_pylist(), rows[KEY].to_pylist())
            tables.append(catalog_table(rows, measured, model.split_of(keys), model.model_id))
            each = measured["cash"].to_numpy() / batch.n_bins
            cash.append(pd.Series(each, index=rows[KEY].to_pylist()))
    return pa.concat_tables(tables, promote_options="permissive"), pd.concat(cash)


class Judge:
    """Fit heads to catalogs of several models, and judge each by the same pairs."""

    def __init__(self, table: Path, config: Config) -> None:
        self.table, self.config = table, config
        self.rows: npt.NDArray[np.int64] | None = None

    def judge(self, catalog: pa.Table, cash: pd.Series) -> dict[str, Any]:
        settings = self.config.align
        data = join_view(catalog, read_view_table(self.table, None), None, KEY, 1.0)
        division: Division = divide(data.sources[data.paired], settings)
        pairs, scale = make_pairs(data, division, settings)
        train, test = pairs.take(division.train), pairs.take(division.test)
        fitted = fit(train, pairs.take(division.validation), scale, settings)
        about = About("align-tuned", "", "", str(self.table), KEY)
        made = Alignment(about, self.config, fitted.network)
        self.rows = gallery_rows(test, settings.seed) if self.rows is None else self.rows
        found = measure_retrieval(made, train, test.take(self.rows), settings.seed)
        ids = data.detection_ids.take(pa.array(data.paired[division.test])).to_pylist()
        values = cash.loc[ids].to_numpy()
        error = float(values.std() / np.sqrt(len(values)))
        return found | {"cash_per_bin": float(values.mean()), "cash_err": error, "cash": values}


def line(name: str, found: dict[str, Any], base: dict[str, Any]) -> str:
    judged = found["retrieval"]["to_view"]
    recalls = [
        f"{judged[key]:.3f} ± {judged[f'{key}_err']:.3f}"
        for key in ("at_1", "at_1_percent", "at_5_percent")
    ]
    rank = f"{judged['median_rank']:.0f} ± {judged['median_rank_err']:.0f}"
    change = found["cash"] - base["cash"]
    error = change.std() / np.sqrt(len(change))
    cells = [name, *recalls, rank, f"{found['cash_per_bin']:.4f}"]
    return f"| {' | '.join([*cells, f'{change.mean():+.4f} ± {error:.4f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for option in ("population", "workdir", "out"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    workspace = _copied(given.population, given.workdir)
    store = Workspace(workspace)
    release = choose_release(store, None)
    frame = raypipe.open_catalog(store)
    model_id = str(frame["model_id"].iloc[0])
    _, noisy = noisy_parameters(frame)
    table = given.workdir / "parameters.parquet"
    pd.concat([frame[[KEY]], noisy], axis=1).to_parquet(table)

    results: dict[str, Any] = {}
    judge = Judge(table, Config.model_validate({"align": {}}))
    print("| model | at 1 | 1% | 5% | median | Cash per bin | change of Cash |")
    print("|---" * 7 + "|", flush=True)

    def add(name: str, model_id: str) -> None:
        model = raypipe.load_model(store.absolute_uri(model_folder(model_id)))
        results[name] = judge.judge(*embed(store, release, model))
        print(line(name, results[name], results["frozen"]), flush=True)

    add("frozen", model_id)
    for weight in given.weights:
        settings = {"align": {"permutations": 0, "finetune_weight": weight}}
        made = raypipe.align(
            store, with_=table, key=KEY, model=model_id, finetune=True, config=settings
        )
        name = f"tuned, weight {weight:g}"
        add(name, made["finetuned"]["model_id"])
        results[name]["finetuned"] = made["finetuned"]
        figures = {
            key: {k: v for k, v in each.items() if k != "cash"} for key, each in results.items()
        }
        given.out.write_text(json.dumps(figures, indent=1, default=float))


if __name__ == "__main__":
    main()

"""Compare what features tell about the class of a source, on a survey and on real CSC rows.

    python -m benchmarks.classes --workspace W --truth truth.parquet \
        --table csc20_detections.parquet \
        [--muwclass muwclass_probabilities.parquet] [--umlcaxs umlcaxs_sources.parquet]

The workspace has the catalog of a survey that `simulate --catalog` has drawn from the table;
`truth.parquet` says from which row each detection was drawn. Variability and context are those of
the row. One forest and one protocol serves all features: folds of whole sources, repeated; all
classes weigh the same. Errors come from resampled sources, and those of differences from the same
resampled sources for both. With `--muwclass`, the classes are those of the literature in its table
(`True_Class`), else those of the table: `muwclass_true_class` there is what MUWCLASS predicts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

import raypipe
from raypipe.catalog.brought_table import read_catalog
from raypipe.classifying.features import features_of
from raypipe.classifying.forest import balanced_weights, grow
from raypipe.identity import source_keys

FOLDS, DRAWS = 5, 400
FITS = [
    *("powlaw_gamma", "powlaw_nh", "bb_kt", "bb_nh", "brems_kt", "brems_nh"),
    *("powlaw_stat", "bb_stat", "brems_stat"),
]
LATENTS = [name for i in range(8) for name in (f"z{i}", f"z{i}_std")]
HARDNESS = ["hard_hs", "hard_hm", "hard_ms"]
OF_ROW = ("var_", "ks_", "kp_")


class Sample:
    """Hold labeled detections with features by name, their classes, and their sources."""

    def __init__(self, features: Mapping[str, pd.DataFrame], label: pd.Series, name: pd.Series):
        kept = label.notna().to_numpy()
        self.features = {key: each.to_numpy(np.float32)[kept] for key, each in features.items()}
        self.classes, self.codes = np.unique(label[kept].astype(str), return_inverse=True)
        self.names = name[kept].astype(str).to_numpy()
        self.sources = source_keys(self.names, self.names)

    def only(self, rows: np.ndarray) -> Sample:
        label = pd.Series(self.classes[self.codes])
        chosen = {key: pd.DataFrame(each) for key, each in self.features.items()}
        return Sample(chosen, label.where(rows), pd.Series(self.names))

    def relabeled(self, label: pd.Series) -> Sample:
        """Return the rows of the sources that `label`, by name, has, with its classes."""
        chosen = {key: pd.DataFrame(each) for key, each in self.features.items()}
        return Sample(chosen, pd.Series(self.names).map(label), pd.Series(self.names))

    def votes(self, sets: Sequence[str], seed: int, trees: int) -> np.ndarray:
        """Return the votes (n, classes) on every row by a forest without its source."""
        values = np.hstack([self.features[name] for name in sets])
        votes = np.zeros((len(self.codes), len(self.classes)))
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in splitter.split(values, self.codes, self.sources):
            weights = balanced_weights(self.codes[train], self.sources[train], len(self.classes))
            forest = grow(
                values[train], self.codes[train], weights, len(self.classes), trees=trees, seed=seed
            )
            votes[test] = forest.predict(values[test])
        return votes


def resampled(hits: np.ndarray, codes: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return balanced accuracies (1 + draws,): of all rows, and of resampled sources."""
    _, inverse = np.unique(sources, return_inverse=True)
    n, k = inverse.max() + 1, codes.max() + 1
    total, good = (
        np.bincount(inverse * k + codes, w, minlength=n * k).reshape(n, k)
        for w in (np.ones(len(codes)), hits)
    )
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    draws = np.vstack([np.ones(n, draws.dtype), draws])
    with np.errstate(invalid="ignore"):
        return np.nanmean((draws @ good) / (draws @ total), axis=1)


def table_of(
    sample: Sample, rows: Mapping[str, Sequence[str]], splits: int, trees: int
) -> dict[str, Any]:
    """Score sets of features: balanced accuracy over detections, and over sources."""
    answer: dict[str, Any] = {}
    for name, sets in rows.items():
        hits = np.zeros(len(sample.codes))
        votes = np.zeros((len(sample.codes), len(sample.classes)))
        for seed in range(splits):
            one = sample.votes(sets, seed, trees)
            hits += (one.argmax(axis=1) == sample.codes) / splits
            votes += one / splits
        drawn = resampled(hits, sample.codes, sample.sources)
        answer[name] = {"value": drawn[0], "error": drawn[1:].std(ddof=1), "_drawn": drawn}
        answer[name]["_votes"] = votes
        print(f"  {name:36s} {drawn[0]:.3f} +- {drawn[1:].std(ddof=1):.3f}", flush=True)
    return answer


def difference(table: Mapping[str, Any], first: str, second: str) -> dict[str, float]:
    gap = table[first]["_drawn"] - table[second]["_drawn"]
    print(f"  {first} - {second}: {gap[0]:+.3f} +- {gap[1:].std(ddof=1):.3f}", flush=True)
    return {"value": gap[0], "error": gap[1:].std(ddof=1)}


def csc_hardness(table: pd.DataFrame) -> pd.DataFrame:
    """Return hardness ratios of the observation's fluxes, else of the source's."""
    flux = {
        band: table[f"obs_flux_aper90_{band}"].fillna(table[f"flux_aper90_{band}"])
        for band in "smh"
    }
    pairs = {"hs": ("h", "s"), "hm": ("h", "m"), "ms": ("m", "s")}
    return pd.DataFrame(
        {
            f"hard_{name}": (flux[x] - flux[y]) / (flux[x] + flux[y]).where(lambda s: s > 0)
            for name, (x, y) in pairs.items()
        }
    )


def survey_sample(workspace: Path, truth: Path, table: pd.DataFrame) -> tuple[Sample, pd.DataFrame]:
    """Join the rows of the table to the detections of a survey that were drawn from them."""
    catalog = raypipe.open_catalog(workspace)
    drawn = pd.read_parquet(truth, columns=["detection_id", "catalog_detection"])
    row = catalog["detection_id"].map(drawn.set_index("detection_id")["catalog_detection"])
    real = table.set_index("catalog_detection").reindex(row).reset_index(drop=True)
    joined = catalog[[*LATENTS, *HARDNESS, "ra", "dec", *(f"flux_{b}" for b in "smhb")]].copy()
    for name in [n for n in real if str(n).startswith(OF_ROW) or n == "nh_gal"]:
        joined[name] = real[name]
    own = [name for name in catalog if name in FITS or name in ("plasma_kt", "plasma_nh")]
    features = {
        **by_group(joined),
        "latents": catalog[LATENTS],
        "hardness": catalog[HARDNESS],
        "own fits": catalog[own],
        "CSC fits": real[FITS],
    }
    return Sample(features, catalog["class"], catalog["name"]), catalog


def by_group(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = features_of(frame)
    return {
        group: pd.DataFrame(found.values[:, [g == group for g in found.groups]])
        for group in ("flux", "variability", "context")
    }


SURVEY = {
    "hardness": ["hardness"],
    "CSC fits": ["CSC fits"],
    "own fits": ["own fits"],
    "latents": ["latents"],
    "latents, hardness": ["latents", "hardness"],
    "latents, variability": ["latents", "variability"],
    "latents, variability, flux": ["latents", "variability", "flux"],
    "latents, var., flux, context": ["latents", "variability", "flux", "context"],
    "CSC fits, var., flux, context": ["CSC fits", "variability", "flux", "context"],
    "and hardness": ["latents", "hardness", "variability", "flux", "context"],
    "and own fits": ["latents", "hardness", "own fits", "variability", "flux", "context"],
    "everything": [
        *("latents", "hardness", "own fits", "CSC fits", "variability", "flux", "context")
    ],
    "var., flux, context, no spectrum": ["variability", "flux", "context"],
    "context": ["context"],
}
REAL = {
    "hardness": ["hardness"],
    "fits": ["hardness", "CSC fits"],
    "fits, variability": ["hardness", "CSC fits", "variability"],
    "fits, variability, flux": ["hardness", "CSC fits", "variability", "flux"],
    "fits, var., flux, context": ["hardness", "CSC fits", "variability", "flux", "context"],
}


DIFFERENCES = (
    ("latents", "CSC fits"),
    ("latents", "own fits"),
    ("latents, var., flux, context", "CSC fits, var., flux, context"),
    ("and hardness", "CSC fits, var., flux, context"),
    ("and own fits", "CSC fits, var., flux, context"),
    ("everything", "CSC fits, var., flux, context"),
    ("everything", "and hardness"),
)


def square_degrees(names: np.ndarray) -> np.ndarray:
    """Return the cell of about a square degree in which a source is, from its name, (n,)."""
    parts = pd.Series(names).str.extract(r"J(\d\d)(\d\d)\d\d\.?\d*([+-])(\d\d)(\d\d)")
    ra = 15 * (parts[0].astype(float) + parts[1].astype(float) / 60)
    dec = parts[3].astype(float) + parts[4].astype(float) / 60
    row = np.floor(dec.where(parts[2] == "+", -dec))
    column = np.floor(ra * np.cos(np.radians(row + 0.5)))
    return (row * 1000 + column).to_numpy(dtype=np.int64)


def of_sources(sample: Sample, votes: np.ndarray) -> pd.DataFrame:
    """Return the mean votes of sources with their true class, by name."""
    frame = pd.DataFrame(votes, columns=sample.classes).assign(name=sample.names)
    mean = frame.groupby("name").mean()
    return mean.assign(
        true=pd.Series(sample.classes[sample.codes], sample.names).groupby(level=0).first()
    )


def compare_sources(
    ours: pd.DataFrame, theirs: pd.DataFrame, groups: Mapping[str, str], called: str
) -> dict[str, Any]:
    """Compare two classifications of the sources in common, by `groups` of classes.

    `theirs` has probabilities with our class names or the groups'. Votes of the classes of a group
    are summed.
    """
    both = ours.index.intersection(theirs.index)
    both = both[ours.loc[both, "true"].isin(list(groups)).to_numpy()]
    order = sorted(set(groups.values()))
    codes = ours.loc[both, "true"].map(groups).map(order.index).to_numpy()
    answer: dict[str, Any] = {
        "sources": len(both),
        "classes": dict(zip(order, np.bincount(codes).tolist(), strict=True)),
    }
    drawn = {}
    for name, table in (("raypipe", ours), (called, theirs)):
        known = [c for c in table if c in groups]
        by_class = table.loc[both, known].T.groupby([groups[str(c)] for c in known]).sum().T
        summed = by_class.reindex(columns=order).fillna(0.0)
        hits = (summed.to_numpy().argmax(axis=1) == codes).astype(float)
        drawn[name] = resampled(hits, codes, np.arange(len(both)))
        answer[name] = {"value": drawn[name][0], "error": drawn[name][1:].std(ddof=1)}
        spread = drawn[name][1:].std(ddof=1)
        print(f"  {name}: {drawn[name][0]:.3f} +- {spread:.3f} ({len(both)} sources)", flush=True)
    return answer


def umlcaxs(path: Path) -> pd.DataFrame:
    """Read the probabilities of umlcaxs, "0.056±0.152" as text, by the groups AGN, XB, YSO."""
    table = pd.read_parquet(path).set_index("name")
    classes = {
        **dict.fromkeys(("QSO", "AGN", "Seyfert_1", "Seyfert_2"), "AGN"),
        **dict.fromkeys(("HMXB", "LMXB", "XB"), "HMXB"),
        **dict.fromkeys(("YSO", "TTau*", "Orion_V*"), "YSO"),
    }
    values = table[list(classes)].apply(lambda c: pd.to_numeric(c.str.split("±").str[0]))
    return values.T.groupby(classes).sum().T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("workspace", "truth", "table"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("muwclass", "umlcaxs", "out"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--trees", type=int, default=60)
    options = parser.parse_args()
    table = read_catalog(options.table).to_pandas()
    key = table["obsid"].astype(str) + "." + table["obi"].astype(str) + "."
    table["catalog_detection"] = key + table["region_id"].astype(str)
    table = table.drop_duplicates("catalog_detection").reset_index(drop=True)

    survey, _ = survey_sample(options.workspace, options.truth, table)
    cuts = table[["flux_significance_b", "powlaw_gamma"]]
    measured = {"hardness": csc_hardness(table), "CSC fits": table[FITS], **by_group(table)}
    real = Sample({**measured, "cuts": cuts}, table["class"], table["name"])
    if options.muwclass is not None:
        muwclass = pd.read_parquet(options.muwclass).set_index("name")
        survey, real = (each.relabeled(muwclass["True_Class"]) for each in (survey, real))
    print(f"survey: {len(survey.codes)} detections, {len(set(survey.names))} sources")
    scores = table_of(survey, SURVEY, options.splits, options.trees)
    gaps = {f"{a} - {b}": difference(scores, a, b) for a, b in DIFFERENCES}
    print("survey, square degrees of the sky whole in one fold")
    by_field = survey.only(np.ones(len(survey.codes), bool))
    by_field.sources = square_degrees(by_field.names)
    rows = {"latents, hardness, var., flux, context": SURVEY["and hardness"]}
    fields = table_of(by_field, rows, options.splits, options.trees)

    significance, gamma = real.features["cuts"].T
    of_cuts = {}
    for name, cut in {
        "all rows": np.ones(len(real.codes), bool),
        "flux_significance_b > 5": significance > 5,
        "and fits": (significance > 5) & np.isfinite(gamma),
    }.items():
        sample = real.only(cut)
        print(f"real rows, {name}: {len(sample.codes)} detections")
        of_cuts[name] = table_of(sample, REAL, max(1, options.splits - 1), options.trees)
    whole = of_cuts["all rows"]["fits, var., flux, context"]["_votes"]
    others: dict[str, Any] = {}
    for name, ours in {
        "survey": of_sources(survey, scores["and own fits"]["_votes"]),
        "real rows": of_sources(real, whole),
    }.items():
        if options.muwclass is not None:
            print(f"MUWCLASS, {name}")
            known = sorted(muwclass["True_Class"].unique())
            theirs = muwclass[[f"P_{c}" for c in known]].set_axis(known, axis=1)
            groups = {c: c for c in known}
            others[f"MUWCLASS, {name}"] = compare_sources(ours, theirs, groups, "MUWCLASS")
        if options.umlcaxs is not None:
            print(f"umlcaxs, {name}")
            groups = {"AGN": "AGN", "HMXB": "XB", "LMXB": "XB", "YSO": "YSO"}
            others[f"umlcaxs, {name}"] = compare_sources(
                ours, umlcaxs(options.umlcaxs), groups, "umlcaxs"
            )
    if options.out is not None:
        found = {
            "survey": scores,
            "differences": gaps,
            "by square degree": fields,
            "real": of_cuts,
            "others": others,
        }
        options.out.write_text(json.dumps(_shown(found), indent=2, default=float) + "\n")


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _shown(v) for k, v in value.items() if not str(k).startswith("_")}
    return value


if __name__ == "__main__":
    main()

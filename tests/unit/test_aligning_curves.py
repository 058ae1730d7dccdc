"""Alignment with light curves simulated by class: what the transformer over their points learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypipe
from benchmarks.light_curves import kind_of, light_curve
from raypipe.aligning.measure import similarities
from raypipe.aligning.retrieval import chance, judge
from raypipe.alignment.view_table import ViewColumn
from raypipe.config_align import AlignConfig
from raypipe.store.workspace import Workspace
from tests.unit.aligned_pairs import QUICK, Toy, posteriors
from tests.unit.synthetic_workspace import make_workspace

CLASSES = ("LM-STAR", "AGN", "CV")


def test_classes_vary_as_they_are_said_to() -> None:
    rng = np.random.default_rng(0)
    curves = {
        kind: np.array([light_curve(kind, 1e6, 1e4, 64, rng)[1] for _ in range(50)])
        for kind in ("flare", "flicker", "pulse", "steady")
    }
    scatter = {kind: (each.std(axis=1) / each.mean(axis=1)) for kind, each in curves.items()}
    assert scatter["steady"].max() < 0.02
    assert scatter["pulse"].min() > 0.2
    assert (curves["flare"].max(axis=1) > 2 * np.median(curves["flare"], axis=1)).all()
    assert np.sum(curves["steady"][0]) * 1e4 / 64 == pytest.approx(1e6, rel=0.01)
    kinds = [kind_of("AGN", rng) for _ in range(500)]
    assert set(kinds) == {"flicker", "steady"}
    assert kind_of("unheard of", rng) == "steady"


def test_the_shared_space_tells_how_a_source_varies() -> None:
    """Spectra differ by class, and curves by how the class varies: here all sources vary."""
    rng = np.random.default_rng(1)
    known = posteriors(rng, 600, error=0.1)
    name = rng.integers(0, len(CLASSES), len(known))
    known.mean[:, 0] = 3.0 * (name - 1) + 0.3 * rng.standard_normal(len(known))
    curves = np.full(len(known), None, dtype=object)
    for row, kind in enumerate(np.array(["flare", "flicker", "pulse"])[name]):
        curves[row] = np.stack(light_curve(str(kind), 5000.0, 1e4, 32, rng))
    toy = Toy([ViewColumn("t:r", "curve", curves)], known, AlignConfig(**QUICK | {"epochs": 25}))
    made, judged = toy.alignment(), toy.judged()
    found, by_chance = judge(similarities(made, judged)), chance(len(judged))
    for way in ("to_view", "to_spectrum"):
        # A curve tells the class, one of three: no rank can be better than a sixth on average.
        assert found[way]["median_rank"] < 0.6 * by_chance["median_rank"]
    own = name[judged.source]
    nearest = similarities(made, judged).argmax(axis=0)
    assert (own[nearest] == own).mean() > 0.8


def test_a_table_of_curves_is_aligned_and_searched_by_a_curve(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "w", detections=160, classes=CLASSES)
    store = Workspace(shutil.copytree(made.workspace.uri, tmp_path / "copy"))
    catalog = raypipe.open_catalog(store)
    rng = np.random.default_rng(2)
    curves = [light_curve(kind_of(each, rng), 500.0, 1e4, 24, rng) for each in catalog["class"]]
    curves[7] = None
    table = pa.table(
        {
            "detection_id": catalog["detection_id"],
            "when": pa.array([None if each is None else each[0].tolist() for each in curves]),
            "rate": pa.array([None if each is None else each[1].tolist() for each in curves]),
        }
    )
    pq.write_table(table, tmp_path / "curves.parquet")
    settings = {"align": {"width": 16, "epochs": 5, "batch_size": 32, "permutations": 0}}
    metrics = raypipe.align(
        store, with_=tmp_path / "curves.parquet", columns="when:rate", config=settings
    )
    assert [each["kind"] for each in metrics["data"]["columns"]] == ["curve"]
    assert len(raypipe.open_alignment(store).rows) == len(catalog) - 1
    times, rates = light_curve("flare", 500.0, 1e4, 24, rng)
    asked = json.dumps({"when:rate": [times.tolist(), rates.tolist()]})
    found = raypipe.search(store, like_view=asked, k=5)
    assert np.isfinite(found["similarity"]).all()
    spectrum = raypipe.translate(store, view=asked).flux
    assert (spectrum.lolim < spectrum.hilim).any()

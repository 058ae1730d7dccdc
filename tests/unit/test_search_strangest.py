"""Strange detections come first, bright before faint, with their known causes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy.stats import chi2, norm, poisson

import raypipe
from raypipe.catalog.schema import catalog_table
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.model.bundle import Model, save_model
from raypipe.model.features import prepare
from raypipe.model.latent_population import Population
from raypipe.model.presets import build
from raypipe.model.statistics import cash, cash_moments
from raypipe.searching.causes import known_causes
from raypipe.searching.strangest import Significances, fit_sigmas, sigmas_of, unusual_sigmas
from raypipe.spectra.batch import SpectraBatch
from raypipe.store.layout import model_folder
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from tests.unit.model_spectra import BINS, GRID, power_laws
from tests.unit.synthetic_workspace import make_workspace, publish_table

LONG_S, SHORT_S = 3e5, 3e4
ENERGY = BINS.mid_kev


def _survey(n: int, seed: int) -> SpectraBatch:
    """Power laws of 60 to 3,000 counts in exposures long enough that nothing piles up."""
    parts = [
        power_laws(n // 4, seed + i, counts)[0] for i, counts in enumerate((60, 250, 900, 3e3))
    ]
    names = ("counts", "background_counts", "background_scale", "arf_cm2", "response_index")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    rows = len(joined["counts"])
    return replace(parts[0], **joined, exposure_s=np.full(rows, LONG_S, np.float32))


def _anomalies(counts: float) -> tuple[list[str], SpectraBatch]:
    """A hump no training spectrum had, a line on a power law, and a piled-up power law."""
    plain, expected = power_laws(3, 99, counts)
    shape = expected.copy()
    shape[0] = np.exp(-0.5 * ((ENERGY - 5.0) / 0.5) ** 2)
    shape[1] += 0.25 * counts * _normalized(np.exp(-0.5 * ((ENERGY - 3.5) / 0.05) ** 2))
    twice = np.interp(ENERGY / 2, ENERGY, shape[2])
    shape[2] = 0.6 * _normalized(shape[2]) + 0.4 * _normalized(twice)
    model = np.stack([counts * _normalized(each) for each in shape])
    drawn = np.random.default_rng(3).poisson(model).astype(np.float32)
    exposure = np.array([LONG_S, LONG_S, SHORT_S], np.float32)
    names = [f"{kind}-{counts:.0f}" for kind in ("hump", "line", "piled")]
    return names, replace(plain, counts=drawn, exposure_s=exposure)


def _normalized(shape: np.ndarray) -> np.ndarray:
    return shape / shape.sum()


@pytest.fixture(scope="module")
def model() -> Model:
    """Trained for seconds on power laws alone."""
    config = load_config(
        settings={
            "model": {"width": 16, "depth": 1, "heads": 2, "decoder_width": 32},
            "train": {"epochs": 14, "batch_size": 32, "learning_rate": 5e-3},
        }
    )
    return _trained(config)


def _trained(config: Config) -> Model:
    torch.manual_seed(0)
    network = build(config.model, GRID)
    train, validation = (
        ResidentStream(prepare(_survey(n, seed))) for n, seed in ((800, 10), (80, 50))
    )
    learner = Learner(network, train, validation, config.train)
    for epoch in range(config.train.epochs):
        learner.run_epoch(epoch)
    learner.keep_best()
    with torch.no_grad():
        latents = torch.cat([network.encode(batch) for _, batch in train.sweep()])
        z = network.autoencoder.whiten(latents).double().numpy()
    nobody = np.array([], dtype=np.int64)
    labels = np.full(len(z), None, dtype=object)
    population = Population.fit(z, labels, np.arange(len(z)), 10, 0)
    return Model(
        "folded-tiny",
        config,
        GRID,
        network,
        population,
        nobody,
        nobody,
        {"validation_loss": learner.best_loss},
    )


@pytest.fixture(scope="module")
def catalog(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 power laws with bright and faint anomalies among them."""
    synthetic = make_workspace(tmp_path_factory.mktemp("w"), detections=8, presets=())
    normal = _survey(400, 70)
    pieces = [([f"normal-{i}" for i in range(len(normal))], normal)]
    pieces += [_anomalies(3000.0), _anomalies(60.0)]
    tables = [_catalog_rows(model, names, batch) for names, batch in pieces]
    save_model(model, synthetic.workspace, model_folder(model.model_id))
    publish_table(synthetic.workspace, model, pa.concat_tables(tables))
    return Path(synthetic.workspace.uri)


def _catalog_rows(model: Model, names: list[str], batch: SpectraBatch) -> pa.Table:
    band = (ENERGY > 0.5) & (ENERGY < 7.0)
    spectra = pa.table(
        {
            "detection_id": [f"sim:{name}" for name in names],
            "obsid": np.arange(len(names)),
            "obi": np.zeros(len(names), np.int64),
            "region_id": np.ones(len(names), np.int64),
            "name": names,
            "ra": np.full(len(names), 10.0),
            "dec": np.full(len(names), -5.0),
            "exposure_s": batch.exposure_s.astype(float),
            "background_scale": batch.background_scale.astype(float),
            "counts_b": batch.counts[:, band].sum(1).astype(int),
            "background_counts_b": batch.background_counts[:, band].sum(1).astype(int),
            "flags": [""] * len(names),
        }
    )
    split = np.full(len(names), "test")
    return catalog_table(spectra, model.encode_batch(batch), split, model.model_id)


def test_injected_anomalies_come_first_and_the_piled_up_one_says_why(catalog: Path) -> None:
    answer = raypipe.search(catalog, strangest=True, k=5)
    assert answer["ranking"].tolist() == ["far"] * 5 + ["badly fit"] * 5
    assert "query" not in answer.attrs
    strange = {f"sim:{kind}-3000" for kind in ("hump", "line", "piled")}
    by_fit = answer[answer["ranking"] == "badly fit"]
    by_place = answer[answer["ranking"] == "far"]
    assert by_place["detection_id"].iloc[0] == "sim:hump-3000"
    assert set(by_fit["detection_id"].iloc[:2]) == {"sim:hump-3000", "sim:line-3000"}
    before = by_fit["detection_id"].str.startswith("sim:normal").to_numpy().argmax()
    assert strange <= set(by_fit["detection_id"].iloc[:before])
    told = answer.set_index("detection_id").loc[sorted(strange & set(answer["detection_id"]))]
    for detection_id, row in told.iterrows():
        assert ("pileup" in row["causes"]) == ("piled" in str(detection_id))
    assert by_fit["beyond_chance"].iloc[:2].all()
    assert (answer.groupby("ranking", sort=False)["sigmas"].diff().dropna() <= 0).all()


def test_faint_anomalies_come_after_the_same_ones_bright(catalog: Path) -> None:
    answer = raypipe.search(catalog, strangest=True, k=406)
    for ranking in ("far", "badly fit"):
        ranks = answer[answer["ranking"] == ranking].set_index("detection_id")["rank"]
        assert len(ranks) == 406
        best = min(ranks[f"sim:{kind}-3000"] for kind in ("hump", "line", "piled"))
        assert best < min(ranks[f"sim:{kind}-60"] for kind in ("hump", "line", "piled"))


def test_few_of_what_the_training_had_are_beyond_chance(catalog: Path) -> None:
    answer = raypipe.search(catalog, strangest=True, k=406)
    normal = answer[answer["detection_id"].str.startswith("sim:normal")]
    assert normal.groupby("ranking")["beyond_chance"].sum().max() <= 12


def test_significance_is_of_the_skewed_statistic() -> None:
    """Cash statistics of a true model reach as many sigmas as a normal would, faint ones too."""
    rng = np.random.default_rng(0)
    mu = np.full(256, 0.15, np.float32)
    counts = poisson(mu).rvs((40_000, 256), random_state=rng).astype(np.float32)
    statistic = cash(counts, mu).sum(-1)
    expected, variance = (each.sum() for each in cash_moments(mu))
    zscore = (statistic - expected) / np.sqrt(variance)
    sigmas = fit_sigmas(statistic, np.full(len(statistic), expected), zscore)
    for level in (2.0, 3.0):
        share = norm.sf(level)
        assert (sigmas > level).mean() == pytest.approx(share, rel=0.35)
        assert abs((sigmas > level).mean() - share) <= abs((zscore > level).mean() - share)


def test_sigmas_are_those_of_the_same_tail() -> None:
    squares = np.array([0.5, 7.3, 40.0, 900.0])
    assert sigmas_of(chi2.logsf(squares, 8)) == pytest.approx(norm.isf(chi2.sf(squares, 8)))
    beyond = sigmas_of(np.array([0.0, -1e4, -1e6, -np.inf]))
    assert np.isfinite(beyond).all()
    assert (np.diff(beyond) >= 0).all()


def test_chance_is_that_of_the_whole_catalog() -> None:
    """Of catalogs of normal deviates, one in a hundred has an unusual detection at any size."""
    rng = np.random.default_rng(2)
    for n in (1, 13, 300):
        catalogs = [Significances("far", rng.normal(size=n)) for _ in range(4000)]
        share = np.mean([each.beyond_chance.any() for each in catalogs])
        assert share == pytest.approx(0.01, abs=0.005)
        largest = np.array([each.chance.min() for each in catalogs])
        assert np.quantile(largest, 0.5) == pytest.approx(0.5, abs=0.03)
    among_13 = Significances("far", np.array([1.6, *np.full(12, -0.5)]))
    assert not among_13.beyond_chance.any()
    assert unusual_sigmas(13) == pytest.approx(3.17, abs=0.01)
    assert unusual_sigmas(1_000_000) == pytest.approx(5.61, abs=0.01)
    assert Significances("far", np.array([5.62, *np.zeros(999_999)])).beyond_chance[0]


def test_a_remark_says_that_the_largest_is_expected() -> None:
    none = Significances("far", np.array([-0.6, -1.0, np.nan]))
    assert none.remark() == (
        "none is unusual: the largest, -0.6 sigma, is expected by chance among 2 detections "
        "(chance 0.92)"
    )
    one = Significances("far", np.array([9.0, 0.1]))
    assert one.remark() == "1 of 2 detections is unusual (chance below 0.01)"
    assert "no detection" in Significances("far", np.array([])).remark()


def test_causes_are_told_by_the_archives_columns_and_by_our_own() -> None:
    clean = {
        "flags": "",
        "exposure_s": 1e4,
        "background_scale": 0.1,
        "counts_b": 100,
        "background_counts_b": 50,
    }
    rows = pd.DataFrame(
        [
            clean,
            clean | {"background_counts_b": 600},
            clean | {"counts_b": 900, "exposure_s": 2e4},
            clean | {"counts_b": 900, "exposure_s": 2e4, "pileup_warning": 0.01},
            clean | {"counts_b": 900, "exposure_s": 2e4, "exptime": 0.4},
            clean | {"pileup_warning": 0.3, "obs_streak_src_flag": True},
            clean | {"streak_src_flag": True, "sat_src_flag": 1.0},
            clean | {"streak_src_flag": True, "obs_streak_src_flag": False},
            clean | {"edge_code": 1, "conf_code": 7.0},
            clean | {"edge_code": 3, "conf_code": 15.0},
            clean | {"flags": "no_background|grating_zeroth_order", "background_counts_b": None},
            clean | {"obs_dither_warning_flag": "T", "flags": "arf_truncated"},
        ]
    )
    assert known_causes(rows) == [
        "",
        "background_dominated",
        "pileup",
        "",
        "",
        "pileup|streak",
        "streak|saturated",
        "",
        "",
        "chip_edge|confused",
        "zeroth_order",
        "dither|arf_truncated",
    ]
    assert known_causes(rows[["flags"]].iloc[:2]) == ["", ""]

"""Translation of a view into a spectrum: flux and counts with bands, as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raypipe
from raypipe.aligning.calibrate import drawn_latents
from raypipe.alignment.translation import predict_counts, predict_latents, predict_spectra
from raypipe.cli import main
from raypipe.config import Config
from raypipe.config_align import AlignConfig
from raypipe.errors import UsageError
from raypipe.model.bundle import load_model
from raypipe.model.features import prepare
from tests.unit.aligned_pairs import QUICK, Toy, linear_view, posteriors
from tests.unit.synthetic_workspace import Synthetic, make_workspace
from tests.unit.test_aligning_verb import MODEL, write_view

SETTINGS = Config.model_validate(
    {"align": {"width": 16, "epochs": 20, "batch_size": 32, "dimensions": 4, "permutations": 0}}
)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A workspace whose catalog is aligned with two of its own latents in noise."""
    made = make_workspace(tmp_path_factory.mktemp("w"), detections=160)
    view = write_view(made.workspace, tmp_path_factory.mktemp("view") / "view.parquet")
    raypipe.align(made.workspace, with_=view, columns="seen,other", key="name", config=SETTINGS)
    return made


def test_a_row_becomes_a_flux_with_a_band(synthetic: Synthetic) -> None:
    found = raypipe.translate(synthetic.workspace, view="#4")
    flux = found.flux
    assert (flux.lolim <= flux.value).all()
    assert (flux.value <= flux.hilim).all()
    assert found.counts is None
    assert found.query["row"] == 4
    by_values = raypipe.translate(synthetic.workspace, view='{"seen": 2.0}')
    assert not np.allclose(by_values.flux.value, flux.value)
    assert by_values.query == {"view": '{"seen": 2.0}'}


def test_a_detection_gives_expected_counts_as_bright_as_its_own(synthetic: Synthetic) -> None:
    catalog = raypipe.open_catalog(synthetic.workspace)
    row = catalog.iloc[10]
    found = raypipe.translate(
        synthetic.workspace, view=row["name"], detection=row["detection_id"]
    ).counts
    assert found is not None
    low, middle, high = found.limits()
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert found.counts.sum() == row["total_counts"]
    assert middle.sum() == pytest.approx(row["total_counts"], rel=0.1)
    assert (middle >= found.background - 1e-6).all()
    grouped = found.limits(np.array([0, 40]))
    assert grouped.shape == (3, 2)
    # Counts of groups are quantiles of sums, which scatter less than the sums of quantiles.
    assert grouped[2, 0] - grouped[0, 0] <= (high - low)[:40].sum() + 1e-6


def test_the_command_prints_numbers_and_draws(
    synthetic: Synthetic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["translate", "--workspace", synthetic.workspace.uri, "--view", "#4"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "view: row 4" in printed
    assert "in units of the photon flux in 0.5-7 keV" in printed
    assert "observed" not in printed
    plot = tmp_path / "new" / "t.png"
    assert main([*asked, "--detection", "sim:7.0.1", "--plot", str(plot)]) == 0
    assert "observed  expected   68% limits" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*asked, "--detection", "sim:7.0.1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["flux"]["value"]) == len(answer["flux"]["energy_kev"])
    counts = answer["counts"]
    assert len(counts["edges_kev"]) == len(counts["expected"]) + 1
    assert counts["detection"] == "sim:7.0.1"


def test_your_own_spectrum_gives_the_instrument(synthetic: Synthetic, shared_data: Path) -> None:
    pha = next((shared_data / "csc").glob("acisf01575*pha3*"))
    found = raypipe.translate(synthetic.workspace, view="#4", pha=pha)
    assert found.counts is not None
    assert found.counts.exposure_s == pytest.approx(raypipe.read_spectrum(pha).exposure_s)
    assert "expected for a source as bright" in str(found)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"view": "nobody"}, "has no row of this name"),
        ({"view": "#4", "detection": "sim:999.0.1"}, "no spectrum of this detection"),
        ({"view": "#4", "detection": "sim:7.0.1", "pha": "a.pi"}, "not both"),
        ({"view": "#4", "arf": "a.arf"}, "belong to --pha"),
        ({"view": "#4", "plot": "a.pdf"}, r"expected a name that ends in \.png or \.svg"),
        ({"view": '{"x": 1}'}, "the view has no column x"),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(
    synthetic: Synthetic, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        raypipe.translate(synthetic.workspace, **asked)


def test_the_band_holds_the_true_spectrum_as_often_as_it_says(synthetic: Synthetic) -> None:
    """Simulate latents, views in noise, and the flux and counts that the latents lead to."""
    rng = np.random.default_rng(21)
    known = posteriors(rng, 1500, error=0.2, latents=8)
    split = {"validation_fraction": 0.2, "test_fraction": 0.3}
    columns = linear_view(known.mean, rng, noise=0.5)
    toy = Toy(columns, known, AlignConfig(**QUICK | split))
    made, judged = toy.alignment(), toy.judged()
    model = load_model(synthetic.workspace.absolute_uri(f"models/{MODEL}"))
    mean, covariance = predict_latents(made, judged.views())
    truth = torch.from_numpy(drawn_latents(judged).astype(np.float32))
    found = predict_spectra(mean, covariance, model)
    with torch.no_grad():
        flux = torch.exp(model.network.log_shape(truth)).double().numpy()
    inside = (found.energy_kev >= 0.5) & (found.energy_kev < 7.0)
    flux /= (flux * np.diff(model.grid.edges_kev) * inside).sum(axis=1, keepdims=True)
    held = ((flux >= found.lolim) & (flux <= found.hilim))[:, inside].mean()
    assert held == pytest.approx(0.683, abs=0.06)
    opened = raypipe.open_alignment(synthetic.workspace)
    spectra = opened.detection("sim:7.0.1")
    batch, shares = prepare(spectra), []
    for row in range(150):
        with torch.no_grad():
            expected = model.network.expected_counts(truth[row : row + 1], batch)[0].numpy()
        # The source is as bright as the detection, so that its counts set the brightness.
        counts = predict_counts(mean[row], covariance[row], model, spectra, draws=64)
        low, _, high = counts.limits()
        expected = expected[: len(low)]
        shares.append(((expected >= low) & (expected <= high))[5:].mean())
    assert np.mean(shares) == pytest.approx(0.683, abs=0.08)

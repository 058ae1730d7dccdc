"""Make a model bundle of a trained network: population, references, card and figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.latents.samples import Sample, join
from benchmarks.latents.surveys import draw
from benchmarks.real_spectra import fit_physical, judge, read_folders
from benchmarks.telescopes.network import load_network
from raypipe.config import Config
from raypipe.identity import source_keys
from raypipe.model.bundle import Model, save_model
from raypipe.model.features import prepare
from raypipe.model.flux_errors import FluxErrors
from raypipe.model.latent_population import Population
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.simulation.responses import read_responses
from raypipe.simulation.survey_plan import plan_survey
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.run_record import made_by
from raypipe.store.workspace import Workspace
from raypipe.training.quality import measure_quality
from recipes.any_telescope.flux_errors import measure_flux_errors
from recipes.any_telescope.fresh import COUNTS, FreshStream, weights_of
from recipes.any_telescope.made_up import with_made_up
from recipes.any_telescope.sky import Sky
from recipes.any_telescope.train import split

log = logging.getLogger("recipes.any_telescope")

OF_CLASSES = 16_000
OF_FITS = 6_000
"""Detections of the population's survey: of the built-in classes, and of fits of real ones."""
REFERENCES = 4_000
QUALITY = 2_000
OF_FLUXES = 6_000
"""Detections without noise, on which the errors of fluxes are measured."""
MOST_COUNTS = 30_000
"""Real spectra with more counts are thinned to these."""
ROWS_AT_ONCE = 256


def make_bundle(
    weights: Path, sky_file: Path, data: Path, folders: list[Path], folder: Path, model_id: str
) -> Model:
    """Describe the network's population and quality, and save all as the bundle `folder`."""
    course = json.loads(weights.with_suffix(".json").read_text())
    network = load_network(weights)
    config = Config.model_validate(course["made_of"])
    survey = _survey(data, folders, config.train.seed)
    z = _refined(network, survey, config.embed.refine_steps)
    keys = source_keys(survey.names, survey.names)
    population = Population.fit(
        z, survey.classes, keys, REFERENCES, config.train.seed, survey.names
    )
    population = dataclasses.replace(
        population, reference_z=population.reference_z.astype(np.float32)
    )
    sky = with_made_up(Sky.load(sky_file), course["made_up"], config.train.seed)
    network.flux_errors = flux_errors(network, Sky.load(sky_file), config)
    model = Model(
        model_id=model_id,
        config=config,
        grid=EnergyGrid(),
        network=network,
        population=population,
        train_sources=np.empty(0, np.int64),
        validation_sources=np.empty(0, np.int64),
        metrics={
            "model_id": model_id,
            "preset": network.name,
            "made_by": made_by() | {"torch": course["torch"]},
            "data_fingerprint": hashlib.sha256(sky_file.read_bytes()).hexdigest()[:16],
            **_course(course),
            "classes": dict(sorted(Counter(c for c in survey.classes if c).items())),
            "trained_on": {
                "survey": "a survey of six telescopes",
                "simulated": True,
                "detections": _drawn(course),
                "sources": course["sources"],
                "counts": [int(each) for each in COUNTS],
                "responses": len(course["instruments"]),
                "telescopes": _of_telescopes(sky, folders, course),
            },
            "quality": _quality(network, sky, config),
            "real_spectra": _on_real_spectra(network, data),
        },
    )
    save_model(model, Workspace(folder), ".")
    return model


def _survey(data: Path, folders: list[Path], seed: int) -> Sample:
    """Draw detections of the classes, and others without a class from fits of real detections."""
    options: dict[str, Any] = {
        "counts_min": COUNTS[0],
        "counts_max": COUNTS[1],
        "responses": folders,
    }
    catalog = data / "catalog" / "csc20_detections.parquet"
    known = draw(plan_survey(OF_CLASSES, 1000 + seed, **options))
    fitted = draw(plan_survey(OF_FITS, 2000 + seed, catalog=catalog, **options))
    # Classes of real sources are few and of other numbers: the probabilities are of the built-in
    # population, of which the numbers are equal.
    table = fitted.table.assign(**{"class": None})
    return join([known, dataclasses.replace(fitted, table=table)])


@torch.no_grad()
def _refined(network: Folded, sample: Sample, steps: int) -> npt.NDArray[np.float64]:
    """Return the latents of a sample as `embed` measures them, (n, latents)."""
    order = np.argsort(sample.spectra.response_index, kind="stable")
    z = np.empty((len(sample), network.autoencoder.encoder.shift.shape[0]))
    for rows in np.array_split(order, -(-len(order) // ROWS_AT_ONCE)):
        batch = prepare(sample.spectra.take(rows))
        z[rows] = refine(network, network.encode(batch), batch, steps).z.double().numpy()
    return z


def _course(course: dict[str, Any]) -> dict[str, Any]:
    """Return steps, loss and history of a training, with those of the one it started from."""
    history = [*_earlier(course).get("history", []), *course["history"]]
    return {
        "seed": course["made_of"]["train"]["seed"],
        "device": course["device"],
        "optimizer_steps": course["steps"] + _earlier(course).get("steps", 0),
        "epochs": len(history),
        "best_epoch": len(history) - len(course["history"]) + course["best_epoch"],
        "validation_loss": course["validation_loss"],
        "history": history,
    }


def _earlier(course: dict[str, Any]) -> dict[str, Any]:
    return course.get("start") or {}


def _drawn(course: dict[str, Any]) -> int:
    return int(course["detections_drawn"] + _earlier(course).get("detections_drawn", 0))


def _of_telescopes(sky: Sky, folders: list[Path], course: dict[str, Any]) -> dict[str, int]:
    """Return the expected number of the drawn detections of each telescope and camera."""
    cameras = {each.name: f"{each.telescope} {each.camera}" for each in read_responses(*folders)}
    numbers: Counter[str] = Counter()
    for name, mission, weight in zip(sky.names, sky.missions, weights_of(sky), strict=True):
        numbers[cameras.get(name, mission)] += round(weight * _drawn(course))
    return dict(numbers)


def _quality(network: Folded, sky: Sky, config: Config) -> dict[str, Any] | None:
    held = np.arange(len(sky.log_flux))
    stream = FreshStream(
        sky, held, weights_of(sky), QUALITY, config.train.seed + 3, torch.device("cpu")
    )
    return measure_quality(network, stream, config.embed.refine_steps)


def flux_errors(network: Folded, sky: Sky, config: Config) -> FluxErrors:
    """Measure the errors of fluxes on sources that were not trained on."""
    _, held = split(sky, config.train.seed)
    stream = FreshStream(
        sky, held, weights_of(sky), OF_FLUXES, config.train.seed + 4, torch.device("cpu")
    )
    return measure_flux_errors(network, stream, config.embed.refine_steps)


def _on_real_spectra(network: Folded, data: Path) -> list[dict[str, Any]]:
    """Compare the folds of real spectra with the best of three physical fits."""
    folders = [data / name for name in ("csc", "ciao", "missions") if (data / name).is_dir()]
    real = [each.thinned(MOST_COUNTS, seed) for seed, each in enumerate(read_folders(folders))]
    return [judge(each, network, fit_physical(each)).as_json() for each in real]

"""Describe the weights file of a model bundle: its metadata, and the tensors of a population."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import RaypipeError
from raypipe.model.integrity import DESCRIPTION, HASH, bundle_hash, safetensors_metadata
from raypipe.model.latent_population import Population
from raypipe.spectra.grid import EnergyGrid

log = logging.getLogger(__name__)

Tensors = Mapping[str, npt.NDArray[Any]]

FORMAT = 2
_POPULATION_ARRAYS = (
    "weights",
    "means",
    "precisions_cholesky",
    "reference_z",
    "reference_class",
    "reference_source",
)


def population_tensors(population: Population) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a population by the names of their tensors."""
    tensors = {
        f"population.{name}": np.ascontiguousarray(getattr(population, name))
        for name in _POPULATION_ARRAYS
    }
    return tensors | {"population.temperature": np.array([population.temperature])}


def population_from(tensors: Tensors, header: Mapping[str, Any]) -> Population:
    """Return the population of tensors and description; raises LookupError if one is missing."""
    return Population(
        **{name: tensors[f"population.{name}"] for name in _POPULATION_ARRAYS},
        classes=tuple(map(str, header["classes"])),
        temperature=float(tensors.get("population.temperature", np.ones(1))[0]),
        reference_names=tuple(map(str, header.get("reference_names", ()))),
    )


def description_of(model_id: str, grid: EnergyGrid, population: Population) -> str:
    """Return the description of a model as JSON: format, id, energy grid, names of references."""
    header = {
        "format": FORMAT,
        "model_id": model_id,
        "grid": _grid_as_json(grid),
        "classes": population.classes,
    }
    names = population.reference_names
    return json.dumps(header | ({"reference_names": names} if names else {}))


def metadata_of(description: str, config: bytes, tensors: Tensors) -> dict[str, str]:
    """Return the metadata of the weights file: the description, and a hash of everything."""
    return {DESCRIPTION: description, HASH: bundle_hash(description, config, tensors)}


def read_description(
    data: bytes, config: bytes, tensors: Tensors, grid: EnergyGrid, where: str
) -> dict[str, Any]:
    """Return the description in a weights file, checked.

    Raises RaypipeError if the bundle has changed since it was saved, or is of another format or
    energy grid, and ValueError or LookupError if it has no description.
    """
    metadata = safetensors_metadata(data)
    _require_unchanged(metadata, config, tensors, where)
    header: dict[str, Any] = json.loads(metadata[DESCRIPTION])
    if header["format"] != FORMAT:
        raise RaypipeError(
            f"{where}: a model of format {header['format']}, this version of raypipe reads "
            f"{FORMAT}; train it again"
        )
    if header["grid"] != _grid_as_json(grid):
        raise RaypipeError(
            f"{where}: made for another energy grid, {header['grid']}; train it again"
        )
    return header


def _require_unchanged(
    metadata: dict[str, str], config: bytes, tensors: Tensors, where: str
) -> None:
    """Raise RaypipeError if a bundle does not have the hash with which it was saved."""
    if HASH not in metadata:
        log.info("%s: saved without a hash, so a change since then cannot be detected", where)
    elif metadata[HASH] != bundle_hash(metadata[DESCRIPTION], config, tensors):
        raise RaypipeError(
            f"{where}: it, or config.toml beside it, has changed since the model was saved; "
            "restore both from a copy, or delete the folder and train the model again"
        )


def _grid_as_json(grid: EnergyGrid) -> dict[str, Any]:
    """Describe an energy grid: its range, its number of bins, and how they are divided."""
    low, high = (float(edge) for edge in grid.edges_kev[[0, -1]])
    divisions = [list(each) for each in grid.divisions]
    return {"low_kev": low, "high_kev": high, "n_energy": grid.n_energy, "divisions": divisions}

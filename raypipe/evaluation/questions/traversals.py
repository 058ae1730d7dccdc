"""Ask what a step in each latent does to the flux before the telescope."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raypipe.evaluation.questions.directions import directions_of, name_direction, quantities_of
from raypipe.evaluation.questions.material import Material, unmeasured
from raypipe.evaluation.validation import FloatArray
from raypipe.model.bundle import Model
from raypipe.model.presets import Folded

STEPS = (-2, -1, 0, 1, 2)
"""Steps in standard deviations of the catalog."""

BAND_KEV = (0.5, 7.0)
"""Band in which all curves have the same number of photons."""

EDGES_KEV = np.geomspace(0.3, 10.0, 61)
"""Edges of the bins of the curves: several energy bins each, as fine as ACIS resolves."""


def measure_traversals(material: Material) -> dict[str, Any]:
    """Decode steps of 1 and 2 standard deviations from the mean along each direction.

    `energy_kev` (bins,) are the centers of the bins. Each of `directions` has its `name`, the
    physical quantity that it follows (`directions.name_direction`), `signal_to_noise`, the
    `weights` of the latents, and `curves`: per step the photon flux density (bins,), scaled to one
    photon/cm2/s in `BAND_KEV`.
    """
    if material.model is None:
        return unmeasured("the model's bundle is not in the workspace")
    if not isinstance(material.model.network, Folded):
        return unmeasured(f"preset {material.model.preset} has no flux before the telescope")
    quantities = quantities_of(material.frame)
    middle = material.latents.mean(axis=0)
    found = []
    for each in directions_of(material):
        places = middle + np.outer(STEPS, each.step)
        curves = decoded_curves(material.model, places)
        found.append(
            {
                "direction": each.name,
                "signal_to_noise": each.signal_to_noise,
                "weights": each.weights.tolist(),
                "curves": dict(zip(map(str, STEPS), curves.tolist(), strict=True)),
            }
            | name_direction(each.values, quantities)
        )
    middles = np.sqrt(EDGES_KEV[1:] * EDGES_KEV[:-1])
    return {"reason": None, "energy_kev": middles.tolist(), "directions": found}


def decoded_curves(model: Model, z: FloatArray) -> FloatArray:
    """Decode latents (n, latents) to photon flux densities (n, bins) with unit flux in the band."""
    if not isinstance(model.network, Folded):
        raise TypeError("only preset folded decodes a flux")
    with torch.no_grad():
        shape = model.network.log_shape(torch.as_tensor(z, dtype=torch.float32)).exp().numpy()
    edges = model.grid.edges_kev
    photons = shape.astype(np.float64) * np.diff(edges)
    # Photons below each edge, by which those of any bins follow.
    below = np.hstack([np.zeros((len(z), 1)), np.cumsum(photons, axis=1)])
    at = np.stack([np.interp(EDGES_KEV, edges, row) for row in below])
    band = np.stack([np.interp(BAND_KEV, edges, row) for row in below])
    return np.asarray(np.diff(at, axis=1) / np.diff(EDGES_KEV) / np.diff(band, axis=1))

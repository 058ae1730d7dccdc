"""Check that a model bundle is the one that was saved, and that its numbers can be used.

safetensors has no checksum: a flipped bit is another weight. The hash of a bundle is in the
metadata of its weights and covers everything that `raypipe.model.bundle.load_model` reads there:
the description, the configuration, and the name, type, shape and values of every tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.model.latent_population import Population

Array = npt.NDArray[Any]

DESCRIPTION, HASH = "raypipe", "raypipe_sha256"
"""Keys in the metadata of a weights file."""


def bundle_hash(description: str, config: bytes, tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 of a bundle's description, its configuration file and its tensors."""
    digest = hashlib.sha256()
    for text in (description.encode(), config):
        digest.update(len(text).to_bytes(8, "little") + text)
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file; raises ValueError if it is cut off."""
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, 1 << 24):
        raise ValueError("its header is longer than the file")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return {str(key): str(value) for key, value in metadata.items()}


def require_finite(tensors: Mapping[str, Array]) -> None:
    """Raise ValueError if a tensor of floating-point numbers holds NaN or infinity."""
    for name, values in tensors.items():
        if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite")


def require_population(population: Population, latents: int) -> None:
    """Raise ValueError unless the arrays of a population fit each other and the model's latents."""
    components, references = len(population.weights), len(population.reference_z)
    shapes = {
        "weights": (components,),
        "means": (components, latents),
        "precisions_cholesky": (components, latents, latents),
        "reference_z": (references, latents),
        "reference_class": (references,),
        "reference_source": (references,),
    }
    for name, shape in shapes.items():
        values = getattr(population, name)
        _require(values.shape == shape, f"{name} has shape {values.shape}, expected {shape}")
        kind = np.integer if name in ("reference_class", "reference_source") else np.floating
        _require(np.issubdtype(values.dtype, kind), f"{name} has values of type {values.dtype}")
    _require(components > 0, "there is no component")
    _require(bool((population.weights >= 0).all()), "weights of components are negative")
    _require(abs(population.weights.sum() - 1) < 1e-3, "weights of components do not sum to 1")
    diagonals = np.diagonal(population.precisions_cholesky, axis1=1, axis2=2)
    _require(bool((diagonals > 0).all()), "precisions of components are not positive")
    classes = population.classes
    _require(len(set(classes)) == len(classes), "classes have the same name")
    names = len(population.reference_names)
    _require(names in (0, references), f"there are {names} names of {references} references")
    present = np.unique(population.reference_class)
    _require(
        np.array_equal(present, np.arange(len(classes))),
        f"reference_class names {present.tolist()} of {len(classes)} classes",
    )
    temperature = population.temperature
    _require(
        bool(np.isfinite(temperature)) and temperature > 0,
        f"temperature is {temperature}, expected a positive number",
    )


def _require(is_so: bool, problem: str) -> None:
    if not is_so:
        raise ValueError(f"population: {problem}")

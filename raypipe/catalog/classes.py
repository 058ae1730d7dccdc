"""Find the classes of a catalog, which are those of its model, and the most probable class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from raypipe.catalog.schema import classes_in
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import (
    find_publication,
    read_published,
    require_publication,
)
from raypipe.store.workspace import Workspace


def catalog_classes(workspace: Workspace, release: str, model_id: str) -> tuple[str, ...]:
    """Return the classes for which a catalog has probabilities `p_<class>`, in the model's order.

    They are read from the model's bundle or, if the workspace no longer has it, from the metadata
    of the catalog. Those that only `raypipe classify` knows follow. Raises RaypipeError without a
    catalog.
    """
    known = _model_classes(workspace, release, model_id)
    catalog = require_publication(workspace, release, model_id)
    added = find_publication(workspace, release, model_id, "classify")
    if added is None or added.catalog != catalog.fingerprint:
        return known
    more = classes_in(workspace.read_schema(added.parts[0]))
    return (*known, *(name for name in more if name not in known))


def _model_classes(workspace: Workspace, release: str, model_id: str) -> tuple[str, ...]:
    folder = model_folder(model_id)
    if workspace.exists(f"{folder}/model.safetensors"):
        return load_model(workspace.absolute_uri(folder)).population.classes
    return read_published(
        workspace,
        release,
        model_id,
        lambda published: classes_in(workspace.read_schema(published.sources)),
    )


def most_probable(frame: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the most probable class of each row and its probability: columns `class`, `share`.

    Both are missing in rows without probabilities, and in all rows without `classes`.
    """
    known = [name for name in classes if f"p_{name}" in frame]
    shares = frame[[f"p_{name}" for name in known]].to_numpy(dtype=np.float64)
    measured = np.isfinite(shares).all(axis=1) & bool(known)
    answer = pd.DataFrame({"class": None, "share": np.nan}, index=frame.index, dtype=object)
    if measured.any():
        best = shares[measured].argmax(axis=1)
        answer.loc[measured, "class"] = np.array(known, dtype=object)[best]
        answer.loc[measured, "share"] = shares[measured].max(axis=1)
    return answer.astype({"share": np.float64})

"""Open the alignment of a catalog as it was published: its bundle, and the rows of its view."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.alignment.bundle import Alignment, load_alignment
from raypipe.alignment.text_encoder import read_text_encoder
from raypipe.alignment.translation import (
    PredictedCounts,
    PredictedSpectra,
    predict_counts,
    predict_latents,
    predict_spectra,
)
from raypipe.alignment.view_table import MOST_ELEMENTS, ViewColumn
from raypipe.alignment.views import ScaledColumn, ViewInputs
from raypipe.catalog.added_columns import added_to, read_added_table
from raypipe.errors import RaypipeError, UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import choose_model
from raypipe.model.covariance import unpack
from raypipe.redaction import printable
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.decoding import COLUMNS, vectors
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import alignment_folder, columns_folder, model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, require_publication
from raypipe.store.workspace import Workspace

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

VERB, VIEW = "align", "view"
"""Name under which the columns are added to a catalog, and name of the table of the view."""
_VECTORS = ("shared", "predicted_z", "predicted_z_cov")


@dataclass(frozen=True)
class OpenedAlignment:
    """Hold an alignment with the rows of its view.

    `rows` has one row per row of the user's table that has values, with the columns `row` (its
    number, from 1), the keys that the table has, and `summary` (its values in words). `shared`
    (rows, dimensions) are the unit vectors of these rows, and `predicted_z` (rows, latents) and
    `predicted_z_cov` (rows, latents, latents) are the latents predicted from them.
    """

    workspace: Workspace
    alignment: Alignment
    rows: pa.Table
    shared: Float32
    predicted_z: Floats
    predicted_z_cov: Floats

    def find_row(self, called: str) -> int:
        """Return the row of the view with this key, or for "#N" the row with the number N.

        Raises UsageError if there is none.
        """
        if called.startswith("#") and called[1:].isdecimal():
            found = np.flatnonzero(self.rows["row"].to_numpy() == int(called[1:]))
            if len(found):
                return int(found[0])
        for key in ("name", "detection_id"):
            if key in self.rows.column_names:
                names = np.array(self.rows[key].to_pylist(), dtype=object)
                if len(found := np.flatnonzero(names == called)):
                    return int(found[0])
        raise UsageError(
            f"{printable(called, 80)}: {self.alignment.about.table} has no row of this name; give "
            "a name, a detection_id, or #N for its row of number N"
        )

    def embed_values(self, text: str) -> Float32:
        """Map values of a view, given as JSON, into the shared space: a unit vector (dimensions,).

        The JSON is a list of numbers, if the view is one vector, or an object that maps names of
        columns to values; other columns count as missing. Raises UsageError for other text.
        """
        return self.alignment.embed_views(self.inputs_of(_values_in(text)))[0]

    def embed_text(self, text: str) -> Float32:
        """Map a text into the shared space; raises UsageError if the view has no texts."""
        texts = self.alignment.about.texts
        if not texts:
            raise UsageError(
                f"{self.alignment.about.alignment_id} has no texts: name a --text-encoder and a "
                "column of texts to raypipe align"
            )
        return self.alignment.embed_views(self.inputs_of({texts[0]: text}))[0]

    def predict_spectrum(
        self, view: str, model: Model | None = None, draws: int = 256
    ) -> PredictedSpectra:
        """Predict the spectrum of a row of the view, or of values given as JSON.

        `view` is that of `raypipe search --like-view`; `model` defaults to that of the catalog.
        Raises UsageError for a model other than the catalog's, and for preset paper.
        """
        return predict_spectra(*self._latents_of(view), self.own_model(model), draws)

    def predict_counts(
        self, view: str, spectra: SpectraBatch, model: Model | None = None, draws: int = 256
    ) -> PredictedCounts:
        """Fold the spectrum predicted from a view through the response of one detection.

        `view` and `model` are those of `predict_spectrum`, and `spectra` has the detection as its
        only row. Raises UsageError as `predict_spectrum` does.
        """
        mean, covariance = self._latents_of(view)
        return predict_counts(mean[0], covariance[0], self.own_model(model), spectra, draws)

    def detection(self, detection_id: str) -> SpectraBatch:
        """Read the spectrum of a detection from the workspace; raises UsageError without one."""
        release, library = self.alignment.about.release, ResponseLibrary(self.workspace)
        for table in iterate_spectra(self.workspace, release, [detection_id], COLUMNS):
            return SpectraBatch.from_table(table, library)
        raise UsageError(
            f"{printable(detection_id, 80)}: {self.workspace.uri} has no spectrum of this detection"
        )

    def _latents_of(self, view: str) -> tuple[Floats, Floats]:
        """Return the latents predicted from a view, (1, latents), with their covariance."""
        if view.lstrip().startswith(("[", "{")):
            return predict_latents(self.alignment, self.inputs_of(_values_in(view)))
        row = self.find_row(view)
        return self.predicted_z[row : row + 1], self.predicted_z_cov[row : row + 1]

    def own_model(self, model: Model | None = None) -> Model:
        """Load the model of the catalog, or return `model`; raises UsageError for another one."""
        model = model or load_model(self.workspace.absolute_uri(self._model_folder))
        if model.model_id != self.alignment.about.model_id:
            raise UsageError(
                f"the alignment is with {self.alignment.about.model_id}, not with {model.model_id}"
            )
        return model

    @property
    def _model_folder(self) -> str:
        return model_folder(self.alignment.about.model_id)

    def inputs_of(self, values: Any) -> ViewInputs:
        """Scale the values of one row of a view: a list, or a mapping by names of columns."""
        about, columns = self.alignment.about, self.alignment.view.columns
        if isinstance(values, list):
            if len(columns) != 1 or columns[0].kind != "vector":
                names = ", ".join(column.name for column in columns)
                raise UsageError(f'a view of {names}: give values as {{"column": value, ...}}')
            values = {columns[0].name: values}
        if unknown := set(values) - {column.name for column in columns}:
            names = ", ".join(column.name for column in columns)
            raise UsageError(f"the view has no column {', '.join(sorted(unknown))}; it has {names}")
        if all(value is None for value in values.values()):
            raise UsageError("give the value of at least one column of the view")
        made = []
        for column in columns:
            _require_known(column, values.get(column.name))
            kind = "text" if column.name in about.texts else column.kind
            made.append(_one_row(column.name, kind, column.size, values.get(column.name)))
        is_text = any(c.kind == "text" and c.values[0] is not None for c in made)
        encoder = read_text_encoder(about.text_encoder) if is_text else None
        if encoder is None:
            # Without a text there is nothing to encode: its vector is missing.
            made = [
                _one_row(c.name, "vector", s.size, None) if c.kind == "text" else c
                for c, s in zip(made, columns, strict=True)
            ]
        return self.alignment.inputs_of(made, encoder)


def open_alignment(
    workspace: str | os.PathLike[str] | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
) -> OpenedAlignment:
    """Open the alignment of a catalog; the arguments are those of `open_catalog`.

    This is the alignment whose columns the catalog has. Raises UsageError if there is none, and
    RaypipeError if the catalog has changed since.
    """
    store = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(store, release)
    model_id = choose_model(store, release, model)
    catalog = require_publication(store, release, model_id)
    found = [added for added in added_to(store, catalog, "refuse") if added.verb == VERB]
    if not found:
        raise UsageError(
            f"{store.uri} {release}: no view is aligned with the catalog by {model_id}; run "
            "raypipe align"
        )
    name = str(found[0].about.get("alignment_id", ""))
    alignment = load_alignment(store.absolute_uri(alignment_folder(name)))
    rows = read_added_table(store, found[0], VIEW)
    try:
        shared, z, triangles = (np.asarray(vectors(rows[column])) for column in _VECTORS)
        covariance = unpack(triangles.astype(np.float64))
    except (LookupError, AttributeError, ValueError) as error:
        raise _does_not_fit(store, found[0], name) from error
    latents = alignment.network.latents
    if shared.shape[1:] != (alignment.dimensions,) or covariance.shape[1:] != (latents, latents):
        raise _does_not_fit(store, found[0], name)
    described = rows.drop_columns(list(_VECTORS))
    return OpenedAlignment(store, alignment, described, shared, z.astype(np.float64), covariance)


def _does_not_fit(store: Workspace, added: Publication, name: str) -> RaypipeError:
    folder = store.absolute_uri(columns_folder(added.release, added.model_id, VERB))
    return RaypipeError(
        f"{store.absolute_uri(added.name)}: its view does not fit {name}; delete {folder} and run "
        "raypipe align again"
    )


def _values_in(text: str) -> list[Any] | Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{printable(text, 80)}: neither a key nor JSON ({error})") from error
    if not isinstance(found, list | dict):
        raise UsageError(f"{printable(text, 80)}: expected a list of numbers, or an object")
    return found


def _require_known(column: ScaledColumn, value: Any) -> None:
    """Raise UsageError for a word that the alignment has not seen in a column of words."""
    if column.kind == "category" and isinstance(value, str) and value not in column.categories:
        known = ", ".join(printable(each, 40) for each in column.categories[:20])
        raise UsageError(
            f"column {column.name}: {printable(value, 80)} is none of the values seen in training: "
            f"{known}"
        )


def _one_row(name: str, kind: str, size: int, value: Any) -> ViewColumn:
    """Make a column of one row; raises UsageError if the value does not fit the column."""
    try:
        if kind == "number":
            if isinstance(value, bool):
                raise ValueError("expected a number")
            values: npt.NDArray[Any] = np.array([np.nan if value is None else float(value)])
            if value is not None and not np.isfinite(values).all():
                raise ValueError("not finite")
        elif kind in ("category", "text"):
            if value is not None and not isinstance(value, str):
                raise ValueError("expected text")
            values = np.array([value], dtype=object)
        elif kind == "vector":
            row = np.full(size, np.nan) if value is None else np.array(value, dtype=np.float64)
            if row.shape != (size,) or (value is not None and not np.isfinite(row).all()):
                raise ValueError(f"expected {size} finite numbers")
            values = row.astype(np.float32)[None]
        else:
            values = np.full(1, None, dtype=object)
            values[0] = None if value is None else _curve(value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"column {name}: {printable(str(value), 80)}: {error}") from error
    return ViewColumn(name, kind, values)  # type: ignore[arg-type]


def _curve(value: Any) -> npt.NDArray[np.float64]:
    curve = np.array(value, dtype=np.float64)
    if curve.ndim != 2 or len(curve) != 2 or not 0 < curve.shape[1] <= MOST_ELEMENTS:
        raise ValueError("expected two lists of equal length: times and rates")
    if not np.isfinite(curve).all():
        raise ValueError("not finite")
    return curve[:, np.argsort(curve[0], kind="stable")]

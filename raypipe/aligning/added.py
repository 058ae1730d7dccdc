"""Make the tables that an alignment adds to a catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe.aligning.data import AlignData, used_columns
from raypipe.alignment.bundle import Alignment
from raypipe.alignment.translation import predict_latents, predict_views
from raypipe.alignment.view_table import ViewColumn, ViewTable
from raypipe.catalog.column_names import column_names
from raypipe.catalog.schema import described
from raypipe.model.covariance import pack

MOST_PREDICTED = 40
"""Most columns of the view whose predictions are added to the catalog."""
_MOST_SUMMARIZED = 6
_MOST_CHARACTERS = 300


def shared_table(made: Alignment, data: AlignData) -> pa.Table:
    """Return shared vectors and predicted views of all detections with latents."""
    shared = made.embed_spectra(data.posteriors)
    columns: dict[str, Any] = {"detection_id": data.detection_ids}
    columns |= {f"shared_{i}": pa.array(values) for i, values in enumerate(shared.T)}
    predicted = predict_views(made, data.posteriors)
    predicted = predicted.iloc[:, : 3 * MOST_PREDICTED].add_prefix("predicted_")
    names = column_names(list(map(str, predicted.columns)), lambda name: False)
    for name, (_, values) in zip(names, predicted.items(), strict=True):
        columns[name] = pa.array(values.to_numpy(), from_pandas=True)
    return described(columns)


def view_table(made: Alignment, data: AlignData, table: ViewTable) -> pa.Table:
    """Return the rows of the user's table that have values.

    Each row has its shared vector and the latents predicted for it, with their covariance.
    """
    columns = used_columns(data.columns, made.view)
    rows = np.flatnonzero(np.stack([column.is_known for column in columns]).any(axis=0))
    inputs = made.view.transform([column.take(rows) for column in columns])
    shared = made.embed_views(inputs)
    found: dict[str, Any] = {"row": pa.array(rows + 1)}
    for name in ("detection_id", "name", "ra", "dec"):
        if name in table.identity:
            found[name] = pa.array(table.identity[name].iloc[rows], from_pandas=True)
    found["detections"] = pa.array(np.bincount(data.place[data.paired], minlength=len(table))[rows])
    found["summary"] = pa.array(_summaries(table, rows), pa.string())
    mean, covariance = predict_latents(made, inputs)
    for name, values in (
        ("shared", shared),
        ("predicted_z", mean.astype(np.float32)),
        ("predicted_z_cov", pack(covariance)),
    ):
        flat = pa.array(np.ascontiguousarray(values).ravel())
        found[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(found)


def _summaries(table: ViewTable, rows: np.ndarray) -> list[str]:
    """Describe each row by its first values that can be written in words."""
    shown = [c for c in table.columns if c.kind in ("number", "category", "text")]
    taken = [column.take(rows) for column in shown[:_MOST_SUMMARIZED]]
    return [
        ", ".join(filter(None, (_shown(column, row) for column in taken)))[:_MOST_CHARACTERS]
        for row in range(len(rows))
    ]


def _shown(column: ViewColumn, row: int) -> str:
    value = column.values[row]
    if value is None or pd.isna(value):
        return ""
    text = f"{value:.4g}" if column.kind == "number" else str(value)
    return text if column.kind == "text" else f"{column.name} {text}"

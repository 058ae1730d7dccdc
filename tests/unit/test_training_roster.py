"""Which spectra are learned from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raypipe.config import TrainConfig
from raypipe.store.workspace import Workspace
from raypipe.training.data import read_roster
from tests.unit.spectra_release import RELEASE, publish_manifest, publish_spectra, spectra_table


def test_spectra_that_no_likelihood_can_be_made_of_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("raypipe"), "propagate", True)
    workspace, names = Workspace(tmp_path), [f"r:{number:02d}.0.1" for number in range(60)]
    table = spectra_table(workspace, 60, names)
    wrong: dict[str, dict[int, float | None]] = {
        "exposure_s": {0: 1e300, 1: 0.0, 2: np.nan},
        "background_scale": {3: -1.0, 4: np.inf, 5: None},
        "counts_b": {6: 0, 7: None, 8: None},
        "flags": {8: "no_background|no_counts"},
    }
    for column, values in wrong.items():
        cells = [values.get(i, cell) for i, cell in enumerate(table[column].to_pylist())]
        place = table.column_names.index(column)
        table = table.set_column(place, column, pa.array(cells, table[column].type))
    publish_manifest(workspace, names)
    publish_spectra(workspace, table)
    roster = read_roster(workspace, RELEASE, TrainConfig())
    assert np.flatnonzero(~roster.usable).tolist() == [0, 1, 2, 3, 4, 6, 8]
    assert "5 spectra are left out" in caplog.text

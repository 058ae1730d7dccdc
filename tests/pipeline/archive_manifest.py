"""What tests of discovery from the archive ask for, and what they must get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from raypipe.store.workspace import Workspace
from tests.pipeline.tap_server import TapServer


def settings(server: TapServer, **fields: Any) -> dict[str, Any]:
    given = {
        "tap_url": server.url,
        "page_rows": 60,
        "sync_rows": 30,
        "attempts": 3,
        "backoff_s": 0.01,
        "poll_s": 0.01,
    }
    return {"discover": given | fields}


def manifest(workspace: Path) -> pd.DataFrame:
    rows = Workspace(workspace).read_folder("manifest/csc2.1").to_pandas()
    return rows.set_index(["obsid", "obi", "region_id"], drop=False).sort_index()


def assert_true(rows: pd.DataFrame, truth: dict[tuple[int, int, int], dict[str, Any]]) -> None:
    """Each detection of the truth once, with its values, and nothing else."""
    expected = pd.DataFrame(truth.values()).rename(
        columns={"flux_aper90_b": "obs_flux_aper90_b", "sat_src_flag": "obs_sat_src_flag"}
    )
    expected = expected.set_index(["obsid", "obi", "region_id"], drop=False).sort_index()
    assert rows.index.to_list() == expected.index.to_list()
    pd.testing.assert_frame_equal(rows[expected.columns], expected, check_dtype=False)

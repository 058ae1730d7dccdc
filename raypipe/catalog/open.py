"""open_catalog: the latent catalog in memory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from raypipe.catalog.models import choose_model
from raypipe.discovery.manifest import choose_release
from raypipe.workspace import Workspace, catalog_folder

__all__ = ["choose_model", "choose_release", "open_catalog"]


def open_catalog(
    workspace: str | Path | Workspace, *, release: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """The latent catalog of a release by a model, one row a detection.

    By default the only release there is and its newest catalog. Raises UsageError where there is
    no such catalog.
    """
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    model_id = choose_model(workspace, release, model)
    return workspace.read_folder(catalog_folder(release, model_id)).to_pandas()

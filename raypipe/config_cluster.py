"""Define the settings of clusters; `raypipe.config` has all sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from raypipe.config_training import Section

ClusterMethod = Literal["mixture", "graph"]


class ClusterConfig(Section):
    """Choose how clusters are found."""

    method: ClusterMethod = Field(
        "mixture",
        description="mixture: Gaussian mixture that uses the error of each detection. graph: "
        "Leiden communities of look-alikes (needs leidenalg: the extra graph).",
    )
    clusters: int | None = Field(
        None,
        ge=1,
        description="Number of clusters of the mixture. Default: that with the lowest Bayesian "
        "information criterion, at most most_clusters.",
    )
    most_clusters: PositiveInt = Field(32, description="Most clusters that are tried.")
    directions: PositiveInt = Field(
        8, description="Principal directions of the decoded flux that the clusters are found in."
    )
    resolution: float = Field(
        1.0, gt=0, description="Resolution of the communities of a graph; more is finer."
    )
    fit_rows: int = Field(
        10_000,
        ge=100,
        description="Most detections, drawn at random, that the clusters are fitted to. All others "
        "are assigned to them.",
    )
    starts: PositiveInt = Field(3, description="Starts of each fit, of which the best is used.")
    seed: int = Field(0, ge=0, description="Seed of all random draws.")

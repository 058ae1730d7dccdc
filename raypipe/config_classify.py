"""Define the settings of `raypipe classify`; `raypipe.config` has all sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raypipe.config_training import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class ClassifyConfig(Section):
    """Classify detections and sources by labeled ones."""

    folds: int = Field(
        5,
        ge=2,
        le=50,
        description="Folds of sources. Each has a forest that has not seen it; classes with fewer "
        "sources than folds are left out.",
    )
    trees: int = Field(500, ge=10, le=10_000, description="Trees of all folds together.")
    coverage: float = Field(
        0.9, gt=0.5, lt=1, description="Share of sources, per class, whose set holds their class."
    )
    prior: Literal["labeled", "equal"] | dict[str, Share] = Field(
        "labeled",
        description="Population for which p_<class> holds. labeled: classes are as frequent as "
        "among the labeled sources. equal: all are equally frequent. A table of shares by class: "
        "those; classes that it lacks share the rest as among the labeled sources.",
    )
    unlike_p: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Largest share of labeled sources at least as unlike the others of their "
        "class for which a detection counts as none of the classes.",
    )
    context_columns: list[str] = Field(
        default=[],
        description="Numeric columns of the catalog that are used as further context, such as "
        "magnitudes of optical counterparts. Default: none.",
    )
    seed: int = Field(0, ge=0, description="Seed for folds and trees.")

"""Hold the description of a spectrum: the numbers that its text, JSON, table and figures show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from raypipe.errors import RaypipeError
from raypipe.ogip import Note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raypipe.describing.measure import Evidence
    from raypipe.describing.physics_posterior import PhysicsPosterior
    from raypipe.model.posterior import Draws


@dataclass(frozen=True)
class Interval:
    """Hold a value with the limits of its 68% interval; a limit that is not known is NaN."""

    value: float
    lolim: float
    hilim: float


@dataclass(frozen=True)
class Flux(Interval):
    """Hold an energy flux, erg/cm2/s, with its 68% interval.

    `upper_limit` is None where the source is detected in the band. `is_extrapolated` tells that
    the spectrum's channels do not cover the band, so that the model alone gives part of its flux.
    """

    upper_limit: float | None = None
    is_extrapolated: bool = False


@dataclass(frozen=True)
class Fit:
    """Hold the fit of a physical model: its Cash statistic `stat`, and its parameters.

    `parameters` are under the names of the catalog's columns (`powlaw_gamma`), in their units.
    """

    stat: float
    parameters: Mapping[str, Interval]


@dataclass(frozen=True)
class Neighbor:
    """Hold a labeled training spectrum near the described one: its class and its distance.

    `distance` is sqrt(d^T C^-1 d), with d the difference of the latents and C the covariance of the
    described spectrum's posterior: their separation in units of the joint error of all latents.
    `separation` is |d|, and `separation_err` its standard deviation, sqrt(d^T C d) / |d|: that of
    the posterior along d. `name` is that of its source, or its detection id if the source has none;
    it is None for models that do not keep names. `source` is the key of the source
    (`raypipe.identity.source_keys`), in hexadecimal digits.
    """

    label: str
    distance: float
    separation: float
    separation_err: float
    name: str | None
    source: str


@dataclass(frozen=True)
class Description:
    """Describe a spectrum; `raypipe.describe` makes it.

    `total_counts` are those in the model's channels, and `background_share` the expected
    background's share of them. `fluxes` are by band of the CSC, `fits` by physical model, and
    `best_fit` names the fit with the lowest Cash statistic, None without fits. `cash` is that of
    the latents' fold over `n_bins` channel bins, `cash_expected` and `fit_zscore` judge it as in
    the catalog. `posterior_ess` is the effective number of the draws. `classes` are probabilities,
    whose meaning `classes_from` explains; `neighbors` are the nearest, nearest first, of
    `n_references` training spectra; `references` says of which kind these are. `warnings` are
    sentences, each with a `code`.

    `print` shows all this as text, a notebook as a table with figures.
    """

    file: str
    object: str
    telescope: str
    instrument: str
    exposure_s: float
    total_counts: int
    background_share: float
    fluxes: Mapping[str, Flux]
    fits: Mapping[str, Fit]
    cash: float
    cash_expected: float
    fit_zscore: float
    n_bins: int
    anomaly_score: float
    posterior_ess: float
    classes: Mapping[str, float]
    classes_from: str
    neighbors: Sequence[Neighbor]
    n_references: int
    references: str
    warnings: Sequence[Note]
    model_id: str
    evidence: Evidence = field(repr=False, compare=False)

    @property
    def best_fit(self) -> str | None:
        """Return the name of the physical model with the lowest Cash statistic."""
        stats = {name: fit.stat for name, fit in self.fits.items() if math.isfinite(fit.stat)}
        return min(stats, key=lambda name: stats[name], default=None)

    @property
    def likely_class(self) -> str | None:
        """Return the most probable class, None for a model without classes."""
        return max(self.classes, key=lambda name: self.classes[name], default=None)

    @property
    def draws(self) -> Draws:
        """Return weighted draws from the posterior of latents and amplitude, for n = 1 row."""
        return self.evidence.draws

    @cached_property
    def physics(self) -> PhysicsPosterior | None:
        """Return the posterior of the best fit's parameters; None without a physical fit."""
        from raypipe.describing.physics_posterior import physics_posterior

        best = self.best_fit
        return None if best is None else physics_posterior(self.evidence, self.fits[best], best)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as JSON: null for those that are not known."""
        from raypipe.describing.as_json import description_json

        return description_json(self)

    def plot(self) -> Figure:
        """Draw counts, fold and residuals; the unfolded flux; and the posterior of the physics.

        Returns a matplotlib figure, which notebooks display.
        """
        from raypipe.describing.figures import description_figure

        return description_figure(self)

    def __repr__(self) -> str:
        from raypipe.describing.text import headline

        return f"Description({headline(self)})"

    def __str__(self) -> str:
        from raypipe.describing.text import description_text

        return description_text(self)

    def _repr_html_(self) -> str:
        from raypipe.describing.page import description_fragment

        return description_fragment(self)


@dataclass(frozen=True)
class Undescribed:
    """Hold a file that cannot be described, with the error that says why."""

    file: str
    error: RaypipeError

    def as_json(self) -> dict[str, Any]:
        """Return the file and the error's message."""
        return {"file": self.file, "error": str(self.error)}

    def __str__(self) -> str:
        return str(self.error)


@dataclass(frozen=True, repr=False)
class Descriptions(Sequence[Description | Undescribed]):
    """Hold the descriptions of several spectra, in the order in which these were given.

    A spectrum that cannot be described is an `Undescribed` in its place. `print` shows a table.
    """

    items: tuple[Description | Undescribed, ...]

    @overload
    def __getitem__(self, place: int) -> Description | Undescribed: ...

    @overload
    def __getitem__(self, place: slice) -> Descriptions: ...

    def __getitem__(self, place: int | slice) -> Description | Undescribed | Descriptions:
        if isinstance(place, slice):
            return Descriptions(self.items[place])
        return self.items[place]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Description | Undescribed]:
        return iter(self.items)

    @property
    def described(self) -> list[Description]:
        """Return the spectra that were described."""
        return [each for each in self.items if isinstance(each, Description)]

    @property
    def undescribed(self) -> list[Undescribed]:
        """Return the spectra that could not be described."""
        return [each for each in self.items if isinstance(each, Undescribed)]

    def as_json(self) -> list[dict[str, Any]]:
        """Return a list with an object per file."""
        return [each.as_json() for each in self.items]

    def __repr__(self) -> str:
        return f"Descriptions({len(self.described)} described, {len(self.undescribed)} not)"

    def __str__(self) -> str:
        from raypipe.describing.table import descriptions_text

        return descriptions_text(self)

    def _repr_html_(self) -> str:
        from raypipe.describing.page import descriptions_fragment

        return descriptions_fragment(self)

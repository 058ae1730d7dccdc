"""Define eight classes of X-ray sources by the distributions of their parameters and their spectra.

The `draw` function of a class draws the parameters of k sources. Its `spectrum` function computes
absorbed photon flux densities (k, n) in photon/cm2/s/keV, with arbitrary norm, from nothing but the
parameters and a model of plasma; it reproduces the spectra of a truth table. Classes overlap as
real ones do: no single parameter separates two of them.

The papers cited below describe the spectra of such sources and give ranges of parameters. Within
these ranges, centers, scatters, limits and fractions were chosen and not fitted to a sample.
Accuracies on this population therefore do not apply to the sky.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from raypipe.physics.absorption import transmission
from raypipe.physics.components import (
    black_body,
    bremsstrahlung,
    disk_black_body,
    line,
    power_law,
)
from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.physics.plasma import thermal_plasma

Parameters = Mapping[str, FloatArray]
Draw = Callable[[np.random.Generator, int], dict[str, FloatArray]]
Plasma = Callable[[FloatArray, FloatArray, EnergyGrid], FloatArray]
"""A function of temperatures, keV, abundances and a grid, such as `thermal_plasma`."""
Spectrum = Callable[[Parameters, EnergyGrid, Plasma], FloatArray]

PARAMETERS: dict[str, str] = {
    "nh_1e22": "column density in front of the primary emission, 10^22 cm^-2",
    "log_nh": "log10 of the same in cm^-2",
    "nh_foreground_1e22": "column density in front of everything, if some emission escapes nh_1e22",
    "covering_fraction": "fraction of the emission behind nh_1e22, if not all of it is",
    "photon_index": "photon index of the power law",
    "kt_kev": "temperature of the thermal (or inner disk, or surface) emission, keV",
    "kt2_kev": "temperature of the second plasma, keV",
    "abundance": "metals of the plasma relative to solar",
    "second_share": "photons of the second component per photon of the first, 0.5-7 keV",
    "fe_line_ew_kev": "equivalent width of the neutral iron line in the source's frame, keV",
    "redshift": "redshift of the iron line",
}
"""Columns of a truth table with descriptions; NaN if a source has no such parameter."""

FE_K_ALPHA_KEV = 6.404
"""Neutral iron K alpha 1 (X-ray Data Booklet, LBNL)."""
FE_LINE_SIGMA_KEV = 0.02
"""Intrinsic width of the line, unresolved by a CCD."""


@dataclass(frozen=True)
class SourceClass:
    """Define a class of sources by two functions: one draws parameters, one computes spectra."""

    name: str
    draw: Draw
    spectrum: Spectrum


def _log_normal(
    rng: np.random.Generator, k: int, center: float, dex: float, lowest: float, highest: float
) -> FloatArray:
    """Draw k log-normal values around `center` with a scatter of `dex`, within limits."""
    return np.clip(center * 10 ** rng.normal(0.0, dex, k), lowest, highest)


def _column(
    rng: np.random.Generator, k: int, log_nh: float, dex: float, lowest: float = 19.5
) -> FloatArray:
    """Draw k column densities, 10^22 cm^-2: log-normal around `log_nh`, from `lowest` to 24."""
    return 10 ** (np.clip(rng.normal(log_nh, dex, k), lowest, 24.0) - 22.0)


def _where(rng: np.random.Generator, share: float, values: FloatArray) -> FloatArray:
    """Return the values of a random fraction `share` of the sources, and 0 for the others."""
    return np.where(rng.random(len(values)) < share, values, 0.0)


def _of_second(name: str, drawn: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the parameters with `name` set to NaN in sources without a second component."""
    return drawn | {name: np.where(drawn["second_share"] > 0, drawn[name], np.nan)}


def _add_second(
    flux: FloatArray, p: Parameters, component: Callable[[Parameters], FloatArray]
) -> None:
    """Add the second component, times `second_share`, in place to the sources that have one."""
    rows = np.flatnonzero(p["second_share"] > 0)
    having = {name: values[rows] for name, values in p.items()}
    flux[rows] += having["second_share"][:, None] * component(having)


def _iron_line(p: Parameters, continuum: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Return the neutral iron line with the equivalent width of the parameters over a continuum."""
    # A line at E with equivalent width W is observed at E / (1 + z) with width W / (1 + z). Its
    # photons are the width times the density of the continuum at the line.
    stretch = 1 + np.nan_to_num(p["redshift"])
    energy = FE_K_ALPHA_KEV / stretch
    nearest = np.clip(((energy - grid.lo_kev) / grid.width_kev).astype(int), 0, grid.n - 1)
    density = np.take_along_axis(continuum, nearest[:, None], 1)[:, 0]
    photons = p["fe_line_ew_kev"] / stretch * density
    return photons[:, None] * line(energy, FE_LINE_SIGMA_KEV, grid)


def _draw_agn(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    obscured = rng.random(k) < 0.4
    foreground = _column(rng, k, 20.4, 0.3)
    intrinsic = np.where(
        obscured, 10 ** (rng.uniform(22.0, 23.8, k) - 22), _column(rng, k, 20.2, 0.4)
    )
    escaping = np.where(obscured, 10 ** rng.uniform(-2.5, -1.3, k), 0.0)
    drawn = {
        "nh_1e22": foreground + intrinsic,
        "nh_foreground_1e22": foreground,
        "covering_fraction": 1 - escaping,
        "photon_index": np.clip(rng.normal(1.8, 0.25, k), 1.2, 2.6),
        "kt_kev": rng.uniform(0.08, 0.2, k),
        "second_share": np.where(obscured, 0.0, _where(rng, 0.4, rng.uniform(0.05, 0.4, k))),
        "fe_line_ew_kev": _log_normal(rng, k, 0.08, 0.3, 0.0, 0.5),
        "redshift": np.clip(10 ** rng.normal(-0.3, 0.4, k), 0.003, 3.5),
    }
    return _of_second("kt_kev", drawn)


def _agn(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    """Compute an active galactic nucleus: power law, black-body soft excess, iron line, absorber.

    Photon indices lie between about 1.5 and 2.2 (Nandra & Pounds 1994; Piconcelli et al. 2005).
    Column densities reach 10^23.8 cm^-2 (Ueda et al. 2014), and 0.3-5% of the emission is scattered
    around the absorber. The soft excess has kT near 0.1 keV (Gierlinski & Done 2004). Absorbers are
    at z = 0.
    """
    primary = power_law(p["photon_index"], grid)
    _add_second(primary, p, lambda having: black_body(having["kt_kev"], grid))
    primary += _iron_line(p, primary, grid)
    return _partly_covered(p, primary, grid)


def _partly_covered(p: Parameters, primary: FloatArray, grid: EnergyGrid) -> FloatArray:
    """Absorb the covered fraction by nh_1e22 and the rest by nh_foreground_1e22."""
    covered = p["covering_fraction"][:, None]
    through = covered * transmission(p["nh_1e22"], grid)
    through += (1 - covered) * transmission(p["nh_foreground_1e22"], grid)
    return primary * through


def _draw_cv(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    foreground = _column(rng, k, 21.0, 0.4)
    covering = _where(rng, 0.6, rng.uniform(0.3, 0.85, k))
    return {
        "nh_1e22": foreground + np.where(covering > 0, _column(rng, k, 22.6, 0.35), 0.0),
        "nh_foreground_1e22": foreground,
        "covering_fraction": covering,
        "kt_kev": _log_normal(rng, k, 10.0, 0.3, 2.5, 40.0),
        "abundance": _log_normal(rng, k, 0.6, 0.2, 0.1, 2.0),
        "fe_line_ew_kev": _where(rng, 0.7, _log_normal(rng, k, 0.13, 0.2, 0.02, 0.5)),
    }


def _cv(p: Parameters, grid: EnergyGrid, plasma: Plasma) -> FloatArray:
    """Compute a cataclysmic variable: hot plasma with iron lines at 6.4, 6.7 and 6.97 keV.

    kT is 5-40 keV; magnetic systems have a partial absorber (Mukai 2017; Ezuka & Ishida 1999).
    """
    primary = plasma(p["kt_kev"], p["abundance"], grid)
    primary += _iron_line(p, primary, grid)
    return _partly_covered(p, primary, grid)


def _draw_hm_star(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    drawn = {
        "nh_1e22": _column(rng, k, 21.8, 0.3, 20.5),
        "kt_kev": _log_normal(rng, k, 0.55, 0.12, 0.2, 1.0),
        "kt2_kev": _log_normal(rng, k, 2.0, 0.15, 1.0, 4.0),
        "second_share": _where(rng, 0.5, _log_normal(rng, k, 0.5, 0.3, 0.05, 2.0)),
        "abundance": _log_normal(rng, k, 0.6, 0.2, 0.1, 2.0),
    }
    return _of_second("kt2_kev", drawn)


def _draw_lm_star(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    return {
        "nh_1e22": _column(rng, k, 20.5, 0.6),
        "kt_kev": _log_normal(rng, k, 0.6, 0.15, 0.2, 1.2),
        "kt2_kev": _log_normal(rng, k, 1.7, 0.15, 0.9, 4.0),
        "second_share": _log_normal(rng, k, 0.5, 0.3, 0.05, 3.0),
        "abundance": _log_normal(rng, k, 0.3, 0.2, 0.05, 1.0),
    }


def _draw_yso(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    return {
        "nh_1e22": _column(rng, k, 22.0, 0.4, 20.5),
        "kt_kev": _log_normal(rng, k, 0.85, 0.1, 0.4, 1.3),
        "kt2_kev": _log_normal(rng, k, 2.8, 0.2, 1.3, 8.0),
        "second_share": _log_normal(rng, k, 1.5, 0.3, 0.3, 8.0),
        "abundance": _log_normal(rng, k, 0.3, 0.2, 0.05, 1.0),
    }


def _two_plasmas(p: Parameters, grid: EnergyGrid, plasma: Plasma) -> FloatArray:
    """Compute a star: two plasmas with the same abundance and the same absorber.

    High-mass stars have wind shocks of 0.3-0.8 keV, and in binaries colliding winds of 1-3 keV
    (Naze et al. 2011). Low-mass stars have metal-poor coronae of 0.3-1 and 1-3 keV and are nearby
    (Guedel 2004). Young stellar objects have 0.8 and 1.5-6 keV and are absorbed by their clouds,
    10^21-10^23 cm^-2 (Getman et al. 2005).
    """
    flux = plasma(p["kt_kev"], p["abundance"], grid)
    _add_second(flux, p, lambda having: plasma(having["kt2_kev"], having["abundance"], grid))
    flux *= transmission(p["nh_1e22"], grid)
    return flux


def _draw_hmxb(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    return {
        "nh_1e22": _column(rng, k, 22.2, 0.45, 21.0),
        "photon_index": np.clip(rng.normal(1.0, 0.25, k), 0.3, 2.0),
        "fe_line_ew_kev": _log_normal(rng, k, 0.08, 0.35, 0.0, 1.0),
    }


def _hmxb(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    """Compute a high-mass X-ray binary: hard power law and neutral iron line, absorbed by the wind.

    Photon indices are 0.5-1.5 below the cutoff, column densities 10^22 cm^-2 and more, and iron
    lines have tens to hundreds of eV (White, Swank & Holt 1983; Gimenez-Garcia et al. 2015).
    """
    flux = power_law(p["photon_index"], grid)
    flux += _iron_line(p, flux, grid)
    flux *= transmission(p["nh_1e22"], grid)
    return flux


def _draw_lmxb(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    disk_only = rng.random(k) < 0.35
    drawn = {
        "nh_1e22": _column(rng, k, 21.4, 0.35, 20.3),
        "kt_kev": _log_normal(rng, k, 0.8, 0.2, 0.2, 2.0),
        "photon_index": np.clip(rng.normal(1.75, 0.25, k), 1.2, 2.6),
        "second_share": np.where(disk_only, 0.0, _log_normal(rng, k, 0.35, 0.35, 0.03, 5.0)),
    }
    return _of_second("photon_index", drawn)


def _lmxb(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    """Compute a low-mass X-ray binary: a multicolor disk and a Comptonized power law.

    Inner disks have 0.3-2 keV, photon indices are 1.4-2.5 (Mitsuda et al. 1984; Remillard &
    McClintock 2006). The ratio of the two covers the soft state (disk only) to the hard state.
    """
    flux = disk_black_body(p["kt_kev"], grid)
    _add_second(flux, p, lambda having: power_law(having["photon_index"], grid))
    flux *= transmission(p["nh_1e22"], grid)
    return flux


def _draw_ns(rng: np.random.Generator, k: int) -> dict[str, FloatArray]:
    bare = rng.random(k) < 0.25
    drawn = {
        "nh_1e22": _column(rng, k, 21.4, 0.45),
        "kt_kev": _log_normal(rng, k, 0.17, 0.15, 0.06, 0.5),
        "photon_index": np.clip(rng.normal(1.6, 0.3, k), 0.8, 2.6),
        "second_share": np.where(bare, 0.0, _log_normal(rng, k, 0.2, 0.5, 0.01, 5.0)),
    }
    return _of_second("photon_index", drawn)


def _ns(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    """Compute an isolated neutron star: a cooling surface and a magnetospheric power law.

    Surfaces have 0.08-0.3 keV, photon indices are 1-2 (Becker & Truemper 1997; De Luca et al.
    2005). The ratio of the two covers thermal stars to pulsars dominated by their magnetosphere.
    """
    flux = black_body(p["kt_kev"], grid)
    _add_second(flux, p, lambda having: power_law(having["photon_index"], grid))
    flux *= transmission(p["nh_1e22"], grid)
    return flux


def _absorbed_power_law(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    return power_law(p["photon_index"], grid) * transmission(p["nh_1e22"], grid)


def _absorbed_black_body(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    return black_body(p["kt_kev"], grid) * transmission(p["nh_1e22"], grid)


def _absorbed_bremsstrahlung(p: Parameters, grid: EnergyGrid, _: Plasma) -> FloatArray:
    return bremsstrahlung(p["kt_kev"], grid) * transmission(p["nh_1e22"], grid)


CLASSES: dict[str, SourceClass] = {
    model.name: model
    for model in (
        SourceClass("AGN", _draw_agn, _agn),
        SourceClass("CV", _draw_cv, _cv),
        SourceClass("HM-STAR", _draw_hm_star, _two_plasmas),
        SourceClass("HMXB", _draw_hmxb, _hmxb),
        SourceClass("LM-STAR", _draw_lm_star, _two_plasmas),
        SourceClass("LMXB", _draw_lmxb, _lmxb),
        SourceClass("NS", _draw_ns, _ns),
        SourceClass("YSO", _draw_yso, _two_plasmas),
    )
}
"""The built-in population; names of classes are those of labels in the literature."""

FITTED_MODELS: dict[str, Spectrum] = {
    "powlaw": _absorbed_power_law,
    "bb": _absorbed_black_body,
    "brems": _absorbed_bremsstrahlung,
}
"""The models that the Chandra Source Catalog fits, by the prefix of its columns."""

SPECTRA: dict[str, Spectrum] = {
    **{name: model.spectrum for name, model in CLASSES.items()},
    **FITTED_MODELS,
}


@dataclass(frozen=True)
class Sources:
    """Hold parameters of K sources: each one's key in `SPECTRA`, and `PARAMETERS` as columns."""

    model: npt.NDArray[np.str_]
    parameters: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.model)

    def take(self, rows: npt.NDArray[np.intp]) -> Sources:
        """Return the sources in these rows, in this order."""
        return Sources(self.model[rows], {name: v[rows] for name, v in self.parameters.items()})

    @property
    def have_plasma(self) -> bool:
        """Tell whether any of the sources emits as a thermal plasma, which has an abundance."""
        return bool(np.isfinite(self.parameters["abundance"]).any())

    @classmethod
    def assemble(
        cls, model: npt.NDArray[np.str_], pieces: Sequence[tuple[npt.NDArray[np.intp], Parameters]]
    ) -> Sources:
        """Join pieces, each with its rows and parameters, into complete columns; others are NaN."""
        columns = {name: np.full(len(model), np.nan) for name in PARAMETERS}
        for rows, parameters in pieces:
            for name, values in parameters.items():
                columns[name][rows] = values
        columns["log_nh"] = np.log10(columns["nh_1e22"]) + 22.0
        return cls(model, columns)


def draw_population(rng: np.random.Generator, sources: int) -> Sources:
    """Draw the parameters of `sources` sources; all classes are equally probable."""
    names = np.array(list(CLASSES))
    model = names[rng.integers(len(names), size=sources)]
    pieces = []
    for name, kind in CLASSES.items():
        rows = np.flatnonzero(model == name)
        pieces.append((rows, kind.draw(rng, len(rows))))
    return Sources.assemble(model, pieces)


def photon_flux(sources: Sources, grid: EnergyGrid, apec_dir: str | None = None) -> FloatArray:
    """Return the absorbed photon flux densities of sources (K, n), photon/cm2/s/keV.

    The first component has one photon/cm2/s between 0.5 and 7 keV before absorption. `apec_dir` is
    a folder with the tables of AtomDB for plasmas, which are raypipe's own without it.
    """
    plasma = partial(thermal_plasma, apec_dir=apec_dir)
    flux = np.empty((len(sources), grid.n))
    for name in np.unique(sources.model):
        rows = np.flatnonzero(sources.model == name)
        parameters = {key: values[rows] for key, values in sources.parameters.items()}
        flux[rows] = SPECTRA[str(name)](parameters, grid, plasma)
    return flux

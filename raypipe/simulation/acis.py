"""Model ACIS-like instruments: mirror, filter, contamination and CCD.

Cross-sections and reflectivities are computed with xraydb for approximate dimensions of the real
telescope. All other numbers (fraction of good events, dead layers, widths, tails, depth of the
contaminant) were chosen so that areas and matrices resemble real responses of 1999-2017. From 0.65
to 7 keV, areas agree with those to 20%, mostly to 10%, and resolutions agree to 10%. These are
ACIS-like instruments, not a calibration. Work that needs the calibration can use real responses
(`raypipe.simulation.responses`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import xraydb
from scipy import sparse
from scipy.special import ndtr

from raypipe.physics.energy import EnergyGrid, FloatArray
from raypipe.simulation.instrument import Instrument
from raypipe.spectra.channel_bins import ACIS_CHANNELS, ACIS_WIDTH_KEV

CM_PER_UM = 1e-4
ARCMIN = np.pi / (180 * 60)

MIRROR_SHELLS = ((51.26, 478.0), (41.27, 305.0), (36.43, 237.0), (27.08, 131.0))
"""Mean grazing angle (arcmin) and geometric area (cm2) of the four shells; their sum is close to
the telescope's 1,145 cm2."""
MIRROR_OPEN_SHARE = 0.9
"""Fraction of the geometric area that the supports leave open: a round number."""
MIRROR_ROUGHNESS_ANGSTROM = 4.0
"""Roughness of the reflecting surface: a round number."""
IRIDIUM_DENSITY = 22.42
"""Density of the mirrors' coating, g/cm3."""

FILTER_POLYIMIDE_UM = 0.2
POLYIMIDE = ("C22H10N2O5", 1.42)
ALUMINUM = ("Al", 2.70)
SILICA = ("SiO2", 2.20)
SILICON = ("Si", 2.33)
"""Formula and density (g/cm3) of the layers that a photon passes."""

CONTAMINANT = {"C": 0.70, "O": 0.24, "F": 0.06}
"""Composition of the contaminant (fractions of atoms), from the ratio of real areas of 2016-2017 to
those of 1999-2001. In its first years there was less oxygen: more than 80% carbon, 7% oxygen and 7%
fluorine (Marshall et al. 2004, SPIE 5165)."""
CONTAMINATION_DEPTH = (
    (1999.6, 0.0),
    (2000.5, 0.15),
    (2002.0, 0.50),
    (2004.0, 0.57),
    (2008.0, 0.75),
    (2012.0, 1.1),
    (2016.0, 1.9),
    (2018.0, 2.3),
    (2020.0, 2.7),
    (2024.0, 3.4),
)
"""Optical depth at 0.67 keV by year, at the aim point of ACIS-S. It grew fast at first, slowly
until 2009, and then fast again (Plucinsky et al. 2018, SPIE 10699). The values were chosen."""

ACCEPTED_EVENTS = ((0.1, 0.97), (2.5, 0.96), (4.0, 0.875), (5.0, 0.80), (6.0, 0.76), (7.0, 0.69))
"""Fraction of the photons stopped in the CCD that give good events within the mirror's core, by
energy in keV: the ratio of real areas to the product of mirror area and transmissions."""

SILICON_K_EDGE_KEV = 1.839
SILICON_K_ALPHA_KEV = 1.740
"""K edge and K alpha line of silicon (X-ray Data Booklet, LBNL)."""
FIRST_CHANNEL = 8
"""Lowest channel with events; lower channels are below the event threshold."""
REDISTRIBUTION_THRESHOLD = 1e-6
"""Probabilities below this are left out of the matrix, as in matrices by mkacisrmf."""


@dataclass(frozen=True)
class Chip:
    """Describe a type of CCD.

    The thicknesses of layers are in um. The width of the peak is FWHM^2 = `fwhm_floor`^2 +
    `fwhm_slope` E, for FWHM in eV and E in keV. `shoulder` and `tail_below_edge` (below the silicon
    K edge) are fractions of the events; `tail`, `escape` and `fluorescence` are those in the tail,
    the silicon escape peak and the silicon fluorescence peak at 2.5 keV.
    """

    silicon_um: float
    dead_silica_um: float
    dead_silicon_um: float
    fwhm_floor: float
    fwhm_slope: float
    shoulder: float
    tail_below_edge: float
    tail: float
    escape: float
    escape_slope: float
    fluorescence: float

    def fwhm_kev(self, energy_kev: FloatArray) -> FloatArray:
        """Return the full width at half maximum of the peak, keV."""
        return 1e-3 * np.sqrt(self.fwhm_floor**2 + self.fwhm_slope * energy_kev)


BACK = Chip(45.0, 0.03, 0.0, 85.0, 2850.0, 0.008, 0.006, 0.022, 0.016, 0.65, 0.0020)
FRONT_NEAR_READOUT = Chip(70.0, 0.50, 0.40, 39.0, 4600.0, 0.022, 0.030, 0.027, 0.015, 1.0, 0.0055)
FRONT_FAR_READOUT = Chip(70.0, 0.50, 0.40, 58.0, 9900.0, 0.020, 0.022, 0.025, 0.015, 1.0, 0.0050)
"""Back-illuminated chips (S3), and front-illuminated chips near the readout and far from it, where
charge-transfer losses widen the peaks. The numbers were measured on real matrices."""


@dataclass(frozen=True)
class Detector:
    """Describe a chip in the camera: its number, its filter's aluminum, and its contamination.

    `contamination` is relative to that at the aim point of ACIS-S.
    """

    name: str
    ccd_id: int
    chip: Chip
    aluminum_um: float
    contamination: float


ACIS_S3 = Detector("acis-s3", 7, BACK, 0.13, 1.0)
ACIS_S2 = Detector("acis-s2", 6, FRONT_NEAR_READOUT, 0.13, 1.0)
ACIS_I3 = Detector("acis-i3", 3, FRONT_FAR_READOUT, 0.16, 1.4)
ACIS_I2 = Detector("acis-i2", 2, FRONT_NEAR_READOUT, 0.16, 1.4)

EPOCHS = (
    (ACIS_S3, 2000.5),
    (ACIS_S3, 2005.0),
    (ACIS_S3, 2012.0),
    (ACIS_S3, 2019.0),
    (ACIS_S2, 2002.0),
    (ACIS_I3, 2001.0),
    (ACIS_I2, 2006.0),
    (ACIS_I3, 2013.0),
    (ACIS_I3, 2018.0),
)
"""The built-in instruments: detector and epoch (year)."""


@cache
def acis_instruments() -> tuple[Instrument, ...]:
    """Return the built-in instruments on the grid of the Chandra Source Catalog."""
    return tuple(_instrument(detector, year) for detector, year in EPOCHS)


def _instrument(detector: Detector, year: float) -> Instrument:
    grid = EnergyGrid()
    return Instrument(
        name=f"{detector.name}-{year:.0f}",
        detnam=f"ACIS-{detector.ccd_id}",
        back_illuminated=detector.chip is BACK,
        year=year,
        energy_edges_kev=grid.edges_kev,
        area_cm2=on_axis_area(detector, year, grid.mid_kev),
        redistribution=_redistribution(detector.chip, grid),
        channel_energy_kev=channel_energies(),
    )


def channel_energies() -> FloatArray:
    """Return the bounds of the 1024 PI channels as in real EBOUNDS, (1024, 2), keV."""
    upper = ACIS_WIDTH_KEV * np.arange(1, ACIS_CHANNELS + 1)
    lower = upper - ACIS_WIDTH_KEV
    lower[0] = 0.5 * ACIS_WIDTH_KEV
    return np.stack([lower, upper], axis=1)


def on_axis_area(detector: Detector, year: float, energy_kev: FloatArray) -> FloatArray:
    """Return the product of mirror area, transmissions and efficiency of the CCD, cm2."""
    chip = detector.chip
    through = (
        _passes(POLYIMIDE, FILTER_POLYIMIDE_UM, energy_kev)
        * _passes(ALUMINUM, detector.aluminum_um, energy_kev)
        * _passes(SILICA, chip.dead_silica_um, energy_kev)
        * _passes(SILICON, chip.dead_silicon_um, energy_kev)
    )
    stopped = 1 - _passes(SILICON, chip.silicon_um, energy_kev)
    accepted = np.interp(energy_kev, *np.transpose(ACCEPTED_EVENTS))
    depth = detector.contamination * contamination_depth(year, energy_kev)
    return mirror_area(energy_kev) * through * stopped * accepted * np.exp(-depth)


def mirror_area(energy_kev: FloatArray) -> FloatArray:
    """Return the area of the mirror assembly, two reflections off iridium in each shell, cm2."""
    total = np.zeros_like(energy_kev)
    for angle_arcmin, area_cm2 in MIRROR_SHELLS:
        reflectivity = xraydb.mirror_reflectivity(
            "Ir",
            angle_arcmin * ARCMIN,
            1e3 * energy_kev,
            IRIDIUM_DENSITY,
            roughness=MIRROR_ROUGHNESS_ANGSTROM,
        )
        total += area_cm2 * reflectivity**2
    return MIRROR_OPEN_SHARE * total


def contamination_depth(year: float, energy_kev: FloatArray) -> FloatArray:
    """Return the optical depth of the contaminant at the aim point of ACIS-S."""
    years, depths = np.transpose(CONTAMINATION_DEPTH)
    at_reference = _contaminant_opacity(np.array([0.67]))
    depth: FloatArray = np.interp(year, years, depths) * (
        _contaminant_opacity(energy_kev) / at_reference
    )
    return depth


def _contaminant_opacity(energy_kev: FloatArray) -> FloatArray:
    opacity = np.zeros_like(energy_kev)
    for element, atoms in CONTAMINANT.items():
        per_gram = xraydb.mu_elam(element, 1e3 * energy_kev, kind="photo")
        opacity += atoms * xraydb.atomic_mass(element) * per_gram
    return opacity


def _passes(material: tuple[str, float], thickness_um: float, energy_kev: FloatArray) -> FloatArray:
    formula, density = material
    per_cm = xraydb.material_mu(formula, 1e3 * energy_kev, density=density, kind="photo")
    share: FloatArray = np.exp(-per_cm * thickness_um * CM_PER_UM)
    return share


@cache
def _redistribution(chip: Chip, grid: EnergyGrid) -> sparse.csr_array:
    """Return the probability of each channel for photons of each energy bin, (m, 1024)."""
    energy = grid.mid_kev
    sigma = chip.fwhm_kev(energy) / 2.3548  # FWHM of a Gaussian: sqrt(8 ln 2) sigma
    above_edge = energy > SILICON_K_EDGE_KEV
    # Photons above the K edge of silicon can free a K alpha photon. If it leaves the chip, its
    # energy is missing (escape); if it is stopped elsewhere, it makes an event (fluorescence).
    # The fractions fall as powers of the energy above 2.5 keV.
    harder = np.maximum(energy / 2.5, 1.0)
    escape = np.where(above_edge, chip.escape * harder**-chip.escape_slope, 0.0)
    fluorescence = np.where(above_edge, chip.fluorescence * harder**-2.0, 0.0)
    tail = np.where(above_edge, chip.tail * harder**-0.8, chip.tail_below_edge)
    peak = 1 - chip.shoulder - escape - fluorescence - tail

    # The shoulder is broader than the peak and lies 3.5 sigma below it.
    rows = peak[:, None] * _gaussians(energy, sigma)
    rows += chip.shoulder * _gaussians(energy - 3.5 * sigma, 1.5 * sigma)
    rows += escape[:, None] * _gaussians(energy - SILICON_K_ALPHA_KEV, sigma)
    rows += fluorescence[:, None] * _gaussians(np.full_like(energy, SILICON_K_ALPHA_KEV), sigma)
    rows += tail[:, None] * _tails(energy)
    rows[:, : FIRST_CHANNEL - 1] = 0.0
    rows[rows < REDISTRIBUTION_THRESHOLD] = 0.0
    rows /= rows.sum(axis=1, keepdims=True)
    return sparse.csr_array(rows.astype(np.float32))


def _gaussians(center_kev: FloatArray, sigma_kev: FloatArray) -> FloatArray:
    """Return Gaussians integrated over the channels, (m, 1024)."""
    edges = ACIS_WIDTH_KEV * np.arange(ACIS_CHANNELS + 1)
    return np.diff(ndtr((edges[None, :] - center_kev[:, None]) / sigma_kev[:, None]), axis=1)


def _tails(energy_kev: FloatArray) -> FloatArray:
    """Return tails that rise linearly from zero to the photon's energy, (m, 1024)."""
    edges = ACIS_WIDTH_KEV * np.arange(ACIS_CHANNELS + 1)
    return np.diff(np.minimum(edges[None, :] / energy_kev[:, None], 1.0) ** 2, axis=1)

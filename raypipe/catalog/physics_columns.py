"""Describe the columns of physical quantities by unit (VOUnit), UCD and meaning."""

from __future__ import annotations

from raypipe.spectra.band_counts import BANDS_KEV

_BAND_UCD = {
    "u": "em.X-ray.soft",
    "s": "em.X-ray.soft",
    "m": "em.X-ray.soft",
    "h": "em.X-ray.medium",
    "b": "em.X-ray",
}
_FLUXES = {
    "flux": ("erg.s**-1.cm**-2", "energy flux"),
    "photflux": ("photon.s**-1.cm**-2", "photon flux"),
}
_HARDNESS = {"hard_hs": ("h", "s"), "hard_hm": ("h", "m"), "hard_ms": ("m", "s")}


def _fluxes() -> dict[str, tuple[str, str, str]]:
    columns: dict[str, tuple[str, str, str]] = {}
    for kind, (unit, called) in _FLUXES.items():
        for band, (low, high) in BANDS_KEV.items():
            meaning, ucd = f"{called}, {low:g}-{high:g} keV", f"phot.flux;{_BAND_UCD[band]}"
            columns |= {
                f"{kind}_{band}": (unit, ucd, f"{meaning}, absorbed: median of the posterior"),
                f"{kind}_{band}_lolim": (
                    unit,
                    f"{ucd};stat.min",
                    f"{meaning}: 68% lower limit; 0 where the band is not detected",
                ),
                f"{kind}_{band}_hilim": (
                    unit,
                    f"{ucd};stat.max",
                    f"{meaning}: 68% upper limit; 90% upper limit where the lower limit is 0",
                ),
            }
    return columns


def _hardness_ratios() -> dict[str, tuple[str, str, str]]:
    columns: dict[str, tuple[str, str, str]] = {}
    ucd = "phot.color;em.X-ray"
    for name, (x, y) in _HARDNESS.items():
        meaning = f"hardness ratio ({x} - {y}) / ({x} + {y}) of photon fluxes"
        columns |= {
            name: ("", ucd, f"{meaning}: median of the posterior"),
            f"{name}_lolim": ("", f"{ucd};stat.min", f"{meaning}: 68% lower limit"),
            f"{name}_hilim": ("", f"{ucd};stat.max", f"{meaning}: 68% upper limit"),
        }
    return columns


FLUX_COLUMNS: dict[str, tuple[str, str, str]] = {**_fluxes(), **_hardness_ratios()}
"""Fluxes and hardness ratios: unit, UCD and description by name."""

PHYSICS_COLUMNS: dict[str, tuple[str, str, str]] = {**FLUX_COLUMNS}
"""All physical quantities: unit, UCD and description by name."""

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


FLUXES = [f"{kind}_{band}" for kind in _FLUXES for band in BANDS_KEV]
"""Names of fluxes; each has _lolim and _hilim, too."""

FLUX_COLUMNS: dict[str, tuple[str, str, str]] = {**_fluxes(), **_hardness_ratios()}
"""Fluxes and hardness ratios: unit, UCD and description by name."""

_FLUX_UNIT = "erg.s**-1.cm**-2"
_FIT_MODELS = {
    "powlaw": ("absorbed power law", "gamma", "ampl"),
    "bb": ("absorbed black body", "kt", "ampl"),
    "brems": ("absorbed bremsstrahlung", "kt", "norm"),
    "plasma": (
        "absorbed thermal plasma, abundance 0.3 (raypipe's own, or AtomDB's with embed.apec_dir)",
        "kt",
        "norm",
    ),
}
_FIT_PARAMETERS = {
    "gamma": ("", "spect.index", "photon index"),
    "kt": ("keV", "phys.temperature", "temperature"),
    "nh": ("10**20cm**-2", "phys.columnDensity", "absorbing column density"),
}
_AMPLITUDES = {
    "powlaw": "photon/cm2/s/keV at 1 keV",
    "bb": "as Sherpa's bbody: photon flux density over E^2 / (exp(E/kT) - 1), E in keV",
    "brems": "norm of XSPEC's bremss",
    "plasma": "norm of XSPEC's apec",
}


def _fits() -> dict[str, tuple[str, str, str]]:
    columns: dict[str, tuple[str, str, str]] = {}
    for model, (called, parameter, amplitude) in _FIT_MODELS.items():
        flux = (_FLUX_UNIT, "phot.flux;em.X-ray", "absorbed energy flux, 0.5-7 keV")
        quantities = {
            f"{model}_{parameter}": _FIT_PARAMETERS[parameter],
            f"{model}_nh": _FIT_PARAMETERS["nh"],
            f"{model}_{amplitude}": ("", "stat.fit.param", f"amplitude, {_AMPLITUDES[model]}"),
            f"flux_{model}": flux,
        }
        for name, (unit, ucd, meaning) in quantities.items():
            meaning = f"{called}: {meaning}"
            columns |= {
                name: (unit, ucd, meaning),
                f"{name}_lolim": (
                    unit,
                    f"{ucd};stat.min",
                    f"{meaning}, 68% lower limit; null if below the hard limit",
                ),
                f"{name}_hilim": (
                    unit,
                    f"{ucd};stat.max",
                    f"{meaning}, 68% upper limit; null if above the hard limit",
                ),
            }
        columns |= {
            f"{model}_stat": ("", "stat.fit.goodness", f"{called}: Cash statistic of the fit"),
            f"{model}_flags": (
                "",
                "meta.code.qual",
                f"{called}: parameters at a hard limit, such as nh_at_min, and not_converged, "
                "separated by |",
            ),
        }
    columns["best_fit"] = ("", "meta.code", "fitted model with the lowest Cash statistic")
    columns["latent_gain"] = (
        "",
        "stat.likelihood",
        "Cash statistic of the best fitted model minus cash, that of the latents",
    )
    return columns


FIT_COLUMNS: dict[str, tuple[str, str, str]] = _fits()
"""Fits of physical models: unit, UCD and description by name.

Most have the names of columns of the Chandra Source Catalog, which a table of the user may bring:
these are renamed where raypipe has fits of its own.
"""

PHYSICS_COLUMNS: dict[str, tuple[str, str, str]] = {**FLUX_COLUMNS}
"""All physical quantities: unit, UCD and description by name."""

"""Describe columns from other catalogs: the Chandra Source Catalog, and the truth of simulations.

Units (VOUnit) and meanings follow the documentation of the Chandra Source Catalog. If a source and
an observation have a column of the same name, that of the observation begins with `obs_`.
"""

from __future__ import annotations

_FLUX = "erg.s**-1.cm**-2"
_COLUMN_DENSITY = "10**20cm**-2"

_MODELS = {
    "powlaw": "power law",
    "bb": "black body",
    "brems": "bremsstrahlung",
    "apec": "thermal plasma (APEC)",
}
_PARAMETERS = {
    "gamma": ("", "spect.index", "photon index"),
    "kt": ("keV", "phys.temperature", "temperature"),
    "nh": (_COLUMN_DENSITY, "phys.columnDensity", "absorbing column density"),
    "ampl": ("", "stat.fit.param", "amplitude"),
    "norm": ("", "stat.fit.param", "normalization"),
    "abund": ("", "phys.abund", "abundance, solar"),
    "z": ("", "src.redshift", "redshift"),
}
_LIMITS = {
    "": ("", ""),
    "_lolim": (";stat.min", ", 68% lower limit"),
    "_hilim": (";stat.max", ", 68% upper limit"),
}

_EXACT = {
    "target_name": ("", "meta.id;obs", "target of the observation (OBJECT), not always the source"),
    "position_from": (
        "",
        "meta.note;pos.eq",
        "origin of ra and dec: extraction region, target of the observation, or catalog",
    ),
    "err_ellipse_r0": (
        "arcsec",
        "phys.angSize.smajAxis;pos.errorEllipse",
        "95% error ellipse, major radius",
    ),
    "err_ellipse_r1": (
        "arcsec",
        "phys.angSize.sminAxis;pos.errorEllipse",
        "95% error ellipse, minor radius",
    ),
    "err_ellipse_ang": ("deg", "pos.posAng;pos.errorEllipse", "95% error ellipse, angle"),
    "significance": ("", "stat.snr", "highest flux significance in any band"),
    "likelihood_class": ("", "meta.code.class", "TRUE or MARGINAL detection"),
    "nh_gal": (_COLUMN_DENSITY, "phys.columnDensity", "Galactic column density of H I"),
    "ra_pnt": ("deg", "pos.eq.ra;instr", "pointing, right ascension"),
    "dec_pnt": ("deg", "pos.eq.dec;instr", "pointing, declination"),
    "gti_obs": ("", "time.start;obs", "start of the observation"),
    "gti_end": ("", "time.end;obs", "end of the observation"),
    "grating": ("", "meta.id;instr.setup", "grating"),
    "datamode": ("", "meta.code;instr.setup", "data mode of the instrument"),
    "readmode": ("", "meta.code;instr.setup", "readout mode of the instrument"),
    "exptime": ("s", "time.duration;obs.exposure", "frame time of ACIS"),
    "theta": ("arcmin", "pos.angDistance;instr.det", "off-axis angle"),
    "phi": ("deg", "pos.posAng;instr.det", "azimuth about the optical axis"),
    "conf_code": ("", "meta.code.qual", "confusion with other regions, one bit per case"),
    "edge_code": ("", "meta.code.qual", "near the edge of a chip, one bit per case"),
    "extent_code": ("", "meta.code.qual", "extended, one bit per band"),
    "multi_chip_code": ("", "meta.code.qual", "on several chips, one bit per case"),
    "var_code": ("", "meta.code.qual;src.var", "variable, one bit per band"),
    "pileup_warning": ("", "meta.code.qual", "counts per frame and pixel: pile-up if high"),
    "muwclass_true_class": ("", "src.class", "class of the training set of MUWCLASS"),
    "model": ("", "meta.code", "spectral model that was simulated"),
    "off_axis_arcmin": ("arcmin", "pos.angDistance;instr.det", "off-axis angle"),
    "psf_fraction": ("", "arith.factor;instr.det.psf", "fraction of the photons in the region"),
    "source_counts": ("ct", "phot.count;em.X-ray", "expected counts of the source, 0.5-7 keV"),
    "background_share": (
        "",
        "arith.factor;instr.background",
        "expected background per source count",
    ),
    "flux_b": (_FLUX, "phot.flux;em.X-ray", "true flux, 0.5-7 keV"),
    "catalog_detection": ("", "meta.id.cross", "detection from which parameters were taken"),
    "nh_1e22": ("10**22cm**-2", "phys.columnDensity", "true absorbing column density"),
    "log_nh": ("", "phys.columnDensity", "log10 of the true column density in cm-2"),
    "nh_foreground_1e22": ("10**22cm**-2", "phys.columnDensity", "true foreground column density"),
    "covering_fraction": ("", "arith.factor", "true fraction that the absorber covers"),
    "photon_index": ("", "spect.index", "true photon index"),
    "kt_kev": ("keV", "phys.temperature", "true temperature"),
    "kt2_kev": ("keV", "phys.temperature", "true temperature of the second component"),
    "abundance": ("", "phys.abund", "true abundance, solar"),
    "second_share": ("", "arith.factor", "true ratio of the second component to the first"),
    "fe_line_ew_kev": ("keV", "spect.line.eqWidth;em.X-ray", "true equivalent width of iron line"),
    "redshift": ("", "src.redshift", "true redshift"),
}

_FLAGS = {
    "conf": "regions overlap",
    "dither_warning": "varies with the dither motion",
    "extent": "extended",
    "pileup": "piled up",
    "sat_src": "saturated",
    "streak_src": "on a readout streak",
    "var": "variable",
    "var_inter_hard": "hardness varies between observations",
}


def _describe_all() -> dict[str, tuple[str, str, str]]:
    columns = dict(_EXACT)
    for flag, meaning in _FLAGS.items():
        for prefix, owner in (("", "source"), ("obs_", "detection")):
            columns[f"{prefix}{flag}_flag"] = ("", "meta.code.qual", f"{owner}: {meaning}")
    for end, (word, limit) in _LIMITS.items():
        for band in "bhms":
            for prefix, owner in (("", "source"), ("obs_", "detection")):
                columns[f"{prefix}flux_aper90{end}_{band}"] = (
                    _FLUX,
                    f"phot.flux;em.X-ray{word}",
                    f"{owner}: flux in the 90% aperture, {band} band{limit}",
                )
            columns[f"src_cnts_aper90{end}_{band}"] = (
                "ct",
                f"phot.count;em.X-ray{word}",
                f"counts in the 90% aperture, {band} band{limit}",
            )
        for model, called in _MODELS.items():
            columns[f"flux_{model}{end}"] = (
                _FLUX,
                f"phot.flux;em.X-ray{word}",
                f"flux of the {called}{limit}",
            )
            for parameter, (unit, ucd, meaning) in _PARAMETERS.items():
                columns[f"{model}_{parameter}{end}"] = (
                    unit,
                    f"{ucd}{word}",
                    f"{called}: {meaning}{limit}",
                )
    for model, called in _MODELS.items():
        columns[f"{model}_stat"] = ("", "stat.fit.chi2", f"{called}: reduced fit statistic")
        for parameter, (_, _, meaning) in _PARAMETERS.items():
            columns[f"{model}_{parameter}_rhat"] = (
                "",
                "stat.fit.goodness",
                f"{called}: R-hat of {meaning}",
            )
    for band in "bhms":
        columns |= _variability(band)
    return columns


def _variability(band: str) -> dict[str, tuple[str, str, str]]:
    index, probability, rate = "src.var.index", "stat.probability;src.var", "ct.s**-1"
    within, between = f"within an observation, {band} band", f"between observations, {band} band"
    return {
        f"flux_significance_{band}": ("", "stat.snr", f"flux over its error, {band} band"),
        f"var_intra_index_{band}": ("", index, f"Gregory-Loredo index {within}, highest"),
        f"var_intra_prob_{band}": ("", probability, f"Gregory-Loredo variable {within}, highest"),
        f"ks_intra_prob_{band}": ("", probability, f"Kolmogorov-Smirnov variable {within}"),
        f"kp_intra_prob_{band}": ("", probability, f"Kuiper variable {within}"),
        f"var_inter_index_{band}": ("", index, f"variability index {between}"),
        f"var_inter_prob_{band}": ("", probability, f"variable {between}"),
        f"var_inter_sigma_{band}": (
            "photon.s**-1.cm**-2",
            "src.var.amplitude",
            f"scatter of the photon flux {between}",
        ),
        f"var_index_{band}": ("", index, f"Gregory-Loredo index {within}"),
        f"var_prob_{band}": ("", probability, f"Gregory-Loredo variable {within}"),
        f"ks_prob_{band}": ("", probability, f"Kolmogorov-Smirnov variable {within}"),
        f"kp_prob_{band}": ("", probability, f"Kuiper variable {within}"),
        f"var_sigma_{band}": (rate, "src.var.amplitude", f"scatter of the count rate, {band} band"),
        f"var_mean_{band}": (rate, "arith.rate;phot.count;stat.mean", f"mean rate, {band} band"),
        f"var_min_{band}": (rate, "arith.rate;phot.count;stat.min", f"lowest rate, {band} band"),
        f"var_max_{band}": (rate, "arith.rate;phot.count;stat.max", f"highest rate, {band} band"),
    }


CAME_ALONG = _describe_all()
"""Unit, UCD and description of each column, by name."""

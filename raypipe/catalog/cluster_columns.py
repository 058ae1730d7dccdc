"""Describe the columns of clusters by unit (VOUnit), UCD and meaning."""

from __future__ import annotations

CLUSTERS = "clusters"
"""Name of the table of clusters."""

CLUSTER_COLUMNS: dict[str, tuple[str, str, str]] = {
    "cluster": ("", "meta.code.class", "most probable cluster, found without labels"),
}
"""Columns by name."""

CLUSTER_PATTERNS: dict[str, tuple[str, str, str]] = {
    r"p_cluster_(\d+)": ("", "stat.probability", "probability of cluster {0}"),
}
"""Columns by pattern."""

_BINS = "in bins of energy, of a spectrum with one photon/cm2/s in 0.5-7 keV"

TABLE_COLUMNS: dict[str, tuple[str, str, str]] = {
    "n_sources": ("", "meta.number;src", "number of sources whose most probable cluster it is"),
    "likely_class": ("", "src.class", "class that is overrepresented most among labeled sources"),
    "nearest_type": ("", "src.class", "class of the model's with the highest mean probability"),
    "nearest_type_p": ("", "stat.probability;src.class", "mean probability of nearest_type"),
    "typical": ("", "meta.id", "detections nearest to the mean of the cluster"),
    "extreme": ("", "meta.id", "detections farthest from the mean of the cluster"),
    "energy_lo_kev": ("keV", "em.energy;stat.min", "lower edges of the bins of energy"),
    "energy_hi_kev": ("keV", "em.energy;stat.max", "upper edges of the bins of energy"),
    "flux": ("photon.s**-1.cm**-2.keV**-1", "phot.flux.density;em.X-ray", f"median flux, {_BINS}"),
    "flux_lolim": (
        "photon.s**-1.cm**-2.keV**-1",
        "phot.flux.density;em.X-ray;stat.min",
        f"16% of the members are below this flux, {_BINS}",
    ),
    "flux_hilim": (
        "photon.s**-1.cm**-2.keV**-1",
        "phot.flux.density;em.X-ray;stat.max",
        f"16% of the members are above this flux, {_BINS}",
    ),
}
"""Columns of the table of clusters that are in no other table."""

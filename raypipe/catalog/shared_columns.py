"""Name the columns that `raypipe align` adds to a catalog, with unit, UCD and description."""

from __future__ import annotations

SHARED_PATTERNS: dict[str, tuple[str, str, str]] = {
    r"shared_(\d+)": (
        "",
        "stat.value",
        "component {0} of the unit vector in the space shared with the aligned view",
    ),
    r"predicted_(.+)_lolim": ("", "stat.fit;stat.min", "lower 68% limit of the predicted {0}"),
    r"predicted_(.+)_hilim": ("", "stat.fit;stat.max", "upper 68% limit of the predicted {0}"),
    r"predicted_(.+)_p": ("", "stat.probability", "probability of the predicted {0}"),
    r"predicted_(.+)": ("", "stat.fit", "{0} of the aligned view, predicted from the spectrum"),
}
"""Patterns of names, in the order in which they are tried, with unit, UCD and description."""

"""Write the descriptions of several spectra as a table with one line per file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.describing.description import Description, Descriptions, Interval
from raypipe.describing.text import figures, physical_parameters, shown

_LONGEST_NAME = 40
_WIDTH = 98


@dataclass(frozen=True)
class _Column:
    """Describe a column: title, unit, whether it aligns right, and its text for a spectrum."""

    title: str
    unit: str
    right: bool
    cell: Callable[[Description], str]


def descriptions_text(found: Descriptions) -> str:
    """Write the described spectra, then the errors of the others, one per line."""
    errors = "\n".join(f"not described: {shown(str(each))}" for each in found.undescribed)
    return "\n\n".join(filter(None, [described_text(found) or "", errors]))


def described_text(found: Descriptions) -> str | None:
    """Write one spectrum in full, several as a table with units and legend; None for none."""
    described = found.described
    if not described:
        return None
    if len(found) == 1:
        return str(described[0])
    classes = textwrap.fill(f"class: {described[0].classes_from}", _WIDTH, break_on_hyphens=False)
    parts = [_aligned(described), _LEGEND.strip(), _warnings(described), classes]
    return "\n\n".join(filter(None, parts))


def _share(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else ""


def cells_of(found: Description) -> list[str]:
    """Return the cells of a spectrum's line."""
    return [column.cell(found) for column in _COLUMNS]


def headers() -> list[tuple[str, str]]:
    """Return title and unit of each column."""
    return [(column.title, column.unit) for column in _COLUMNS]


def numeric_columns() -> list[int]:
    """Return the places of the columns that align right."""
    return [place for place, column in enumerate(_COLUMNS) if column.right]


def file_name(found: Description) -> str:
    """Return the end of a file's path that tells it from others, without its folder."""
    name = shown(Path(found.file).name)
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def _flux(found: Description) -> str:
    flux = found.fluxes.get("b")
    if flux is None or not math.isfinite(flux.value):
        return "-"
    if flux.upper_limit is not None:
        return f"<{flux.upper_limit:.2e}"
    return f"{flux.value:.2e}"


def _flux_error(found: Description) -> str:
    flux = found.fluxes.get("b")
    if flux is None or flux.upper_limit is not None or not flux.value > 0:
        return ""
    return f"{(flux.hilim - flux.lolim) / (2 * flux.value):.0%}"


def _parameters(found: Description) -> str:
    if found.best_fit is None:
        return ""
    named = physical_parameters(found.fits[found.best_fit])
    return ", ".join(f"{name.partition('_')[2]} {_short(each)}" for name, each in named.items())


def _short(interval: Interval) -> str:
    """Format a value, or the limit that is left of its 68% interval."""
    has_low, has_high = math.isfinite(interval.lolim), math.isfinite(interval.hilim)
    if has_low == has_high:
        return figures(interval.value) if math.isfinite(interval.value) else "-"
    return f"<{figures(interval.hilim)}" if has_high else f">{figures(interval.lolim)}"


def _class(found: Description) -> str:
    likely = found.likely_class
    return "" if likely is None else f"{shown(likely)} {found.classes[likely]:.2f}"


_COLUMNS = (
    _Column("file", "", False, file_name),
    _Column("telescope", "", False, lambda one: shown(f"{one.telescope} {one.instrument}".strip())),
    _Column("exposure", "s", True, lambda one: f"{one.exposure_s:,.0f}"),
    _Column("counts", "ct", True, lambda one: f"{one.total_counts:,}"),
    _Column("background", "", True, lambda one: _share(one.background_share)),
    _Column("flux b", "erg/cm2/s", True, _flux),
    _Column("error", "68%", True, _flux_error),
    _Column("best fit", "", False, lambda one: one.best_fit or ""),
    _Column("parameters", "nh 10²⁰ cm⁻², kt keV", False, _parameters),
    _Column("z-score", "", True, lambda one: f"{one.fit_zscore:+.1f}"),
    _Column("class", "", False, _class),
    _Column("warnings", "", True, lambda one: str(len(one.warnings) or "")),
)

_LEGEND = """
flux b     energy flux in 0.5-7 keV, or its 90% upper limit after <
error      half of the 68% interval, relative to the flux
best fit   physical model with the lowest Cash statistic, and its parameters, or their 68% limits
z-score    goodness of fit of the latents' fold: far above 3 it does not describe the counts
"""


def _aligned(described: Sequence[Description]) -> str:
    columns = []
    for place, column in enumerate(_COLUMNS):
        cells = [column.title, column.unit, *(cells_of(each)[place] for each in described)]
        width = max(map(len, cells))
        align = str.rjust if column.right else str.ljust
        columns.append([align(cell, width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _warnings(described: Sequence[Description]) -> str:
    """Name the warnings of each spectrum by their codes, which take less room than sentences."""
    lines = [
        f"  {file_name(each)}: {', '.join(warning.code for warning in each.warnings)}"
        for each in described
        if each.warnings
    ]
    if not lines:
        return ""
    return "\n".join(["warnings (describe one file to read them in full)", *lines])

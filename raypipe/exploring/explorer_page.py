"""Write the explorer: one HTML page with Bokeh, the page's script, and packed data inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from bokeh.embed import components
from bokeh.palettes import Cividis256
from bokeh.resources import Resources

from raypipe._version import __version__
from raypipe.archive.products import PRODUCTS, RELEASES, ProductKey, package_url
from raypipe.display.spectrum_figure import poisson_interval
from raypipe.exploring import spectra as packed
from raypipe.exploring.columns import ColumnHead
from raypipe.exploring.explorer_data import ExplorerData, PlacedMap
from raypipe.exploring.figures import Figures, make_figures
from raypipe.exploring.latent_maps import LatentMap
from raypipe.exploring.packing import packed_bytes, packed_doubles, packed_floats, packed_shorts
from raypipe.exploring.sky import FRAMES, axis_labels, sky_positions
from raypipe.html.page import count_of, escape
from raypipe.searching.strangest import RANKINGS, format_chance

_SCRIPTS = (
    *("unpack.js", "spectrum.js", "points.js", "similar.js", "embedded.js", "served.js"),
    *("planes.js", "saving.js", "links.js", "panels.js", "samp.js", "explorer.js"),
)
_TABULATED_COUNTS = 400
"""Counts up to which the page has confidence limits; it uses the normal ones beyond."""

MOST_SHAPED = 20_000
"""Most detections whose points show shapes and outlines; those of more are too small for them."""

OFFLINE_NOTES = (
    "It needs no network. Links to other services open only when you follow them.",
    "Counts are exact; fold and background are within 0.5%, the flux within 1%, other numbers "
    "within 0.003%.",
)


def explorer_page(data: ExplorerData) -> str:
    """Return the whole page, which loads nothing from elsewhere."""
    title, notes = f"Explorer of {data.release}", [*data.notes, *OFFLINE_NOTES]
    lead = f"{count_of(len(data.frame), 'detection')}, latents by {data.model_id}"
    return fill_page(title, lead, notes, page_data(data), make_figures(outlined=_are_shaped(data)))


def fill_page(
    title: str, lead: str, notes: Sequence[str], content: Mapping[str, Any], figures: Figures
) -> str:
    """Return the HTML of an explorer with its figures, scripts and the `content` that they show."""
    script, places = components(figures.by_name())
    bokeh = Resources(mode="inline", components=["bokeh", "bokeh-gl"])
    folder = files("raypipe.exploring") / "page"
    own = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    return Template((folder / "explorer.html").read_text("utf-8")).substitute(
        title=escape(title),
        lead=escape(lead),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes),
        style=(folder / "explorer.css").read_text("utf-8"),
        bokeh=bokeh.render_js(),
        data=json_in_html(content),
        script=f"<script>\n{own}\n</script>",
        figures=script,
        connect="'self'" if content["served"] else "'none'",
        footer=escape(f"raypipe {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        **{f"{name}_figure": place for name, place in places.items()},
    )


def json_in_html(content: Mapping[str, Any]) -> str:
    """Write JSON for a script element; no text in it can end the element or open another."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page_data(data: ExplorerData) -> dict[str, Any]:
    """Return all data of the page in a form that JSON can hold, with long columns packed."""
    frame = data.frame
    ra, dec = (_numbers(frame, name) for name in ("ra", "dec"))
    return {
        **common_data(
            len(frame), data.release, data.model_id, data.columns.columns, data.strangest
        ),
        "served": False,
        "shaped": _are_shaped(data),
        "texts": _packed_texts(frame),
        "ra": packed_doubles(ra),
        "dec": packed_doubles(dec),
        "exposure": packed_floats(_numbers(frame, "exposure_s")),
        "sources": packed_doubles(data.sources),
        "values": [packed_floats(each.values) for each in data.columns.columns],
        "maps": [
            {
                **map_head(each),
                "places": packed_floats(each.places.T),
                "ellipses": packed_floats(each.ellipses.T),
            }
            for each in data.maps
        ],
        "sky": {
            frame: {
                "places": packed_floats(sky_positions(ra, dec, frame).T),
                "labels": axis_labels(frame),
            }
            for frame in FRAMES
        },
        "spectra": _spectra(data.spectra),
        **_errors(frame),
    }


def _are_shaped(data: ExplorerData) -> bool:
    return len(data.frame) <= MOST_SHAPED


def common_data(
    rows: int,
    release: str,
    model_id: str,
    columns: Sequence[ColumnHead],
    strangest: Mapping[str, Sequence[tuple[int, float]]],
) -> dict[str, Any]:
    """Return the data that a page needs both if it holds the catalog and if it asks a server."""
    return {
        "n": rows,
        "file": f"{release}-{model_id}",
        "columns": [
            {
                "name": each.name,
                "unit": each.unit,
                "ucd": each.ucd,
                "about": each.about,
                "categories": each.categories,
            }
            for each in columns
        ],
        "strangest": [
            {
                "name": ranking,
                "about": RANKINGS[ranking],
                "rows": [[row, format_chance(chance)] for row, chance in these],
            }
            for ranking, these in strangest.items()
        ],
        "package": package_template(release),
        "palette": list(Cividis256),
        "poisson": [part.tolist() for part in _limits()],
    }


def map_head(each: PlacedMap | LatentMap) -> dict[str, Any]:
    """Describe a map for the page."""
    kept = None if np.isnan(each.kept) else each.kept
    return {"name": each.name, "method": each.method, "kept": kept}


def _spectra(spectra: packed.PackedSpectra) -> dict[str, Any]:
    return {
        "blocks": spectra.blocks(),
        "block_rows": packed.BLOCK_ROWS,
        "kind": packed_doubles(spectra.kind),
        "has_fold": packed_doubles(spectra.has_fold),
        "bins": [{"lo": each.lo_kev.tolist(), "hi": each.hi_kev.tolist()} for each in spectra.bins],
        "flux_kev": spectra.flux_kev.tolist(),
        "step": packed.STEP,
        "flux_step": packed.FLUX_STEP,
        "band_step": packed.BAND_STEP,
    }


def _errors(frame: pd.DataFrame) -> dict[str, Any]:
    covariance = packed.latent_covariance(frame)
    std, correlation = packed.quantized_covariance(covariance)
    return {
        "latents": covariance.shape[1],
        "std": packed_shorts(std),
        "correlation": packed_shorts(correlation),
        "step": packed.STEP,
        "correlation_step": packed.CORRELATION_STEP,
        "missing": packed.NO_ERRORS,
    }


def package_template(release: str) -> str:
    """Return the pattern of addresses of spectra in the archive, as that of detection 0.0.0.

    A release with an unknown name is taken to be the current one.
    """
    archive = RELEASES.get(release, RELEASES["csc2.1"])
    keys = [ProductKey(release, 0, 0, 0, product) for product in PRODUCTS]
    return package_url(archive.package_url, archive.package_version, keys)


def _packed_texts(frame: pd.DataFrame) -> str:
    names = frame["name"].astype(object) if "name" in frame else pd.Series([None] * len(frame))
    texts = {
        "ids": frame["detection_id"].astype(str).tolist(),
        "names": [None if pd.isna(name) else str(name) for name in names],
    }
    return packed_bytes(json.dumps(texts).encode())


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if name not in frame:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)


def _limits() -> tuple[Any, Any]:
    low, high = poisson_interval(np.arange(_TABULATED_COUNTS, dtype=np.float64))
    return low.round(5), high.round(5)

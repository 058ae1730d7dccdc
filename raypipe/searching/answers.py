"""Show the answers of `search`: as JSON with all digits, or as a table with units and a legend."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raypipe.catalog.schema import describe
from raypipe.redaction import printable
from raypipe.searching.strangest import RANKINGS, UNUSUAL_CHANCE, format_chance


@dataclass(frozen=True)
class _Shown:
    """Describe how people see a column: its title, format of numbers, unit and meaning.

    The catalog's schema gives unit and meaning of columns that have none here.
    """

    title: str = ""
    form: str = ""
    unit: str = ""
    meaning: str = ""


_COLUMNS = {
    "rank": _Shown(),
    "text": _Shown(),
    "view": _Shown(),
    "row": _Shown(form="d", meaning="row of the aligned table, from 1"),
    "file": _Shown(),
    "detection_id": _Shown("detection"),
    "name": _Shown(),
    "ra": _Shown(form=".5f", unit="deg"),
    "dec": _Shown(form=".5f", unit="deg"),
    "class": _Shown(),
    "likely_class": _Shown("likely class", meaning="most probable class by the model"),
    "p_likely_class": _Shown(
        "p", ".2f", meaning="its probability, of the catalog's columns p_<class>"
    ),
    "best_class": _Shown("best class"),
    "cluster": _Shown(form=".0f"),
    "total_counts": _Shown("counts", ",.0f"),
    "hardness": _Shown(
        form="+.2f",
        meaning="(h - s) / (h + s) of net counts, h 2-7 keV, s 0.5-1.2 keV: -1 is soft, 1 hard",
    ),
    "detections": _Shown(form="d", meaning="detections of the catalog joined to that row"),
    "summary": _Shown("values", meaning="what that row says, shortened"),
    "similarity": _Shown(
        form=".3f", meaning="cosine in the space shared with the aligned table; it sets the rank"
    ),
    "is_own": _Shown("own", meaning="whether it is of the source of that row"),
    "log_overlap": _Shown(
        "ln overlap",
        ".2f",
        meaning="log probability density that both have the same latents; it sets the rank",
    ),
    "distance": _Shown(
        form=".2f", unit="sigma", meaning="separation of the latents in units of both errors"
    ),
    "euclidean": _Shown(form=".3f", meaning="separation of the latents without errors"),
    "log_bayes_factor": _Shown(
        "ln B",
        "+.2f",
        meaning="log Bayes factor of equal latents over two random ones: 7 is a factor of 1,000",
    ),
    "sigmas": _Shown("significance", ".1f", "sigma", "how unusual, with noise taken into account"),
    "chance": _Shown(
        form=".2f", meaning="probability that noise makes one of all detections this unusual"
    ),
    "beyond_chance": _Shown("unusual", meaning=f"whether chance is below {UNUSUAL_CHANCE:g}"),
    "far_sigmas": _Shown("far (sigma)", ".1f"),
    "fit_sigmas": _Shown("badly fit (sigma)", ".1f"),
    "fit_zscore": _Shown("fit z-score", "+.1f"),
    "anomaly_score": _Shown("anomaly score", ".1f", "nats"),
    "flags": _Shown(),
    "causes": _Shown(meaning="effects of the instrument that may explain the spectrum"),
}
"""Columns of answers and facts of queries, in the order in which they are shown."""

_OBVIOUS = {"rank", "detection_id", "name", "ra", "dec"}
"""Columns that the legend need not explain."""

_IN_JSON_ONLY = {"ranking", "anomaly_score", "fit_zscore"}
"""Columns that people do not need: significances say the same, with noise taken into account."""


def answer_json(answer: pd.DataFrame) -> dict[str, Any]:
    """Convert an answer of `search` to JSON: what was searched, query or remarks, and `rows`."""
    named = ("searched", "remarks")
    about: dict[str, Any] = {name: answer.attrs[name] for name in named if name in answer.attrs}
    if "query" in answer.attrs:
        about["query"] = _records(pd.DataFrame([answer.attrs["query"]]))[0]
    return about | {"rows": _records(answer)}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert rows to JSON with all digits, and NaN to null."""
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records


def answer_text(answer: pd.DataFrame) -> str:
    """Format an answer of `search` for reading: query, table with units, remarks and legend.

    Columns without any value are left out; numbers are rounded.
    """
    searched = answer.attrs["searched"]
    among = (
        f"{searched['detections']:,} detections of release {searched['release']} "
        f"by {searched['model_id']}"
    )
    if "remarks" in answer.attrs:
        parts = [f"most unusual of {among}"]
        for ranking, remark in answer.attrs["remarks"].items():
            rows = answer[answer["ranking"] == ranking]
            parts.append(f"{ranking}: {RANKINGS[ranking]}\n{remark}\n\n{_table(rows)}")
    else:
        if searched.get("found") == "views":
            among = f"{searched['views']:,} rows of {searched['table']}"
        parts = [_query(answer.attrs["query"]), f"most similar of {among}"]
        parts.append(_table(answer))
    return "\n\n".join(filter(None, [*parts, _legend(answer)]))


def _query(query: dict[str, Any]) -> str:
    facts = [
        (_COLUMNS[name].title or name, _cell(name, query[name]))
        for name in _COLUMNS
        if name in query and name not in _IN_JSON_ONLY and _has_value(query[name])
    ]
    described = "query: " + ", ".join(f"{title} {text}" for title, text in facts)
    return "\n".join([printable(described), *(f"note: {note}" for note in query.get("notes", []))])


def _table(answer: pd.DataFrame) -> str:
    """Align columns under titles and units: numbers to the right, text to the left."""
    if not len(answer):
        return "nothing found"
    columns = []
    for name in _shown(answer):
        cells = [_cell(name, value) for value in answer[name]]
        column = [_COLUMNS[name].title or name, _unit(name), *cells]
        width = max(map(len, column))
        align = str.rjust if _COLUMNS[name].form or name == "rank" else str.ljust
        columns.append([align(cell, width) for cell in column])
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join(line for line in lines if line)


def _legend(answer: pd.DataFrame) -> str:
    """Explain the columns shown, and name those left out because they are empty."""
    meanings = {
        _COLUMNS[name].title or name: _meaning(name)
        for name in _shown(answer)
        if name not in _OBVIOUS
    }
    width = max(map(len, meanings), default=0)
    lines = [f"{title.ljust(width)}  {meaning}" for title, meaning in meanings.items()]
    empty = [
        name
        for name in ("class", "flags", "causes")
        if name in answer and len(answer) and name not in _shown(answer)
    ]
    if empty:
        lines.append(f"no detection of this list has {', '.join(empty)}")
    return "\n".join(lines)


def _shown(answer: pd.DataFrame) -> list[str]:
    """Return the columns to show: those with a value, and `euclidean` only without errors."""
    hidden = set(_IN_JSON_ONLY)
    if "distance" in answer and answer["distance"].notna().any():
        hidden.add("euclidean")
    present = [name for name in _COLUMNS if name in answer and name not in hidden]
    return [name for name in present if any(map(_has_value, answer[name]))]


def _unit(name: str) -> str:
    described = describe(name)
    return _COLUMNS[name].unit or (described.unit if described else "")


def _meaning(name: str) -> str:
    described = describe(name)
    return _COLUMNS[name].meaning or (described.description if described else "")


def _cell(name: str, value: Any) -> str:
    if not _has_value(value):
        return ""
    if name in ("beyond_chance", "is_own"):
        return "yes" if value else "no"
    if name == "chance":
        return format_chance(value)
    return format(value, _COLUMNS[name].form) if _COLUMNS[name].form else str(value)


def _has_value(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return value is not None and value is not pd.NA and not math.isnan(value)

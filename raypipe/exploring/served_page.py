"""Make the page of a served explorer, and answer its questions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.exploring.explorer_page import common_data, fill_page, map_head
from raypipe.exploring.figures import make_figures
from raypipe.exploring.serve import Answers, BadQuestionError, Question
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exploring.shading import MOST_PIXELS, Coloring, View, draw_image
from raypipe.exploring.sky import FRAMES, axis_labels
from raypipe.html.page import count_of

MOST_ALIKE = 200
_MOST_QUERIES = 20
_MOST_TEXT = 400


def served_page(catalog: ServedCatalog) -> str:
    """Return the HTML of the page, which asks the server for the catalog."""
    lead = f"{count_of(len(catalog), 'detection')}, latents by {catalog.model_id}"
    content = {
        **common_data(
            len(catalog), catalog.release, catalog.model_id, catalog.columns, catalog.strangest
        ),
        "served": True,
        "shaped": True,
        "maps": [map_head(each) for each in catalog.maps],
        "sky_labels": {frame: axis_labels(frame) for frame in FRAMES},
    }
    notes = [
        *catalog.notes,
        "raypipe explore --serve answers this page from the catalog's parts while it runs.",
        "Links to other services open only when you follow them.",
    ]
    if catalog.left_out:
        notes.append("Columns left out, of many different words: " + ", ".join(catalog.left_out))
    return fill_page(
        f"Explorer of {catalog.release}", lead, notes, content, make_figures(shaded=True)
    )


def answers_from(catalog: ServedCatalog) -> Answers:
    """Return the function that answers each question of the page."""
    return {
        "column": lambda asked: _floats(_column(catalog, asked.get("name"))),
        "map": lambda asked: _floats(_map(catalog, asked.get("number")).T),
        "sky": lambda asked: _floats(catalog.sky(_frame(asked.get("frame"))).T),
        "sources": lambda asked: _floats(catalog.sources),
        "find": lambda asked: _find(catalog, asked),
        "similar": lambda asked: catalog.similar(
            rows_of(catalog, asked, _MOST_QUERIES), _integer(asked.get("k"), 1, MOST_ALIKE)
        ),
        "records": lambda asked: catalog.records(rows_of(catalog, asked, len(catalog))),
        "point": lambda asked: catalog.point(_integer(asked.get("row"), 0, len(catalog) - 1)),
        "image": lambda asked: _image(catalog, asked),
    }


def rows_of(catalog: ServedCatalog, asked: Question, most: int) -> list[int]:
    """Return the rows of a question; raises BadQuestionError unless the catalog has all of them."""
    rows = asked.get("rows")
    if not isinstance(rows, list) or len(rows) > most:
        raise BadQuestionError(f"rows: expected a list of at most {most:,} rows")
    return [_integer(row, 0, len(catalog) - 1) for row in rows]


def _find(catalog: ServedCatalog, asked: Question) -> dict[str, Any]:
    text = asked.get("text")
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise BadQuestionError(f"text: expected at most {_MOST_TEXT} characters")
    has_position = asked.get("ra") is not None and asked.get("dec") is not None
    position = (_number(asked["ra"]), _number(asked["dec"])) if has_position else None
    rows, how = catalog.find(text, position, _number(asked.get("radius")))
    return {"rows": rows.tolist(), "how": how}


def _image(catalog: ServedCatalog, asked: Question) -> bytes:
    (x0, x1), (y0, y1) = _pair(asked.get("x")), _pair(asked.get("y"))
    if not (x0 < x1 and y0 < y1):
        raise BadQuestionError("x, y: expected ranges that begin before they end")
    view = View(
        (x0, x1),
        (y0, y1),
        _integer(asked.get("width"), 1, MOST_PIXELS),
        _integer(asked.get("height"), 1, MOST_PIXELS),
    )
    words = asked.get("words")
    color = Coloring(
        _number(asked.get("low")),
        _number(asked.get("high")),
        asked.get("logarithmic") is True,
        None if words is None else [_integer(word, 0, 1 << 20) for word in _list(words)],
        asked.get("dark") is True,
    )
    values = _column(catalog, asked.get("column"))
    return draw_image(_places(catalog, asked), values, _kept(catalog, asked), view, color)


def _places(catalog: ServedCatalog, asked: Question) -> npt.NDArray[np.float64]:
    """Return the places (n, 2) on the sky, on a plane of two latents, or on a map."""
    if "frame" in asked:
        return catalog.sky(_frame(asked["frame"]))
    if "latents" in asked:
        names = _list(asked["latents"])[:2]
        return np.stack([_column(catalog, name) for name in names], axis=1)
    return _map(catalog, asked.get("number"))


def _kept(catalog: ServedCatalog, asked: Question) -> npt.NDArray[np.bool_]:
    """Mark the rows that pass all filters, as page/points.js does."""
    kept = np.ones(len(catalog), dtype=bool)
    for each in _list(asked.get("filters", [])):
        if not isinstance(each, dict):
            raise BadQuestionError("filters: expected objects")
        values = _column(catalog, each.get("column"))
        if each.get("words") is not None:
            kept &= np.isin(values, [_number(word) for word in _list(each["words"])])
        for bound, is_low in ((each.get("low"), True), (each.get("high"), False)):
            if bound is not None:
                kept &= values >= _number(bound) if is_low else values <= _number(bound)
    return kept


def _column(catalog: ServedCatalog, name: object) -> npt.NDArray[np.float64]:
    try:
        return catalog.column(str(name))
    except KeyError:
        raise BadQuestionError("the catalog has no such column") from None


def _map(catalog: ServedCatalog, number: object) -> npt.NDArray[np.float64]:
    return catalog.places(_integer(number, 0, len(catalog.maps) - 1))


def _frame(frame: object) -> str:
    if frame not in FRAMES:
        raise BadQuestionError(f"frame: expected one of {', '.join(FRAMES)}")
    return str(frame)


def _integer(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadQuestionError(f"expected a whole number from {least} to {most}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise BadQuestionError("expected a number")
    return float(value)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise BadQuestionError("expected a list")
    return value


def _pair(value: object) -> tuple[float, float]:
    first, second = ([*_list(value), None, None])[:2]
    return _number(first), _number(second)


def _floats(values: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values, dtype="<f4").tobytes()

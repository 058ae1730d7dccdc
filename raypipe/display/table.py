"""Write short HTML tables, with which objects show themselves in notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping

from raypipe.redaction import printable, redact_text

MAX_CELL = 300
"""Most characters of a name or value; header keywords may hold strings of any length."""


def summary_table(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of names and values as HTML; rows whose value is None or "" are omitted.

    All text is escaped, cut at `MAX_CELL` characters, and free of credentials.
    """
    lines = [
        f"<tr><th style='text-align:left'>{_text(name)}</th>"
        f"<td style='text-align:left'>{_text(value)}</td></tr>"
        for name, value in rows.items()
        if value is not None and value != ""
    ]
    return "\n".join(["<table>", f"<caption>{_text(title)}</caption>", *lines, "</table>"])


def _text(value: object) -> str:
    return html.escape(printable(redact_text(str(value)), MAX_CELL))

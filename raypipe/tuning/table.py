"""Write trials as a table, for Parquet and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import pyarrow as pa

from raypipe.tuning.records import Record

_MOST_LINES, _MOST_LETTERS = 10, 60


def ranked(records: Sequence[Record]) -> list[Record]:
    """Sort trials by Cash, lowest first; trials without Cash come last."""
    return sorted(
        records, key=lambda r: (r.cash is None, r.cash if r.cash is not None else 0.0, r.number)
    )


def table_of(records: Sequence[Record]) -> pa.Table:
    """Make a table with one row per trial, by number; searched settings are columns `section.key`.

    `validation_cash` is the Cash per bin of the weights that the trial would publish, null if it
    failed before its first report; `seconds` is the duration of its epochs.
    """
    rows = [
        {
            "trial": record.number,
            "trial_id": record.trial_id,
            "model_id": record.model_id,
            **record.values,
            "status": record.status,
            "reason": record.reason,
            "epochs": record.epochs,
            "validation_cash": record.cash,
            "seconds": record.seconds,
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows)


def table_lines(records: Sequence[Record], best: Record) -> list[str]:
    """List the best trials, one per line, and mark the best and the configured one."""
    names = list(best.values)
    order = ranked(records)
    shown = order[:_MOST_LINES]
    shown += [record for record in order[_MOST_LINES:] if record.number == 0]
    head = ["trial", *(name.partition(".")[2] for name in names), "epochs", "Cash/bin", ""]
    rows = [head] + [_cells(record, names, best) for record in shown]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]}"
        for row in rows
    ]
    left = len(records) - len(shown)
    return [line.rstrip() for line in lines] + ([f"and {left} more"] if left else [])


def _cells(record: Record, names: Sequence[str], best: Record) -> list[str]:
    cash = "-" if record.cash is None else f"{record.cash:.4f}"
    remarks = [
        *(["best"] if record is best else []),
        *(["as configured"] if record.number == 0 else []),
        *([record.status] if record.status != "done" else []),
        *([shorten(record.reason, _MOST_LETTERS)] if record.reason else []),
    ]
    values = [_number(record.values[name]) for name in names]
    return [str(record.number), *values, str(record.epochs), cash, ", ".join(remarks)]


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

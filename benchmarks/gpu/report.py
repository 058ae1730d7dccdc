"""Write what was measured on a GPU as Markdown tables for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

DETECTIONS, EPOCHS = 1_300_000, 100
"""The catalog and the training whose time is projected."""


def report(results: dict[str, Any]) -> str:
    """Return the tables: agreement with the CPU, embedding, training."""
    machine = results["machine"]
    peaks = ", ".join(f"{name} {value:.3g}" for name, value in results["peak_tflops"].items())
    heading = (
        f"{machine['device']}, torch {machine['torch']}, CUDA {machine['cuda']}, "
        f"Python {machine['python']}; {results['spectra']:,} spectra, {results['responses']} "
        f"responses; {results['flop_per_spectrum'] / 1e6:.3g} MFLOP per spectrum in training; "
        f"TFLOP/s of one large matrix product: {peaks}. {results['seconds']:.0f} s in all."
    )
    parts = [_agreement(results), _embedding(results), _training(results)]
    return "\n\n".join([heading, *parts])


def _agreement(results: dict[str, Any]) -> str:
    rows = [
        (each["name"], f"{each['deviation']:.2g}", f"{each['allowed']:.2g}", _yes(each["holds"]))
        for each in results["agreement"]
    ]
    return _table(("GPU and CPU compared", "deviation", "allowed", "holds"), rows)


def _embedding(results: dict[str, Any]) -> str:
    rows = [
        (
            each["device"],
            each["way"],
            f"{each['batch_size']:,}",
            f"{each['spectra_per_s']:,.0f}",
            f"{DETECTIONS / each['spectra_per_s'] / 60:.1f} min",
        )
        for each in results["embedding"]
    ]
    catalog = f"{DETECTIONS / 1e6:g} million detections"
    return _table(("device", "embedding", "batch", "spectra/s", catalog), rows)


def _training(results: dict[str, Any]) -> str:
    flop = results["flop_per_spectrum"]
    rows = []
    for each in results["training"]:
        tflops = each["spectra_per_s"] * flop / 1e12
        peak = results["peak_tflops"][each["way"].split(",")[0]]
        rows.append(
            (
                each["way"],
                f"{each['batch_size']:,}",
                f"{each['spectra_per_s']:,.0f}",
                f"{each['step_ms']:.1f} ms",
                f"{tflops:.3g}",
                f"{tflops / peak:.1%}",
                "-" if each["peak_memory_gb"] is None else f"{each['peak_memory_gb']:.1f} GB",
                f"{EPOCHS * DETECTIONS / each['spectra_per_s'] / 60:.0f} min",
            )
        )
    projected = f"{EPOCHS} epochs of {DETECTIONS / 1e6:g} million"
    columns = ("training", "spectra per step", "spectra/s", "per step", "TFLOP/s", "of the peak")
    table = _table((*columns, "memory", projected), rows)
    left_out = results["left_out"]
    return (
        f"{table}\n\nNot measured, for lack of time: {'; '.join(left_out)}." if left_out else table
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"

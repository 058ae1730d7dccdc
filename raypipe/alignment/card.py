"""Describe an alignment: the README of its bundle, and a table of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypipe.alignment.views import ViewScale
from raypipe.redaction import printable

_KINDS = {
    "number": "number, as the normal score of its rank",
    "category": "category",
    "vector": "vector",
    "curve": "light curve",
}
_MOST_COLUMNS = 40


def alignment_card(about: Mapping[str, Any], view: ViewScale, metrics: Mapping[str, Any]) -> str:
    """Write the card of an alignment in Markdown: data, view, use, quality and limits."""
    data = metrics.get("data", {})
    columns = "\n".join(
        f"| {_cell(column.name)} | {_KINDS[column.kind]} | {column.size} |"
        for column in view.columns[:_MOST_COLUMNS]
    )
    texts = about["texts"]
    encoder = f"\nTexts of {', '.join(map(_cell, texts))} were encoded by \
`{_cell(about['text_encoder'])}` (SHA-256 `{about['text_encoder_fingerprint'][:16]}`).\n"
    return f"""# {about["alignment_id"]}

An alignment of X-ray spectra with a second view of their sources: two small networks map the \
latents of a spectrum, with their errors, and a row of the view into one space, in which the two \
of a source are near each other.

| | |
|---|---|
| catalog | release {about["release"]} by {about["model_id"]} |
| view | {_cell(about["table"])}, joined by {_cell(about["key"])} |
| pairs | {data.get("train", "?")} to train, {data.get("validation", "?")} for early stopping, \
{data.get("test", "?")} to judge; of {data.get("sources", "?")} sources |
| made by | {", ".join(f"{k} {v}" for k, v in metrics.get("made_by", {}).items())} |

| column of the view | kind | inputs |
|---|---|---|
{columns}
{encoder if texts else ""}
## How well each side finds the other

{metrics_table(metrics)}

A source is either in training or in judgement with all its detections. The gallery has one \
detection and one view per source.

## Use

`raypipe search --like-view ROW` finds the spectra of a view, `--detection ID --to-view` the views \
of a spectrum, and `raypipe translate --view ROW` the spectrum that a row leads to. `config.toml` \
holds every setting, `align.safetensors` the weights and scales, `judged.parquet` the pairs by \
which `raypipe evaluate` judges. No file contains code.

## Limits

The alignment reads latents of the model {about["model_id"]} alone, and rows with the columns \
above. It knows what the view and the spectra of its training sources have in common, and their \
biases.
"""


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Tabulate recall and median rank of an alignment, of chance, baselines and permuted pairs."""
    judged = metrics.get("retrieval")
    if not judged:
        return "Not measured."
    lines = [
        f"Among {judged['gallery']} different rows of the view, of sources new to it:",
        "",
        "| | direction | recall at 1 | at 1% | at 5% | median rank |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in (
        ("alignment", judged),
        *((f"{key} (baseline)", value) for key, value in metrics.get("baselines", {}).items()),
        *((f"permuted pairs {i + 1}", e) for i, e in enumerate(metrics.get("permuted", []))),
    ):
        for key, direction in (
            ("to_view", "spectrum to view"),
            ("to_spectrum", "view to spectrum"),
        ):
            lines.append(f"| {name} | {direction} | {_figures(each[key])} |")
    lines.append(f"| chance | | {_figures(metrics['chance'])} |")
    return "\n".join(lines)


def _figures(found: Mapping[str, float]) -> str:
    cells = []
    for name, form in (
        ("at_1", ".3f"),
        ("at_1_percent", ".3f"),
        ("at_5_percent", ".3f"),
        ("median_rank", ".0f"),
    ):
        error = found.get(f"{name}_err")
        cells.append(f"{found[name]:{form}}" + ("" if error is None else f" ± {error:{form}}"))
    return " | ".join(cells)


def _cell(text: object) -> str:
    return printable(str(text), 80).replace("|", "\\|").replace("`", "'")

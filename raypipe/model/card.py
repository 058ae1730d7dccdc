"""Describe a model: the README of its bundle, and a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raypipe.box import is_from_box
from raypipe.model.flux_errors import WHOLLY
from raypipe.model.fluxes import LEAST_SEEN
from raypipe.model.presets import flux_errors_of
from raypipe.model.training_record import (
    FINETUNED,
    TrainingRecord,
    describe_counts,
    describe_numbers,
    describe_origin,
    describe_spectra,
    training_record,
)
from raypipe.redaction import printable
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.channel_bins import BAND_KEV, MOST_BINS

if TYPE_CHECKING:
    from raypipe.model.bundle import Model

_RESPONSE = {"folded": ", with the instrument's response removed"}
_MAKERS = ("raypipe", "torch", "ray")


def model_card(model: Model) -> str:
    """Write a model card in Markdown: data, settings, use, quality and limits of a model."""
    record = record_of(model)
    trained_on, made_by, grid = record.trained_on, record.made_by, model.grid
    classes = ", ".join(
        f"{name} {trained_on.classes.get(name, '')}".strip()
        for name in trained_on.classes or model.population.classes
    )
    quality = model.metrics.get("quality")
    return f"""# {model.model_id}

A raypipe autoencoder of X-ray spectra, preset `{model.preset}`: {model.config.model.latents} \
latents that describe the spectrum of a detection{_RESPONSE.get(model.preset, "")}.
{_tuning(model.metrics.get(FINETUNED))}
| | |
|---|---|
| trained on | {describe_spectra(trained_on, record.release)} |
| other spectra | {describe_numbers(_without_train(record.spectra))} |
| telescopes | {describe_numbers(trained_on.telescopes)} |
| responses | {_or_unknown(trained_on.responses)} |
| counts | {describe_counts(trained_on)} per training spectrum |
| data fingerprint | `{_or_unknown(record.data_fingerprint)}` |
| made by | {", ".join(f"{name} {made_by.get(name, 'unknown')}" for name in _MAKERS)} |
| seed | {model.config.train.seed} |
| best epoch | {_best_epoch(record)} |
| energies | {grid.edges_kev[0]:g}-{grid.edges_kev[-1]:g} keV in {grid.n_energy} bins |
| channels | at most {MOST_BINS} bins of whole channels per response, within \
{BAND_KEV[0]:g}-{BAND_KEV[1]:g} keV |
| classes | {classes or "none (no labels were given)"} |

## Use

```python
import raypipe

model = raypipe.load_model({"" if is_from_box(model.model_id) else f'"path/to/{model.model_id}"'})
latents = model.encode(raypipe.read_spectrum("acisf01575_001N001_r0085_pha3.fits.gz"))
```

Over the training spectra the latents are uncorrelated, with mean 0 and variance 1. \
`metrics.json` holds the learning curve, `config.toml` every setting; `model.safetensors` holds \
the weights, the population's density and the labeled latents behind the class probabilities. No \
file contains code.

## How well it explains spectra

{_quality_table(quality) if quality else "Not measured."}
{_real_spectra_table(model.metrics.get("real_spectra"))}
## Fluxes

{_flux_errors(model)}

## Limits

{_limits(quality)}The model reads imaging spectra of X-ray telescopes with their own ARF \
and RMF; for telescopes that are not among its training spectra it is not validated.

{describe_classes(model)}
"""


def record_of(model: Model) -> TrainingRecord:
    """Return the record of a model's training; raises RaypipeError if metrics.json is damaged."""
    record = training_record(model.metrics, model.model_id)
    if record.trained_on.sources is not None or not len(model.train_sources):
        return record
    sources = {"sources": len(model.train_sources)}
    return record.model_copy(update={"trained_on": record.trained_on.model_copy(update=sources)})


def describe_classes(model: Model) -> str:
    """State where class probabilities come from, how good they are there, and their limits."""
    population = model.population
    if not population.classes:
        return "The model was trained without labels: it gives no class probabilities."
    members = np.bincount(population.reference_class, minlength=len(population.classes))
    listed = ", ".join(
        f"{name} {count}" for name, count in zip(population.classes, members, strict=True)
    )
    record = record_of(model)
    origin = describe_origin(record.trained_on, record.release)
    text = (
        f"Class probabilities come from {len(population.reference_class):,} labeled training "
        f"spectra{origin and f' of {origin}'} ({listed}). They inherit the errors of these labels, "
        "and assume that all classes are equally frequent."
    )
    accuracy = population.balanced_accuracy()
    if accuracy is not None:
        text += (
            " Cross-validated on these spectra, a source never voting on itself, the most probable "
            f"class has a balanced accuracy of {accuracy:.2f}; a guess has "
            f"{1 / len(population.classes):.2f}."
        )
    return text + _SIMULATED[record.trained_on.simulated]


_MORE = (
    "that figure holds for simulated sources only; real ones are much harder to tell apart. "
    "docs/results.md of raypipe (Classes and physics) has the accuracy measured on a survey drawn "
    "from fits to real sources."
)
_SIMULATED = {
    True: f" The training spectra are simulated: {_MORE}",
    False: "",
    None: f" If the training spectra are simulated, {_MORE}",
}
"""What to say of the accuracy of classes, by whether the training spectra were simulated."""


def _tuning(found: Mapping[str, Any] | None) -> str:
    """State from which model a tuned one was made, how, and what that did; "" for others."""
    if not found:
        return ""
    before, after = found["before"], found["after"]
    columns = printable(", ".join(found["columns"]), 200)
    return f"""
It is {found["base_model"]}, tuned to a second view of sources by `raypipe align --finetune`: \
{columns} of {printable(found["table"], 200)}, with weight {found["weight"]:g} of the contrastive \
loss, learning rate {found["learning_rate"]:g} and seed {found["seed"]}; the best of \
{found["epochs"]} epochs was epoch {found["best_epoch"]}. On sources that only stopped the tuning, \
the contrastive loss went from {before["validation_contrast"]:.3f} to \
{after["validation_contrast"]:.3f}, the loss of the reconstruction from \
{before["validation_loss"]:.4f} to {after["validation_loss"]:.4f}, and the Cash statistic per bin \
after refinement from {before["cash_per_bin"]:.4f} to {after["cash_per_bin"]:.4f}. The rows below \
describe the spectra of the tuning.
"""


def _without_train(spectra: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in spectra.items() if name != "train"}


def _best_epoch(record: TrainingRecord) -> str:
    loss = record.validation_loss
    return f"{_or_unknown(record.best_epoch)} of {_or_unknown(record.epochs)}, validation loss " + (
        "unknown" if loss is None else f"{loss:.4f}"
    )


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _real_spectra_table(rows: list[dict[str, Any]] | None) -> str:
    """Tabulate the folds of real spectra beside their best physical fits; "" without any."""
    if not rows:
        return ""
    lines = [
        "",
        "Real spectra, none of which was trained on: the Cash statistic of the fold by the encoder "
        "alone and refined, over that of the best of an absorbed power law, plasma and black body.",
        "",
        "| spectrum | telescope | counts | background | encoder | refined |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {row['telescope']} | {row['counts']:,.0f} | {row['background']:.0%} "
        f"| {row['encoder']:.3f} | {row['refined']:.3f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _quality_table(quality: dict[str, Any]) -> str:
    """Tabulate goodness of fit by counts, one line per range."""
    lines = [
        f"Measured on {quality['n_rows']} spectra of the validation split, refined as by `embed`. "
        "A perfect model has the expected Cash statistic, and z-scores of mean 0 and width 1.",
        "",
        "| counts | spectra | Cash per bin | expected | z-score, mean | width |",
        "|---|---|---|---|---|---|",
    ]
    for row in quality["by_counts"]:
        zscore = row["fit_zscore"]
        lines.append(
            f"| {row['counts_min']}-{row['counts_max']} | {row['n_rows']} "
            f"| {row['cash_per_bin']:.3f} | {row['cash_expected_per_bin']:.3f} "
            f"| {_signed(zscore['mean'])} | {_number(zscore['width'])} |"
        )
    return "\n".join(lines)


def _flux_errors(model: Model) -> str:
    """Tabulate how far fluxes are off without noise, or state that it is unknown."""
    if model.preset != "folded":
        return "This preset has no fluxes."
    errors = flux_errors_of(model.network)
    if errors is None:
        return (
            "How far fluxes are off without noise was not measured, so that the limits of fluxes "
            "contain the noise alone. For bright sources they are too narrow."
        )
    lines = [
        "Latents describe a spectrum only approximately. Without noise, fluxes of 68% of simulated "
        "sources that the model was not trained on are off by at most this, beyond what their "
        "posteriors allow for. The limits of fluxes contain it.",
        "",
        "| band | photon flux | energy flux |",
        "|---|---|---|",
    ]
    for name, (low, high) in BANDS_KEV.items():
        band, found = {name: (low, high)}, set()
        for seen, how in ((1.0, ""), (0.5 * (LEAST_SEEN + WHOLLY), ", partly seen")):
            pair = tuple(
                float(of(band, [[seen]])[0, 0]) for of in (errors.of_photons, errors.of_energy)
            )
            if pair not in found:
                lines.append(
                    f"| {name}, {low:g}-{high:g} keV{how} | {pair[0]:.1%} | {pair[1]:.1%} |"
                )
            found.add(pair)
    return "\n".join(lines)


def _limits(quality: dict[str, Any] | None) -> str:
    """State the range of counts in which the model was validated."""
    if not quality:
        return ""
    seen = quality["by_counts"]
    return (
        f"The model is validated on spectra of {seen[0]['counts_min']} to "
        f"{seen[-1]['counts_max']} counts; for fainter or brighter ones it is not validated. "
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def model_summary(model: Model) -> Mapping[str, object]:
    """Return names and values that describe a model: preset, grid, training, validation."""
    record, grid = record_of(model), model.grid
    quality, trained_on = model.metrics.get("quality") or {}, record.trained_on
    weights = sum(each.numel() for each in model.network.parameters())
    scores = {
        "loss": record.validation_loss,
        "Cash per bin": quality.get("cash_per_bin"),
        "expected": quality.get("cash_expected_per_bin"),
        "z-score": quality.get("fit_zscore", {}).get("mean"),
    }
    figures = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
    energies = grid.edges_kev
    return {
        "preset": f"{model.preset}, {model.config.model.latents} latents, {weights:,} weights",
        "energies": f"{energies[0]:g} to {energies[-1]:g} keV in {grid.n_energy} bins",
        "channels": f"{BAND_KEV[0]:g} to {BAND_KEV[1]:g} keV in at most {MOST_BINS} bins of each "
        "response",
        "trained on": describe_spectra(trained_on, record.release),
        **({"telescopes": ", ".join(trained_on.telescopes)} if trained_on.telescopes else {}),
        **({"counts": describe_counts(trained_on)} if trained_on.counts else {}),
        "validated on": f"{len(model.validation_sources):,} sources",
        "validation": ", ".join(figures),
        "classes": ", ".join(model.population.classes) or "none",
    }

"""Write the README of a model bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe.spectra.channel_bins import BAND_KEV, MOST_BINS

if TYPE_CHECKING:
    from raypipe.model.bundle import Model

_RESPONSE = {"folded": ", with the instrument's response removed"}


def model_card(model: Model) -> str:
    """Write a model card in Markdown: data, settings, use, quality and limits of a model."""
    metrics = model.metrics
    made_by = metrics.get("made_by", {})
    spectra = metrics.get("spectra", {})
    grid = model.grid
    known = metrics.get("classes") or dict.fromkeys(model.population.classes, "")
    classes = ", ".join(f"{name} {count}".strip() for name, count in known.items())
    quality = metrics.get("quality")
    return f"""# {model.model_id}

A raypipe autoencoder of X-ray spectra, preset `{model.preset}`: {model.config.model.latents} \
latents that describe the spectrum of a detection{_RESPONSE.get(model.preset, "")}.

| | |
|---|---|
| trained on | release {metrics.get("release")}: {spectra.get("train")} spectra for training, \
{spectra.get("validation")} for validation, {spectra.get("test")} held out for tests |
| data fingerprint | `{metrics.get("data_fingerprint")}` |
| made by | raypipe {made_by.get("raypipe")}, torch {made_by.get("torch")}, ray \
{made_by.get("ray")} |
| seed | {model.config.train.seed} |
| best epoch | {metrics.get("best_epoch")} of {metrics.get("epochs")}, validation loss \
{metrics.get("validation_loss"):.4f} |
| energies | {grid.edges_kev[0]:g}-{grid.edges_kev[-1]:g} keV in {grid.n_energy} bins |
| channels | at most {MOST_BINS} bins of whole channels per response, within \
{BAND_KEV[0]:g}-{BAND_KEV[1]:g} keV |
| classes | {classes or "none (no labels were given)"} |

## Use

```python
import raypipe
model = raypipe.load_model("path/to/{model.model_id}")
latents = model.encode(raypipe.read_spectrum("acisf01575_001N001_r0085_pha3.fits.gz"))
```

Over the training spectra the latents are uncorrelated, with mean 0 and variance 1. \
`metrics.json` holds the learning curve, `config.toml` every setting; `model.safetensors` holds \
the weights, the population's density and the labelled latents behind the class probabilities. No \
file contains code.

## How well it explains spectra

{_quality_table(quality) if quality else "Not measured."}

## Limits

{_limits(quality)}The model reads imaging spectra of X-ray telescopes with their own ARF \
and RMF; for telescopes that are not among its training spectra it is not validated. Class \
probabilities inherit the errors of the training labels, and assume that all classes are equally \
frequent.
"""


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

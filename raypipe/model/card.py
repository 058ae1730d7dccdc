"""The README of a model bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raypipe.model.bundle import Model


def model_card(model: Model) -> str:
    """A model card in Markdown: what it is, what made it, how to use it, what it is not for."""
    metrics = model.metrics
    made_by = metrics.get("made_by", {})
    spectra = metrics.get("spectra", {})
    grid = model.grid
    classes = ", ".join(model.population.classes) or "none (no labels were given)"
    return f"""# {model.model_id}

A raypipe autoencoder of X-ray spectra, preset `{model.preset}`: {model.config.model.latents} \
latents that say what the spectrum of a detection looks like before the telescope.

| | |
|---|---|
| trained on | release {metrics.get("release")}: {spectra.get("train")} spectra to train, \
{spectra.get("validation")} to validate, {spectra.get("test")} never shown |
| data fingerprint | `{metrics.get("data_fingerprint")}` |
| made by | raypipe {made_by.get("raypipe")}, torch {made_by.get("torch")}, ray \
{made_by.get("ray")} |
| seed | {model.config.train.seed} |
| best epoch | {metrics.get("best_epoch")} of {metrics.get("epochs")}, validation loss \
{metrics.get("validation_loss"):.4f} |
| energies | {grid.energy_lo_kev}-{grid.energy_hi_kev} keV in {grid.n_energy} bins |
| channels | {grid.n_channel_bins} bins of {grid.channels_per_bin} PI channels from \
{grid.first_channel} |
| classes known | {classes} |

## Use

```python
import raypipe
model = raypipe.load_model("path/to/{model.model_id}")
latents = model.encode(raypipe.read_spectrum("acisf01575_001N001_r0085_pha3.fits.gz"))
```

Latents have mean 0, variance 1 and no correlation over the training spectra. `metrics.json` \
holds the learning curve, `config.toml` every setting; `model.safetensors` holds weights, the \
population's density and the labelled latents behind the class probabilities. No file contains \
code.

## Limits

For imaging ACIS spectra with their own ARF and RMF. Class probabilities repeat the errors of the \
labels trained on, and start from equal shares for all classes.
"""

"""Load a trained network, and hold spectra on a device as the learner does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from raypipe.config import Config
from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.presets import Folded, build
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.training.compact import CompactSpectra, compact_area, compact_counts


def load_network(path: Path) -> Folded:
    """Load a network that `fit` saved."""
    made_of = json.loads(path.with_suffix(".json").read_text())["made_of"]
    config = Config.model_validate({"model": made_of["model"]})
    network = build(config.model, EnergyGrid())
    network.load_state_dict(load_file(path))
    assert isinstance(network, Folded)
    return network.eval()


def compact(spectra: SpectraBatch, device: torch.device) -> CompactSpectra:
    """Hold spectra on a device as `train` does."""
    return CompactSpectra(
        counts=compact_counts(torch.from_numpy(spectra.counts)).to(device),
        background_counts=compact_counts(torch.from_numpy(spectra.background_counts)).to(device),
        background_scale=torch.from_numpy(spectra.background_scale.reshape(len(spectra), -1)).to(
            device
        ),
        exposure_s=torch.from_numpy(spectra.exposure_s).to(device),
        arf_cm2=compact_area(torch.from_numpy(spectra.arf_cm2)).to(device),
        response_index=torch.from_numpy(spectra.response_index.astype(np.int32)),
        responses=torch.from_numpy(spectra.responses).to(device),
        axes=ChannelAxes.of(spectra.bins, device),
    )

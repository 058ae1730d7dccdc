"""Define the settings of `raypipe align`; `raypipe.config` has all sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raypipe.config_training import Section


class AlignConfig(Section):
    """Align spectra with a second view of their sources."""

    loss: Literal["infonce", "sigmoid"] = Field(
        "infonce",
        description="infonce: pick the view of a spectrum among a batch, and the reverse (CLIP). "
        "sigmoid: judge every pair on its own (SigLIP).",
    )
    dimensions: int = Field(16, ge=2, le=256, description="Dimensions of the shared space.")
    width: int = Field(128, ge=8, le=1024, description="Width of the hidden layers.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout in the hidden layers.")
    posterior_noise: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Width of the draws from each detection's posterior that training sees, in "
        "units of its errors: 1 draws from the posterior itself, 0 shows its mean alone.",
    )
    targets: list[str] = Field(
        default=[],
        description="Columns of the catalog, or of the table outside the view, for which to "
        "measure what the shared space adds to latents and view: numbers or classes.",
    )
    translation: float = Field(
        0.3, ge=0, description="Weight of predicting either side from the other, in the loss."
    )
    curve_points: int = Field(
        256, ge=8, le=4096, description="Maximum number of points read of a light curve."
    )
    epochs: int = Field(100, ge=1, description="Maximum number of passes over the pairs.")
    batch_size: int = Field(
        512, ge=8, description="Pairs per optimizer step, summed over all workers."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW.")
    patience: int = Field(15, ge=1, description="Stop after this many epochs without improvement.")
    test_fraction: float = Field(
        0.2, gt=0, lt=0.9, description="Fraction of sources by which the alignment is judged."
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="Fraction of sources used for early stopping."
    )
    permutations: int = Field(
        1,
        ge=0,
        description="Alignments of permuted pairs, which must find nothing, as a check.",
    )
    seed: int = Field(0, ge=0, description="Seed for weights, split, order and draws.")
    finetune_epochs: int = Field(
        10, ge=1, description="Maximum number of passes over the spectra with --finetune."
    )
    finetune_weight: float = Field(
        0.1,
        ge=0,
        description="Weight of the contrastive loss beside that of the reconstruction with "
        "--finetune: 0 trains the model further without the view.",
    )
    finetune_learning_rate: float = Field(
        3e-4, gt=0, description="Peak learning rate with --finetune."
    )
    finetune_patience: int = Field(
        3, ge=1, description="With --finetune, stop after this many epochs without improvement."
    )
    num_workers: int = Field(
        1,
        ge=1,
        description="Workers of Ray Train. 1 trains in this process, without Ray.",
    )
    cpus_per_worker: float = Field(0.9, gt=0, description="CPUs that Ray reserves per worker.")

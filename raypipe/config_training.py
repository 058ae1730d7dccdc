"""Define the settings of the network, of training, and of the search for better settings.

`raypipe.config` has all sections; import from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

PRESET_BINS = {"folded": 256, "paper": 400}
"""Number of spectral bins that the encoder of each preset reads."""

Workers = PositiveInt | tuple[PositiveInt, PositiveInt]
"""A fixed number of processes, or a pair (minimum, maximum)."""


class Section(BaseModel):
    """Hold a section of the configuration, which refuses unknown settings and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Set the architecture of the autoencoder."""

    preset: Literal["folded", "paper"] = Field("folded", description="Recipe for model and loss.")
    latents: int = Field(8, ge=1, le=8, description="Number of latents per spectrum.")
    width: int = Field(64, ge=8, le=4096, description="Width of the encoder's tokens.")
    depth: int = Field(3, ge=1, le=64, description="Number of transformer layers in the encoder.")
    heads: int = Field(4, ge=1, description="Number of attention heads per layer.")
    patch: int = Field(8, ge=1, description="Spectral bins per token.")
    loss_power: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Exponent p in the loss of preset folded, Cash / counts^p per spectrum: "
        "0 gives all photons equal weight, 1 gives all spectra equal weight.",
    )
    decoder_width: int = Field(
        256, ge=8, le=8192, description="Width of the decoder's hidden layers."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        bins = PRESET_BINS[self.preset]
        if bins % self.patch:
            raise ValueError(
                f"patch {self.patch} does not divide the {bins} bins of preset {self.preset}"
            )
        return self


class TrainConfig(Section):
    """Train with Ray Train."""

    epochs: int = Field(50, ge=1, description="Maximum number of passes over the training spectra.")
    batch_size: int = Field(
        64, ge=2, description="Spectra per optimizer step, summed over all workers."
    )
    learning_rate: float = Field(
        2e-3, gt=0, description="Peak learning rate of the one-cycle schedule."
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    gradient_clip: float = Field(1.0, gt=0, description="Clip gradients to this norm.")
    thinning_min: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Minimum fraction of the counts that the encoder sees during training.",
    )
    latent_penalty: float = Field(
        1e-3, ge=0, description="Weight of the latents' mean square in the loss."
    )
    test_fraction: float = Field(0.2, ge=0, lt=1, description="Fraction of sources held out.")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="Fraction of sources used for early stopping."
    )
    patience: int = Field(15, ge=1, description="Stop after this many epochs without improvement.")
    seed: int = Field(0, ge=0, description="Seed for weights, split and order.")
    num_workers: Workers = Field(
        2, description="Number of DDP workers; elastic if given as [minimum, maximum]."
    )
    cpus_per_worker: float = Field(0.9, gt=0, description="CPUs that Ray reserves per worker.")
    use_gpu: bool | None = Field(
        None,
        description="Give each worker a GPU. true makes an autoscaler add GPU nodes. "
        "Default: use GPUs that the cluster already has.",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0,
        le=1,
        description="GPUs that Ray reserves per worker; below 1, trials share a GPU.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the encoder's matrix products. auto: bfloat16 on GPUs that "
        "support it.",
    )
    compile: bool | None = Field(None, description="Use torch.compile. Default: on GPUs only.")
    data: Literal["auto", "resident", "stream"] = Field(
        "auto",
        description="resident: keep the spectra on the device. stream: read them in every epoch. "
        "auto: resident if they fit.",
    )
    stream_rows: int = Field(
        32_768, ge=1, description="Size of each worker's shuffle buffer when spectra are streamed."
    )
    max_failures: int = Field(3, ge=0, description="Restarts after worker failures.")
    references: int = Field(
        20_000,
        ge=1,
        description="Maximum number of labeled training spectra stored for class probabilities.",
    )
    validation_cash: bool = Field(
        False,
        description="After each epoch, measure the Cash statistic on the half of the validation "
        "counts that the encoder does not see. raypipe tune compares trials by it.",
    )

    @property
    def workers(self) -> tuple[int, int]:
        """Return the minimum and maximum number of training processes."""
        return (
            self.num_workers
            if isinstance(self.num_workers, tuple)
            else (self.num_workers, self.num_workers)
        )

    @model_validator(mode="after")
    def _workers_have_work(self) -> TrainConfig:
        fewest, most = self.workers
        if fewest > most:
            raise ValueError(f"num_workers [{fewest}, {most}]: the minimum exceeds the maximum")
        if most > self.batch_size:
            raise ValueError(f"{most} workers cannot share batches of {self.batch_size} spectra")
        if self.gpus_per_worker <= 0.5 and most > 1 and self.use_gpu is not False:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} puts workers of one training on one "
                "GPU, where NCCL cannot connect them: set num_workers to 1"
            )
        return self


class Range(Section):
    """Sample values between `low` and `high`, both included; log-uniformly if `log`."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm")
        return self


Choices = Annotated[list[int | float | str], Field(min_length=1)]

_SPACE: dict[str, Range | Choices] = {
    "model.latents": [4, 6, 8],
    "model.width": [32, 64, 96, 128],
    "model.depth": [1, 2, 3, 4],
    "model.patch": [4, 8, 16],
    "model.loss_power": Range(low=0.0, high=0.75),
    "train.learning_rate": Range(low=3e-4, high=1e-2, log=True),
    "train.thinning_min": Range(low=0.1, high=0.7),
}


class TuneConfig(Section):
    """Search for better settings with Ray Tune."""

    trials: int = Field(20, ge=1, description="Number of trials. The first uses the configuration.")
    grace_epochs: int = Field(4, ge=1, description="Minimum epochs per trial.")
    reduction_factor: float = Field(
        3.0, gt=1, description="ASHA reduction factor: one trial in N survives each rung."
    )
    concurrent_trials: int | None = Field(
        None, ge=1, description="Simultaneous trials. Default: as many as fit on the cluster."
    )
    seed: int = Field(0, ge=0, description="Seed for the sampled settings.")
    space: dict[str, Range | Choices] = Field(
        _SPACE,
        min_length=1,
        description="Search space: for each setting of model or train, a list of values or "
        "{low, high, log}. The value in the configuration is always included.",
    )

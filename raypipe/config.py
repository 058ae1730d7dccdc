"""Define every setting once: its type, default, limits and description."""

from __future__ import annotations

from typing import Annotated, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from raypipe.redaction import redact_text

PRESET_BINS = {"folded": 256, "paper": 400}
"""Number of spectral bins that the encoder of each preset reads."""


ClassScheme = Literal["neighbors", "density"]

Workers = PositiveInt | tuple[PositiveInt, PositiveInt]
"""A fixed number of processes, or a pair (minimum, maximum)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulateConfig(_Section):
    """Simulate a survey."""

    detections: int = Field(4000, ge=1, description="Number of detections to simulate.")
    seed: int = Field(0, ge=0, description="Seed for all random draws.")
    visits: int = Field(
        1, ge=1, description="Observations of each source, by different telescopes."
    )
    counts_min: float = Field(50.0, gt=0, description="Minimum number of expected source counts.")
    counts_max: float = Field(5000.0, gt=0, description="Maximum number of expected source counts.")


class DiscoverConfig(_Section):
    """List the files of a source in a manifest."""

    release: str = Field(
        "csc2.1",
        pattern=r"^[\w.\-]+$",
        description="Release assigned to a folder of CSC products that does not name its release.",
    )
    part_rows: int = Field(
        500,
        ge=1,
        description="Detections per part. Parts are larger where there would be more than 65,536.",
    )
    tap_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of the TAP service. Default: the service of the release.",
    )
    page_rows: int = Field(5000, ge=1, description="Maximum number of detections per TAP query.")
    sync_rows: int = Field(
        500, ge=0, description="Queries for more rows than this run as asynchronous jobs."
    )
    attempts: int = Field(6, ge=1, description="Maximum attempts per request to the archive.")
    backoff_s: float = Field(
        1.0,
        ge=0,
        description="Wait before the second attempt, in s. It doubles for each further attempt.",
    )
    silence_s: float = Field(
        120.0, gt=0, description="Give up when the archive sends nothing for this long, in s."
    )
    answer_s: float = Field(1800.0, gt=0, description="Maximum duration of one answer, in s.")
    poll_s: float = Field(
        2.0,
        gt=0,
        description="Wait between the first two polls of an asynchronous job, in s. It grows.",
    )
    job_s: float = Field(7200.0, gt=0, description="Maximum duration of an asynchronous job, in s.")


class IngestConfig(_Section):
    """Read the files of a manifest into spectra."""

    rmf: Literal["chip", "exact"] = Field(
        "chip",
        description="chip: share one RMF per chip zone among CSC detections. "
        "exact: fetch the RMF of each detection.",
    )
    chip_sample: int = Field(
        1024,
        ge=1,
        description="Number of detections among which the RMFs of the chip zones are chosen.",
    )
    chip_candidates: int = Field(
        3, ge=1, description="RMFs per chip zone that are compared before one is chosen."
    )
    choose_rmfs_again: bool = Field(
        False,
        description="Choose the RMFs of the chip zones again, and ingest again the detections "
        "whose RMF was replaced.",
    )
    fetch_threads: int = Field(
        16, ge=1, description="Detections or packages that one task fetches at the same time."
    )
    cpus_per_task: float = Field(1.0, gt=0, description="CPUs that Ray reserves per task.")
    max_file_mb: int = Field(
        64, ge=1, description="Reject files larger than this, in MB as stored."
    )
    package_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of the package service. Default: the service of the release.",
    )
    package_batch: int = Field(
        50, ge=1, le=50, description="Detections per request to the package service."
    )
    max_package_mb: int = Field(
        512, ge=1, description="Reject packages larger than this, in MB as sent."
    )
    host_concurrency: int = Field(
        8, ge=1, description="Simultaneous requests per task to one HTTP server."
    )
    http_timeout_s: float = Field(
        60.0, gt=0, description="Give up when a server sends nothing for this long, in s."
    )
    http_deadline_s: float = Field(
        300.0, gt=0, description="Maximum time from a request to the last byte of its answer, in s."
    )
    retries: int = Field(
        5,
        ge=0,
        description="Retries after HTTP 408, 425, 429, 5xx, timeouts and broken connections.",
    )
    backoff_s: float = Field(
        1.0,
        ge=0,
        description="Maximum wait before the first retry, in s. It doubles for each further retry.",
    )
    cache_dir: str | None = Field(
        None, description="Local folder that caches fetched files. Default: no cache."
    )
    cache_mb: int = Field(
        4096, ge=1, description="Maximum size of the cache, in MB. The oldest files are removed."
    )
    retry_rejects: Literal["retryable", "all"] = Field(
        "retryable",
        description="Which rejects a rerun tries again. all: also those that no retry is "
        "expected to cure, for instance after the files were repaired.",
    )


class ModelConfig(_Section):
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
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        bins = PRESET_BINS[self.preset]
        if bins % self.patch:
            raise ValueError(
                f"patch {self.patch} does not divide the {bins} bins of preset {self.preset}"
            )
        return self


class TrainConfig(_Section):
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
        description="Maximum number of labelled training spectra stored for class probabilities.",
    )
    validation_cash: bool = Field(
        False,
        description="After each epoch, measure the Cash statistic on the half of the validation "
        "counts that the encoder does not see. raypipe tune compares trials by it.",
    )

    @property
    def workers(self) -> tuple[int, int]:
        """Minimum and maximum number of training processes."""
        return (
            self.num_workers
            if isinstance(self.num_workers, tuple)
            else (self.num_workers, self.num_workers)
        )

    @model_validator(mode="after")
    def _workers_have_work(self) -> TrainConfig:
        fewest, most = self.workers
        if fewest > most:
            raise ValueError(f"num_workers [{fewest}, {most}]: the fewest are more than the most")
        if most > self.batch_size:
            raise ValueError(f"{most} workers cannot share batches of {self.batch_size} spectra")
        if self.gpus_per_worker <= 0.5 and most > 1 and self.use_gpu is not False:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} puts workers of one training on one "
                "GPU, where they cannot talk to each other: set num_workers to 1"
            )
        return self


class Range(_Section):
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


class TuneConfig(_Section):
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


class EmbedConfig(_Section):
    """Encode spectra into the latent catalog."""

    batch_size: int = Field(256, ge=1, description="Spectra per batch.")
    actors: int | None = Field(
        None, ge=1, description="Maximum number of encoder actors. Default: one per CPU or GPU."
    )
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves per actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs that Ray reserves per actor.")
    refine_steps: int = Field(
        6,
        ge=0,
        description="Fisher-scoring steps on the likelihood of each detection. 0: no refinement.",
    )
    class_scheme: ClassScheme = Field(
        "neighbors",
        description="neighbors: class probabilities from votes of the nearest labelled latents. "
        "density: from distances to labelled members of the mixture components.",
    )
    errors: bool = Field(
        True,
        description="Compute errors of the latents. false: errors are null and latents unrefined.",
    )


class ExportConfig(_Section):
    """Write the catalog in formats that other tools open."""

    partition_rows: int = Field(250_000, ge=1, description="Maximum rows per HATS partition.")


class EvaluateConfig(_Section):
    """Measure the quality of the latents."""

    folds: int = Field(5, ge=2, description="Number of cross-validation folds, grouped by source.")
    mixture_components: int = Field(16, ge=1, description="Components of the Gaussian mixture.")
    neighbors: int = Field(15, ge=1, description="Neighbors used by the kNN classifier.")
    seed: int = Field(0, ge=0, description="Seed for folds and fits.")
    baseline_presets: list[Literal["folded", "paper"]] = Field(
        default=[], description="Presets that raypipe run also trains, for comparison."
    )


class ReportConfig(_Section):
    """Write the report on a catalog."""

    examples: int = Field(6, ge=1, description="Number of example reconstructions.")
    seed: int = Field(0, ge=0, description="Seed for the choice of examples.")


class PlanConfig(_Section):
    """Predict the cost of ingesting a release from a sample."""

    sample: int = Field(200, ge=1, description="Number of detections to ingest as a sample.")
    seed: int = Field(0, ge=0, description="Seed for the choice of the sample.")
    cluster_file: str = Field(
        "cluster.yaml", description="Ray cluster launcher file with node types and prices."
    )
    source_mb_per_s: float | None = Field(
        None,
        gt=0,
        description="Maximum total throughput of the source, in MB/s. Default: no limit.",
    )


class RayConfig(_Section):
    """Choose the Ray cluster to run on."""

    address: str | None = Field(
        None, description="Cluster to join. Default: RAY_ADDRESS, otherwise start a local cluster."
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs of the local cluster. Default: all.")


class Config(_Section):
    """Hold all settings, one section per verb or subject."""

    simulate: SimulateConfig = SimulateConfig()
    discover: DiscoverConfig = DiscoverConfig()
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    embed: EmbedConfig = EmbedConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    plan: PlanConfig = PlanConfig()
    ray: RayConfig = RayConfig()

    def __repr__(self) -> str:
        changed = [
            f"{name}.{key}={value!r}"
            for name in type(self).model_fields
            for key, value in getattr(self, name).model_dump(exclude_defaults=True).items()
        ]
        return redact_text(f"Config({', '.join(changed) or 'defaults'})")

    __str__ = __repr__

    def to_toml(self) -> str:
        """Write the settings as TOML: None is left out, and so are credentials in URLs."""
        return redact_text(tomli_w.dumps(self.model_dump(exclude_none=True)))

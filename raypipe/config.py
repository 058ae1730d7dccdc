"""Every setting of the pipeline, in one schema: `--config FILE.toml`, `--set section.key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from raypipe.errors import UsageError
from raypipe.redaction import redact_text

PRESET_BINS = {"folded": 256, "paper": 400}
"""Bins of the spectrum that each preset's encoder reads."""


ClassScheme = Literal["neighbors", "density"]

Workers = PositiveInt | tuple[PositiveInt, PositiveInt]
"""A number of processes, or the fewest and the most."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulateConfig(_Section):
    """A simulated survey."""

    detections: int = Field(4000, ge=1, description="number of detections")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    counts_min: float = Field(50.0, gt=0, description="fewest expected source counts")
    counts_max: float = Field(5000.0, gt=0, description="most expected source counts")


class DiscoverConfig(_Section):
    """From files to a manifest."""

    release: str = Field(
        "csc2.1",
        pattern=r"^[\w.\-]+$",
        description="release that a folder of CSC files is taken for",
    )
    part_rows: int = Field(
        500,
        ge=1,
        description="detections a part aims at; more where parts would be over 65,536",
    )
    tap_url: str | None = Field(
        None, pattern=r"^https?://", description="TAP service; by default the release's own"
    )
    page_rows: int = Field(5000, ge=1, description="most detections asked of TAP at once")
    sync_rows: int = Field(
        500, ge=0, description="most rows asked for synchronously, more as an asynchronous job"
    )
    attempts: int = Field(6, ge=1, description="attempts a request to the archive gets")
    backoff_s: float = Field(1.0, ge=0, description="first pause between attempts, s; doubles")
    silence_s: float = Field(120.0, gt=0, description="longest silence within an answer, s")
    answer_s: float = Field(1800.0, gt=0, description="longest time a whole answer may take, s")
    poll_s: float = Field(2.0, gt=0, description="first pause between looks at a job, s; grows")
    job_s: float = Field(7200.0, gt=0, description="longest time an asynchronous job may take, s")


class IngestConfig(_Section):
    """From files to spectra."""

    rmf: Literal["chip", "exact"] = Field(
        "chip",
        description="chip: one RMF for each zone of a chip, for detections of the CSC; exact: each "
        "detection's own",
    )
    chip_sample: int = Field(
        1024, ge=1, description="detections looked at to choose the RMFs of chips"
    )
    chip_candidates: int = Field(
        3, ge=1, description="RMFs of a zone that are compared before one is chosen"
    )
    choose_rmfs_again: bool = Field(
        False,
        description="choose the RMFs of chips again, and ingest again what used one given up",
    )
    fetch_threads: int = Field(16, ge=1, description="detections or packages in work in a task")
    cpus_per_task: float = Field(1.0, gt=0, description="CPUs a task asks Ray for")
    max_file_mb: int = Field(64, ge=1, description="largest file read, MB as stored")
    package_url: str | None = Field(
        None, pattern=r"^https?://", description="package service; by default the release's own"
    )
    package_batch: int = Field(
        50, ge=1, le=50, description="detections asked of the package service at once"
    )
    max_package_mb: int = Field(512, ge=1, description="largest package read, MB as sent")
    host_concurrency: int = Field(
        8, ge=1, description="requests at once to one HTTP server, by each task"
    )
    http_timeout_s: float = Field(60.0, gt=0, description="longest silence of a server, s")
    http_deadline_s: float = Field(
        300.0, gt=0, description="longest an answer may take from request to last byte, s"
    )
    retries: int = Field(
        5, ge=0, description="further tries after 408, 425, 429, 5xx, timeouts, broken connections"
    )
    backoff_s: float = Field(
        1.0, ge=0, description="longest wait before the first retry, doubled for each next one, s"
    )
    cache_dir: str | None = Field(
        None, description="local folder that keeps what was fetched over the network"
    )
    cache_mb: int = Field(4096, ge=1, description="size of that folder; the oldest files go, MB")
    retry_rejects: Literal["retryable", "all"] = Field(
        "retryable", description="rejects a rerun takes up again; all: also those since mended"
    )


class ModelConfig(_Section):
    """The shape of the autoencoder."""

    preset: Literal["folded", "paper"] = Field("folded", description="recipe of model and loss")
    latents: int = Field(8, ge=1, le=8, description="numbers that describe a spectrum")
    width: int = Field(64, ge=8, le=4096, description="width of a token")
    depth: int = Field(3, ge=1, le=64, description="transformer layers of the encoder")
    heads: int = Field(4, ge=1, description="attention heads")
    patch: int = Field(8, ge=1, description="channel bins a token")
    loss_power: float = Field(
        0.25,
        ge=0,
        le=1,
        description="power of the counts that a spectrum's Cash statistic is divided by in the "
        "loss of preset folded: 0 weighs all photons alike, 1 all spectra",
    )
    decoder_width: int = Field(
        256, ge=8, le=8192, description="width of the decoder's hidden layers"
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
    """Training with Ray Train."""

    epochs: int = Field(50, ge=1, description="passes over the training spectra")
    batch_size: int = Field(64, ge=2, description="spectra a step, all workers together")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of a gradient")
    thinning_min: float = Field(
        0.3, gt=0, le=1, description="least share of the counts the encoder is shown in training"
    )
    latent_penalty: float = Field(1e-3, ge=0, description="weight of the latents' mean square")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="sources never shown to training")
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="sources for early stopping")
    patience: int = Field(15, ge=1, description="epochs without improvement before stopping")
    seed: int = Field(0, ge=0, description="seed of weights, split and order")
    num_workers: Workers = Field(
        2, description="training processes (DDP), fixed or elastic: [fewest, most]"
    )
    cpus_per_worker: float = Field(0.9, gt=0, description="CPUs a worker asks Ray for")
    use_gpu: bool | None = Field(
        None,
        description="a GPU a worker; by default where Ray has one already: a cluster that starts "
        "GPU nodes when asked is asked by true",
    )
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="GPUs a worker asks Ray for; a share of one where trials share"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the encoder's matrix products; auto: bfloat16 on GPUs that have it",
    )
    compile: bool | None = Field(None, description="torch.compile; by default on a GPU")
    data: Literal["auto", "resident", "stream"] = Field(
        "auto",
        description="spectra kept on the device or read anew each epoch; auto: kept where they fit",
    )
    stream_rows: int = Field(
        32_768, ge=1, description="spectra a worker shuffles at once where they are read anew"
    )
    max_failures: int = Field(3, ge=0, description="restarts after a worker's death")
    references: int = Field(
        20_000, ge=1, description="labelled training spectra kept for class probabilities"
    )
    validation_cash: bool = Field(
        False,
        description="measure, each epoch, the Cash statistic of that half of the validation counts "
        "which the encoder is not shown; `tune` compares it",
    )

    @property
    def workers(self) -> tuple[int, int]:
        """Fewest and most training processes."""
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
    """The values from `low` to `high`, both included, even in the logarithm where `log` says so."""

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
    """The search for better settings with Ray Tune."""

    trials: int = Field(20, ge=1, description="settings tried, those of the configuration first")
    grace_epochs: int = Field(4, ge=1, description="epochs a trial has before it can be stopped")
    reduction_factor: float = Field(
        3.0, gt=1, description="of trials that come as far one in so many goes on (ASHA)"
    )
    concurrent_trials: int | None = Field(
        None, ge=1, description="trials at once; by default as many as the cluster has room for"
    )
    seed: int = Field(0, ge=0, description="seed of the settings that are drawn")
    space: dict[str, Range | Choices] = Field(
        _SPACE,
        min_length=1,
        description="what is searched: a list of values or {low, high, log} for `section.key` of "
        "model or train; the configuration's own value always belongs to it",
    )


class EmbedConfig(_Section):
    """From spectra to the latent catalog."""

    batch_size: int = Field(256, ge=1, description="spectra encoded at once")
    actors: int | None = Field(
        None, ge=1, description="most encoders; by default one a CPU or GPU, as many as come"
    )
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs an actor asks Ray for")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs an actor asks Ray for")
    refine_steps: int = Field(
        6, ge=0, description="Fisher-scoring steps on each detection's own likelihood"
    )
    class_scheme: ClassScheme = Field(
        "neighbors",
        description="probabilities of classes: neighbors, votes of the nearest labelled latents; "
        "density, distances to labelled members in a mixture's components",
    )
    errors: bool = Field(
        True, description="errors of the latents; without them no refinement either, and NaN"
    )


class ExportConfig(_Section):
    """The catalog in formats that other tools open."""

    partition_rows: int = Field(
        250_000, ge=1, description="rows of a HATS partition before it is divided"
    )


class EvaluateConfig(_Section):
    """How good the latents are."""

    folds: int = Field(5, ge=2, description="cross-validation folds, grouped by source")
    mixture_components: int = Field(16, ge=1, description="components of the Gaussian mixture")
    neighbors: int = Field(15, ge=1, description="neighbors of the kNN classifier")
    seed: int = Field(0, ge=0, description="seed of folds and fits")
    baseline_presets: list[Literal["folded", "paper"]] = Field(
        default=["paper"], description="presets `run` trains beside the main one to compare with"
    )


class ReportConfig(_Section):
    """The page about a catalog."""

    examples: int = Field(6, ge=1, description="reconstructions shown")
    seed: int = Field(0, ge=0, description="seed of the choice of examples")


class PlanConfig(_Section):
    """What ingesting a release takes, from a sample."""

    sample: int = Field(200, ge=1, description="detections that are really ingested")
    seed: int = Field(0, ge=0, description="seed of the choice of them")
    cluster_file: str = Field(
        "cluster.yaml", description="launcher file of Ray, with prices: the nodes to plan for"
    )
    source_mb_per_s: float | None = Field(
        None, gt=0, description="most the source gives all nodes together, MB/s; default: no limit"
    )


class RayConfig(_Section):
    """The Ray cluster to run on."""

    address: str | None = Field(
        None, description="cluster to join; by default RAY_ADDRESS, else a local one is started"
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs of a local cluster")


class Config(_Section):
    """All settings."""

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

    def to_toml(self) -> str:
        """The settings as TOML; fields left at None are absent, URLs without credentials."""
        return redact_text(tomli_w.dumps(self.model_dump(exclude_none=True)))


def load_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Read settings from a TOML file, a nested mapping, and `section.key=value` overrides.

    Later ones win. Values of overrides are read as TOML where they are TOML, else as text.
    Unknown keys, wrong types and unreadable files raise UsageError.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(Path(file).read_text())
        except OSError as error:
            raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: not TOML ({error})") from error
    _merge(values, settings or {})
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or name.count(".") != 1:
            raise UsageError(f"--set {override}: expected section.key=value")
        section, key = name.split(".")
        _merge(values, {section: {key: _parse_value(text)}})
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error, file)) from error


def as_config(config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """The settings a verb was given: a Config, a nested mapping, a TOML file, or the defaults."""
    if isinstance(config, Config):
        return config
    if isinstance(config, str | Path):
        return load_config(config)
    return load_config(settings=config)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError, file: str | Path | None) -> str:
    lines = [
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
    ]
    return f"configuration{f' {file}' if file else ''}: " + "; ".join(lines)

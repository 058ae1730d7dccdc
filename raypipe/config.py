"""Define every setting once, with its type, default, limits and description.

The settings of model, training and tuning are defined in `raypipe.config_training`, those of
alignment in `raypipe.config_align`, those of clusters in `raypipe.config_cluster`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from raypipe.config_align import AlignConfig
from raypipe.config_classify import ClassifyConfig
from raypipe.config_cluster import ClusterConfig
from raypipe.config_training import (
    PRESET_BINS,
    ModelConfig,
    Range,
    Section,
    TrainConfig,
    TuneConfig,
)
from raypipe.redaction import redact_text

__all__ = [
    "PRESET_BINS",
    "AlignConfig",
    "ClassScheme",
    "ClassifyConfig",
    "ClusterConfig",
    "Config",
    "DiscoverConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "ExportConfig",
    "IngestConfig",
    "ModelConfig",
    "PlanConfig",
    "Question",
    "Range",
    "RayConfig",
    "ReportConfig",
    "SimulateConfig",
    "TrainConfig",
    "TuneConfig",
]

ClassScheme = Literal["neighbors", "density"]
FitModelName = Literal["powlaw", "bb", "brems", "plasma"]
Question = Literal[
    "sky",
    "clusters",
    "quantities",
    "time_domain",
    "robustness",
    "few_labels",
    "formulas",
    "traversals",
]


Attempts = Annotated[
    int,
    Field(
        ge=1,
        description="Maximum attempts per HTTP request. Another one follows status 408, 425, 429 "
        "or 5xx, a broken connection, and an answer that is late or damaged.",
    ),
]
BackoffSeconds = Annotated[
    float,
    Field(
        ge=0,
        description="Longest wait before the second attempt, in s. It doubles for each further "
        "attempt, up to 60 s; up to half of it is taken off at random.",
    ),
]
SilenceSeconds = Annotated[
    float,
    Field(gt=0, description="Abandon an attempt if the server sends nothing for this long, in s."),
]
AnswerSeconds = Annotated[
    float,
    Field(gt=0, description="Maximum time from a request to the last byte of its answer, in s."),
]
"""The limits of an HTTP request have the same names in every section that makes requests."""


class SimulateConfig(Section):
    """Simulate a survey."""

    detections: int = Field(4000, ge=1, description="Number of detections to simulate.")
    seed: int = Field(0, ge=0, description="Seed for all random draws.")
    visits: int = Field(
        1, ge=1, description="Observations of each source, by different telescopes."
    )
    counts_min: float = Field(50.0, gt=0, description="Minimum number of expected source counts.")
    counts_max: float = Field(5000.0, gt=0, description="Maximum number of expected source counts.")
    apec_dir: str | None = Field(
        None,
        description="Folder with the tables of AtomDB, apec_v3*_line.fits and apec_v3*_coco.fits, "
        "for sources with plasma. Default: raypipe's own plasma.",
    )


class DiscoverConfig(Section):
    """List the detections of a folder or release in a manifest."""

    release: str | None = Field(
        None,
        pattern=r"^[\w.\-]+$",
        description="Release of a folder that has no survey.json. Default: the folder's name.",
    )
    part_rows: int = Field(
        500,
        ge=1,
        description="Detections per part. Parts are larger if there would be more than 65,536.",
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
    attempts: Attempts = 6
    backoff_s: BackoffSeconds = 1.0
    silence_s: SilenceSeconds = 120.0
    answer_s: AnswerSeconds = 1800.0
    poll_s: float = Field(
        2.0,
        gt=0,
        description="Wait between the first two polls of an asynchronous job, in s. It grows.",
    )
    job_s: float = Field(7200.0, gt=0, description="Maximum duration of an asynchronous job, in s.")


_EARLIER_NAMES = {
    "http_timeout_s": "silence_s",
    "http_deadline_s": "answer_s",
    "retries": "attempts",
}


class IngestConfig(Section):
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
    attempts: Attempts = 6
    backoff_s: BackoffSeconds = 1.0
    silence_s: SilenceSeconds = 60.0
    answer_s: AnswerSeconds = 300.0
    cache_dir: str | None = Field(
        None, description="Local folder that caches fetched files. Default: no cache."
    )
    cache_mb: int = Field(
        4096, ge=1, description="Maximum size of the cache, in MB. The oldest files are removed."
    )
    retry_rejects: Literal["retryable", "all"] = Field(
        "retryable",
        description="Rejects that a rerun tries again. all: also those that no retry is "
        "expected to cure, for instance after the files were repaired.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_earlier_names(cls, values: Any) -> Any:
        """Accept the earlier names of settings, which the config.toml of older models has."""
        if not isinstance(values, Mapping):
            return values
        taken = dict(values)
        if type(taken.get("retries")) is int:
            taken["retries"] += 1
        for earlier, name in _EARLIER_NAMES.items():
            if earlier in taken:
                if name in taken:
                    raise ValueError(f"{earlier} is the earlier name of {name}: set only {name}")
                taken[name] = taken.pop(earlier)
        return taken


class EmbedConfig(Section):
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
        description="Refine each detection by its likelihood, in at most twice this number of "
        "quasi-Newton steps. 0: no refinement.",
    )
    class_scheme: ClassScheme = Field(
        "neighbors",
        description="neighbors: class probabilities from votes of the nearest labeled latents. "
        "density: from distances to labeled members of the mixture components.",
    )
    errors: bool = Field(
        True,
        description="Compute errors of the latents. false: errors are null and latents unrefined.",
    )
    posterior_draws: int = Field(
        64,
        ge=0,
        le=4096,
        description="Draws from the exact posterior of each detection, for the columns z0_mean.., "
        "z0_sd.. and posterior_ess, and for the fluxes. 0: no draws, and no such columns.",
    )
    fluxes: bool = Field(
        True,
        description="Compute fluxes and hardness ratios from the posterior draws. Without "
        "posterior_draws there are none.",
    )
    fits: list[FitModelName] = Field(
        default=[],
        description="Physical models to fit to each spectrum: powlaw (power law), bb (black body), "
        "brems (bremsstrahlung), plasma (thermal plasma), all absorbed. Each takes about as long "
        "as embedding. Default: none.",
    )
    apec_dir: str | None = Field(
        None,
        description="Folder with the tables of AtomDB, apec_v3*_line.fits and apec_v3*_coco.fits, "
        "for the plasma that is fitted; on every machine. Default: raypipe's own plasma.",
    )

    def without_draws(self) -> EmbedConfig:
        """Return these settings for answers that need latents, but no draws and no fluxes."""
        return self.model_copy(update={"posterior_draws": 0})


class ExportConfig(Section):
    """Write the catalog in formats that other tools open."""

    partition_rows: int = Field(250_000, ge=1, description="Maximum rows per HATS partition.")


class EvaluateConfig(Section):
    """Measure the quality of the latents."""

    folds: int = Field(5, ge=2, description="Number of cross-validation folds, grouped by source.")
    mixture_components: int = Field(16, ge=1, description="Components of the Gaussian mixture.")
    neighbors: int = Field(15, ge=1, description="Neighbors used by the kNN classifier.")
    seed: int = Field(0, ge=0, description="Seed for folds and fits.")
    baseline_presets: list[Literal["folded", "paper"]] = Field(
        default=[], description="Presets that raypipe run --train also trains, for comparison."
    )
    questions: list[Question] = Field(
        default=[],
        description="Questions of the study to measure as well; raypipe evaluate --study asks all. "
        "Together they take minutes.",
    )


class ReportConfig(Section):
    """Write the report on a catalog."""

    examples: int = Field(6, ge=1, description="Number of example reconstructions.")
    seed: int = Field(0, ge=0, description="Seed for the choice of examples.")


class PlanConfig(Section):
    """Predict the cost of ingesting a release from a sample."""

    sample: int = Field(200, ge=1, description="Number of detections to ingest as a sample.")
    seed: int = Field(0, ge=0, description="Seed for the choice of the sample.")
    cluster_file: str = Field(
        "cluster.yaml", description="Ray cluster launcher file with node types and prices."
    )
    source_mb_per_s: float | None = Field(
        None,
        gt=0,
        description="Maximum total throughput of the server or disk that holds the files, in MB/s. "
        "Default: no limit.",
    )


class RayConfig(Section):
    """Choose the Ray cluster to run on."""

    address: str | None = Field(
        None, description="Cluster to join. Default: RAY_ADDRESS, otherwise start a local cluster."
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs of the local cluster. Default: all.")


class Config(Section):
    """Hold all settings, in one section per verb or topic."""

    simulate: SimulateConfig = SimulateConfig()
    discover: DiscoverConfig = DiscoverConfig()
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    embed: EmbedConfig = EmbedConfig()
    cluster: ClusterConfig = ClusterConfig()
    export: ExportConfig = ExportConfig()
    classify: ClassifyConfig = ClassifyConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    align: AlignConfig = AlignConfig()
    plan: PlanConfig = PlanConfig()
    ray: RayConfig = RayConfig()

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self._changed().items()]
        return redact_text(f"Config({', '.join(changed) or 'defaults'})")

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from raypipe.display.table import summary_table

        title = "Config: all other settings are defaults" if self._changed() else "Config: defaults"
        return summary_table(title, {name: repr(each) for name, each in self._changed().items()})

    def _changed(self) -> dict[str, object]:
        """Return the settings that are not at their defaults, by section.key."""
        return {
            f"{name}.{key}": value
            for name in type(self).model_fields
            for key, value in getattr(self, name).model_dump(exclude_defaults=True).items()
        }

    def to_toml(self) -> str:
        """Write the settings as TOML, without unset values and without credentials in URLs."""
        return redact_text(tomli_w.dumps(self.model_dump(exclude_none=True)))

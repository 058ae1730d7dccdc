"""Turn X-ray spectra into a latent catalog, from OGIP files through Ray to a report.

Each verb of the command line is a function here, and `read_spectrum`, `load_model` and
`open_catalog` open what goes in and what comes out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raypipe._version import __version__

if TYPE_CHECKING:
    from raypipe.aligning.align import align as align
    from raypipe.aligning.translate import translate as translate
    from raypipe.alignment.opened import open_alignment as open_alignment
    from raypipe.catalog.open import open_catalog as open_catalog
    from raypipe.catalog.open import open_clusters as open_clusters
    from raypipe.catalog.open import open_sources as open_sources
    from raypipe.classifying.classify import classify as classify
    from raypipe.clustering.cluster import cluster as cluster
    from raypipe.config import Config as Config
    from raypipe.config_toml import load_config as load_config
    from raypipe.config_toml import settings as settings
    from raypipe.describing.describe import describe as describe
    from raypipe.discovery.discover import discover as discover
    from raypipe.embedding.embed import embed as embed
    from raypipe.errors import OgipError as OgipError
    from raypipe.errors import RaypipeError as RaypipeError
    from raypipe.errors import UsageError as UsageError
    from raypipe.evaluation.evaluate import evaluate as evaluate
    from raypipe.exploring.explore import explore as explore
    from raypipe.exporting.export import export as export
    from raypipe.ingestion.ingest import ingest as ingest
    from raypipe.model.bundle import load_model as load_model
    from raypipe.ogip import Spectrum as Spectrum
    from raypipe.ogip import read_spectrum as read_spectrum
    from raypipe.pipeline.models import models as models
    from raypipe.pipeline.run import run as run
    from raypipe.pipeline.status import status as status
    from raypipe.planning.plan import plan as plan
    from raypipe.reporting.report import report as report
    from raypipe.reprocessing.compare import compare as compare
    from raypipe.reprocessing.reprocess import reprocess as reprocess
    from raypipe.searching.latent_search import open_search as open_search
    from raypipe.searching.search import search as search
    from raypipe.simulation.simulate import simulate as simulate
    from raypipe.training.train import train as train
    from raypipe.tuning.tune import tune as tune

_HOMES = {
    "Config": "raypipe.config",
    "OgipError": "raypipe.errors",
    "RaypipeError": "raypipe.errors",
    "Spectrum": "raypipe.ogip",
    "UsageError": "raypipe.errors",
    "align": "raypipe.aligning.align",
    "cluster": "raypipe.clustering.cluster",
    "classify": "raypipe.classifying.classify",
    "compare": "raypipe.reprocessing.compare",
    "describe": "raypipe.describing.describe",
    "discover": "raypipe.discovery.discover",
    "embed": "raypipe.embedding.embed",
    "evaluate": "raypipe.evaluation.evaluate",
    "explore": "raypipe.exploring.explore",
    "export": "raypipe.exporting.export",
    "ingest": "raypipe.ingestion.ingest",
    "load_config": "raypipe.config_toml",
    "load_model": "raypipe.model.bundle",
    "models": "raypipe.pipeline.models",
    "open_alignment": "raypipe.alignment.opened",
    "open_catalog": "raypipe.catalog.open",
    "open_clusters": "raypipe.catalog.open",
    "open_search": "raypipe.searching.latent_search",
    "open_sources": "raypipe.catalog.open",
    "plan": "raypipe.planning.plan",
    "read_spectrum": "raypipe.ogip",
    "report": "raypipe.reporting.report",
    "reprocess": "raypipe.reprocessing.reprocess",
    "run": "raypipe.pipeline.run",
    "search": "raypipe.searching.search",
    "settings": "raypipe.config_toml",
    "simulate": "raypipe.simulation.simulate",
    "status": "raypipe.pipeline.status",
    "train": "raypipe.training.train",
    "translate": "raypipe.aligning.translate",
    "tune": "raypipe.tuning.tune",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: Ray and torch take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raypipe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def public_names() -> dict[str, str]:
    """Return the module that defines each public name."""
    return dict(_HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)

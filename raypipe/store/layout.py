"""Name the folders and files of a workspace, and say how a damaged one is made again."""

from __future__ import annotations


def part_name(folder: str, part: int) -> str:
    """Name of a part of a table: the same number from the manifest through to the catalog."""
    return f"{folder}/part-{part:05d}.parquet"


def manifest_folder(release: str) -> str:
    """Folder of a release's manifest."""
    return f"manifest/{release}"


def spectra_folder(release: str) -> str:
    """Folder of a release's spectra."""
    return f"spectra/{release}"


def rejects_folder(release: str) -> str:
    """Folder of a release's rejects."""
    return f"rejects/{release}"


def model_folder(model_id: str) -> str:
    """Folder of a model bundle."""
    return f"models/{model_id}"


def catalog_folder(release: str, model_id: str) -> str:
    """Folder of the latent catalog of a release by a model."""
    return f"catalog/{release}/{model_id}"


def changes_folder(release: str) -> str:
    """Folder of what became of each detection since the release before."""
    return f"changes/{release}"


def comparisons_folder(first: str, second: str) -> str:
    """Folder of what two releases say of the same sources."""
    return f"comparisons/{first}-{second}"


def sources_folder(release: str, model_id: str) -> str:
    """Folder of the tables of sources of a release's catalog by a model."""
    return f"sources/{release}/{model_id}"


def exports_folder(release: str, model_id: str) -> str:
    """Folder of a catalog's exports."""
    return f"exports/{release}/{model_id}"


def evaluation_folder(release: str, model_id: str) -> str:
    """Folder of the metrics of a release's catalog."""
    return f"evaluation/{release}/{model_id}"


def tuning_folder(tune_id: str) -> str:
    """Folder of a search for better settings."""
    return f"tuning/{tune_id}"


def report_name(release: str, model_id: str) -> str:
    """Name of the page that reports on a release's catalog."""
    return f"reports/{release}/{model_id}.html"


OWN_FOLDERS = (
    *("manifest", "spectra", "rejects", "responses", "models", "catalog", "sources", "exports"),
    *("evaluation", "reports", "tuning", "checkpoints", "changes", "comparisons", "locks", "runs"),
)
"""Top folders of a workspace that raypipe's verbs fill; docs/layout.md describes them."""

_MAKE_AGAIN = {
    "manifest": "delete the folder it is in and run raypipe discover again",
    "spectra": "delete it and run raypipe ingest again",
    "rejects": "delete it and run raypipe ingest again",
    "responses": "delete it and the spectra folder of each release that uses it, "
    "and run raypipe ingest again",
    "models": "delete the model's folder and run raypipe train again",
    "metrics.json": "restore it from a copy, or delete the model's folder and train it again",
    "catalog": "delete it and run raypipe embed again",
    "sources": "delete it and run raypipe embed again",
    "evaluation": "delete it and run raypipe evaluate again",
    "comparisons": "delete it and run raypipe compare again",
    "locks": "delete it if no other run is at work on this workspace",
    "tuning": "delete it and run raypipe tune again",
    "changes": "delete it and run raypipe reprocess again",
}
"""By the folder of the workspace that the file is in, or the file of a bundle."""


def mend_of(name: str) -> str:
    """How to make a file of that name within a workspace again, as the end of an error message."""
    otherwise = "delete it and run the verb that makes it again"
    return _MAKE_AGAIN.get(name.partition("/")[0], otherwise)

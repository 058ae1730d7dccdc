"""Name the folders and files of a workspace, and say how to replace a damaged one."""

from __future__ import annotations


def part_name(folder: str, part: int) -> str:
    """Name a part of a table; a part has the same number from the manifest to the catalog."""
    return f"{folder}/part-{part:05d}.parquet"


def manifest_folder(release: str) -> str:
    """Name the folder of a release's manifest."""
    return f"manifest/{release}"


def spectra_folder(release: str) -> str:
    """Name the folder of a release's spectra."""
    return f"spectra/{release}"


def rejects_folder(release: str) -> str:
    """Name the folder of a release's rejects."""
    return f"rejects/{release}"


def model_folder(model_id: str) -> str:
    """Name the folder of a model bundle."""
    return f"models/{model_id}"


def catalog_folder(release: str, model_id: str) -> str:
    """Name the folder of the latent catalog that a model made of a release."""
    return f"catalog/{release}/{model_id}"


def columns_folder(release: str, model_id: str, verb: str) -> str:
    """Name the folder of the columns that a verb has added to a catalog."""
    return f"columns/{release}/{model_id}/{verb}"


def alignment_folder(alignment_id: str) -> str:
    """Name the folder of an alignment's bundle."""
    return f"alignments/{alignment_id}"


def changes_folder(release: str) -> str:
    """Name the folder that records how each detection differs from an earlier release."""
    return f"changes/{release}"


def comparisons_folder(first: str, second: str) -> str:
    """Name the folder of the comparison of two releases."""
    return f"comparisons/{first}-{second}"


def sources_folder(release: str, model_id: str) -> str:
    """Name the folder of the table of sources that a model made of a release."""
    return f"sources/{release}/{model_id}"


def exports_folder(release: str, model_id: str) -> str:
    """Name the folder of a catalog's exports."""
    return f"exports/{release}/{model_id}"


def evaluation_folder(release: str, model_id: str) -> str:
    """Name the folder of the metrics of a catalog."""
    return f"evaluation/{release}/{model_id}"


def tuning_folder(tune_id: str) -> str:
    """Name the folder of a search for better settings."""
    return f"tuning/{tune_id}"


def report_name(release: str, model_id: str) -> str:
    """Name the HTML report on a catalog."""
    return f"reports/{release}/{model_id}.html"


def explorer_name(release: str, model_id: str) -> str:
    """Name the explorer of a catalog, an HTML page."""
    return f"explorer/{release}/{model_id}.html"


OWN_FOLDERS = (
    *("manifest", "spectra", "rejects", "responses", "models", "catalog", "sources", "columns"),
    *("exports", "evaluation", "reports", "explorer", "tuning", "checkpoints", "changes"),
    *("alignments", "comparisons", "locks", "runs"),
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
    "alignments": "delete the alignment's folder and run raypipe align again",
    "columns": "delete its folder and run the verb of that name again",
    "evaluation": "delete it and run raypipe evaluate again",
    "comparisons": "delete it and run raypipe compare again",
    "locks": "delete it if no other run is at work on this workspace",
    "tuning": "delete it and run raypipe tune again",
    "changes": "delete it and run raypipe reprocess again",
}
"""How to replace a damaged file, by its folder in the workspace or its name in a bundle."""


def mend_of(name: str) -> str:
    """Say how to replace a damaged file of a workspace; the text ends an error message."""
    otherwise = "delete it and run the verb that makes it again"
    return _MAKE_AGAIN.get(name.partition("/")[0], otherwise)

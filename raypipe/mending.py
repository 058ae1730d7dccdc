"""How to mend a file of a workspace that is damaged or missing."""

from __future__ import annotations

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

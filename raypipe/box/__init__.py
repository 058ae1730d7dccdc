"""Locate the model in the box: a trained model bundle that is installed with raypipe.

`make model` trains it again. It reads every telescope that raypipe reads, so that a spectrum can be
measured, and a release embedded, without a training. Each version of the model has an id, which the
catalogs that it makes bear; versions of raypipe that carry another model carry another id.
"""

from __future__ import annotations

from pathlib import Path

_FAMILY = "any-telescope"
MODEL_ID = f"{_FAMILY}-1"


def box_folder() -> str:
    """Return the folder of the bundle in this installation."""
    return str(Path(__file__).resolve().parent / MODEL_ID)


def is_from_box(model_id: str) -> bool:
    """Return whether a model is the one in the box, of this version of raypipe or another.

    A trained model has the name of its preset in front of its id, and never that of the family.
    """
    return model_id.startswith(f"{_FAMILY}-")

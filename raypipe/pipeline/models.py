"""List the models that can be used, and the spectra on which each was trained."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from raypipe.box import MODEL_ID, box_folder
from raypipe.errors import RaypipeError
from raypipe.model.choice import default_model, models_of
from raypipe.model.training_record import (
    TrainedOn,
    describe_counts,
    describe_numbers,
    describe_spectra,
    training_record,
)
from raypipe.pipeline.status import require_workspace
from raypipe.store.layout import model_folder
from raypipe.store.workspace import Workspace

BOX = "box"
WORKSPACE = "workspace"


def models(workspace: str | Path | Workspace | None = None) -> list[dict[str, Any]]:
    """Describe the model in the box and the models of a workspace, one mapping for each.

    `place` is "box" or "workspace", `uri` the address of the bundle, and `is_default` tells whether
    verbs use the model if none is named. `trained_on` describes the training spectra
    (`raypipe.model.training_record.TrainedOn`); `raypipe_version` is the version that trained the
    model, `epochs` the length of the training, and `validation_loss` that of the best epoch. What a
    bundle does not record is None. A bundle that cannot be read has the key `problem` instead.
    Raises UsageError where no workspace is, for the address may be misspelled.
    """
    if workspace is None:
        return [_describe(Workspace(box_folder()), MODEL_ID, BOX, is_default=True)]
    opened = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    require_workspace(opened)
    default = default_model(opened).uri
    places = [(box_folder(), MODEL_ID, BOX)] + [
        (opened.absolute_uri(model_folder(model_id)), model_id, WORKSPACE)
        for model_id in models_of(opened)
    ]
    return [
        _describe(Workspace(uri), model_id, place, is_default=uri == default)
        for uri, model_id, place in places
    ]


def models_lines(known: list[dict[str, Any]]) -> list[str]:
    """Format the answer of `models` for people."""
    return [line for each in known for line in _lines(each)]


def _describe(bundle: Workspace, model_id: str, place: str, is_default: bool) -> dict[str, Any]:
    """Describe a bundle by its metrics.json and config.toml; the weights are not read."""
    where = bundle.absolute_uri()
    named = {"model_id": model_id, "place": place, "uri": where, "is_default": is_default}
    try:
        record = training_record(bundle.read_object("metrics.json", {}), where)
        settings = tomllib.loads(bundle.read_bytes("config.toml").decode())
        model = settings["model"]
        made = {"preset": str(model["preset"]), "latents": int(model["latents"])}
    except RaypipeError as error:
        return named | {"problem": str(error)}
    except (LookupError, TypeError, ValueError) as error:
        return named | {"problem": f"{where}: config.toml: not that of a model ({error})"}
    return named | {
        **made,
        "release": record.release,
        "trained_on": record.trained_on.model_dump(mode="json"),
        "raypipe_version": record.version,
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "validation_loss": record.validation_loss,
    }


def _lines(each: dict[str, Any]) -> list[str]:
    place = "in the box" if each["place"] == BOX else "in the workspace"
    head = f"{each['model_id']} ({place}{', the default' if each['is_default'] else ''})"
    if "problem" in each:
        return [head, f"  {each['problem']}"]
    trained_on = TrainedOn.model_validate(each["trained_on"])
    loss = each["validation_loss"]
    return [
        f"{head}: preset {each['preset']}, {each['latents']} latents",
        f"  trained on: {describe_spectra(trained_on, each['release'])}",
        f"  telescopes: {describe_numbers(trained_on.telescopes)}",
        f"  responses: {_or_unknown(trained_on.responses)}",
        f"  counts: {describe_counts(trained_on)}",
        f"  classes: {describe_numbers(trained_on.classes)}",
        f"  trained with: raypipe {_or_unknown(each['raypipe_version'])}, "
        f"{_or_unknown(each['epochs'])} epochs, validation loss "
        + ("unknown" if loss is None else f"{loss:.4f}"),
    ]


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)

"""Choose the model with which a verb works."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raypipe.box import MODEL_ID, box_folder, is_from_box
from raypipe.errors import RaypipeError, UsageError
from raypipe.store.layout import model_folder
from raypipe.store.publication import published_models, require_publication
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
"""File without which a folder is not a model bundle."""
_DESCRIPTION = ("config.toml", "metrics.json", "README.md")
_DEFAULT_PRESET = "folded"
TUNED = "tuned-"
"""Beginning of the ids of models that `align --finetune` made. They are used only if named."""


@dataclass(frozen=True)
class Choice:
    """Hold the model that a workspace uses by default: its id, its URI, and why it is the one."""

    model_id: str
    uri: str
    reason: str


def models_of(workspace: Workspace) -> list[str]:
    """Return the ids of the complete models of a workspace, sorted."""
    return [name for name in workspace.folders("models") if _is_whole(workspace, name)]


def default_model(workspace: Workspace) -> Choice:
    """Choose the model of a workspace for which none is named.

    A model of the workspace wins: one that was trained, the newest of preset `folded` if there is
    one; else the newest copy of a model in the box, so that a workspace stays with the model that
    made its catalogs when a later version of raypipe carries another. A workspace without models
    uses the model in the box. A model tuned to a view is never the default.
    """
    found = {
        name: f"{model_folder(name)}/{WEIGHTS}"
        for name in models_of(workspace)
        if not name.startswith(TUNED)
    }
    own = {name: file for name, file in found.items() if not is_from_box(name)}
    if not found:
        return Choice(MODEL_ID, box_folder(), "it ships with raypipe; the workspace has no model")
    model_id = _newest(workspace, own or found)
    reason = (
        f"it is the newest model of the workspace, among those of preset {_DEFAULT_PRESET}"
        if model_id.startswith(_DEFAULT_PRESET)
        else "it is the newest model of the workspace"
        if own
        else "it shipped with raypipe, and the workspace has used it before"
    )
    return Choice(model_id, workspace.absolute_uri(model_folder(model_id)), reason)


def resolve_model(workspace: Workspace, model: str | None) -> str:
    """Return the URI of a model bundle, given by its id in the workspace or by its path.

    Without `model`, it is the one that `default_model` chooses; the log says which and why. The id
    of the model in the box names it also where the workspace has no copy. Raises UsageError if
    there is no such model.
    """
    if model is None:
        choice = default_model(workspace)
        log.info("using model %s: %s", choice.model_id, choice.reason)
        return choice.uri
    if "/" not in model and _is_whole(workspace, model):
        return workspace.absolute_uri(model_folder(model))
    if Workspace(model).exists(WEIGHTS):
        return Workspace(model).absolute_uri()
    if model == MODEL_ID:
        return box_folder()
    known = ", ".join([*workspace.folders("models"), f"{MODEL_ID} in the box"])
    raise UsageError(f"{model}: neither a model of {workspace.uri} ({known}) nor a bundle's folder")


def adopt_model(workspace: Workspace, uri: str) -> str:
    """Copy the bundle at `uri` into the workspace, unless it is there, and return its id.

    A workspace keeps the models that made its catalogs: machines of a cluster read them there, and
    so do other versions of raypipe later. Raises RaypipeError if the bundle is incomplete, or if
    the workspace has another model of that id.
    """
    from raypipe.model.bundle import load_model  # imports torch

    bundle = Workspace(uri)
    model_id = load_model(uri).model_id
    folder = model_folder(model_id)
    weights = bundle.read_bytes(WEIGHTS)
    if _is_whole(workspace, model_id):
        if workspace.read_bytes(f"{folder}/{WEIGHTS}") != weights:
            raise RaypipeError(
                f"{uri}: {workspace.absolute_uri(folder)} is another model of the same id; "
                "use another workspace"
            )
        return model_id
    for name in _DESCRIPTION:
        workspace.write_bytes(f"{folder}/{name}", bundle.read_bytes(name))
    workspace.write_bytes(f"{folder}/{WEIGHTS}", weights)
    return model_id


def choose_model(workspace: Workspace, release: str, model: str | None) -> str:
    """Return the id of the model whose catalog of a release is used.

    `model` is an id or a bundle's path; without it, the newest catalog of preset `folded` is used,
    by a trained model or one in the box, else the newest of all. Raises UsageError if there is no
    such catalog.
    """
    known = published_models(workspace, release)
    if model is not None:
        model_id = _id_of(model)
        if model_id not in known:
            raise UsageError(
                f"{workspace.uri} {release} has no catalog by {model_id}; "
                f"it has {', '.join(known) or 'none'}"
            )
        return model_id
    if not known:
        raise UsageError(f"{workspace.uri} {release} has no catalog: run raypipe embed first")
    newest = {name: require_publication(workspace, release, name).name for name in known}
    return _newest(workspace, newest)


def _id_of(model: str) -> str:
    """Return the id of a model that is given by its id or by the path of its bundle."""
    if "/" not in model or not Workspace(model).exists(WEIGHTS):
        return model
    from raypipe.model.bundle import load_model  # imports torch

    return load_model(model).model_id


def _is_whole(workspace: Workspace, model_id: str) -> bool:
    return workspace.exists(f"{model_folder(model_id)}/{WEIGHTS}")


def _newest(workspace: Workspace, files: dict[str, str]) -> str:
    """Return the id whose file is newest, among those of the default preset if there are any.

    Models in the box have this preset.
    """

    def rank(model_id: str) -> tuple[bool, float]:
        is_default = model_id.startswith(_DEFAULT_PRESET) or is_from_box(model_id)
        return is_default, workspace.modified(files[model_id])

    return max(sorted(files), key=rank)

"""Choose the model with which a verb works."""

from __future__ import annotations

from raypipe.errors import RaypipeError, UsageError
from raypipe.model.bundle import load_model
from raypipe.store.layout import model_folder
from raypipe.store.publication import published_models, require_publication
from raypipe.store.workspace import Workspace

_WEIGHTS = "model.safetensors"
_DESCRIPTION = ("config.toml", "metrics.json", "README.md")
_DEFAULT_PRESET = "folded"


def resolve_model(workspace: Workspace, model: str | None) -> str:
    """Return the URI of a model bundle, given by its id in the workspace or by its path.

    Without `model`, it is the newest `folded` model of the workspace, else the newest of all.
    Raises UsageError if there is none.
    """
    if model is None:
        found = {
            name: f"{model_folder(name)}/{_WEIGHTS}"
            for name in workspace.folders("models")
            if _is_whole(workspace, name)
        }
        if not found:
            raise UsageError(f"{workspace.uri} has no model: run raypipe train, or give --model")
        return workspace.absolute_uri(model_folder(_newest(workspace, found)))
    if "/" not in model and _is_whole(workspace, model):
        return workspace.absolute_uri(model_folder(model))
    if Workspace(model).exists(_WEIGHTS):
        return Workspace(model).absolute_uri()
    known = ", ".join(workspace.folders("models")) or "none"
    raise UsageError(f"{model}: neither a model of {workspace.uri} ({known}) nor a bundle's folder")


def adopt_model(workspace: Workspace, uri: str) -> str:
    """Copy the bundle at `uri` into the workspace, unless it is there, and return its id.

    A workspace keeps the models that made its catalogs. Raises RaypipeError if the bundle is
    incomplete, or if the workspace has another model of that id.
    """
    bundle = Workspace(uri)
    model_id = load_model(uri).model_id
    folder = model_folder(model_id)
    weights = bundle.read_bytes(_WEIGHTS)
    if _is_whole(workspace, model_id):
        if workspace.read_bytes(f"{folder}/{_WEIGHTS}") != weights:
            raise RaypipeError(
                f"{uri}: {workspace.absolute_uri(folder)} is another model of the same id; "
                "use another workspace"
            )
        return model_id
    for name in _DESCRIPTION:
        workspace.write_bytes(f"{folder}/{name}", bundle.read_bytes(name))
    workspace.write_bytes(f"{folder}/{_WEIGHTS}", weights)
    return model_id


def choose_model(workspace: Workspace, release: str, model: str | None) -> str:
    """Return the id of the model whose catalog of a release is used.

    `model` is an id or a bundle's path; without it, the newest catalog of preset `folded` is used,
    else the newest of all. Raises UsageError if there is no such catalog.
    """
    known = published_models(workspace, release)
    if model is not None:
        is_bundle = "/" in model and Workspace(model).exists(_WEIGHTS)
        model_id = load_model(model).model_id if is_bundle else model
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


def _is_whole(workspace: Workspace, model_id: str) -> bool:
    return workspace.exists(f"{model_folder(model_id)}/{_WEIGHTS}")


def _newest(workspace: Workspace, files: dict[str, str]) -> str:
    """Return the id whose file is newest, among those of the default preset if there are any."""

    def rank(model_id: str) -> tuple[bool, float]:
        return model_id.startswith(_DEFAULT_PRESET), workspace.modified(files[model_id])

    return max(sorted(files), key=rank)

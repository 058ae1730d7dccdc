"""What is wrong with a Kubernetes manifest, told as its API server would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from kubernetes.client import Configuration, models

KUBERAY = Path(__file__).resolve().parents[1] / "data" / "kuberay-v1.yaml"
KINDS = {
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("batch/v1", "CronJob"): "V1CronJob",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
}
_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool, "datetime": str}
_SETTINGS = Configuration()
_QUANTITIES = {"requests", "limits"}
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|[KMGTP]i?)?")


def problems(manifest: Any) -> list[str]:
    """Every problem of one document, each with where it is; [] for one that would be taken."""
    if not isinstance(manifest, dict):
        return ["no object"]
    key = manifest.get("apiVersion", ""), manifest.get("kind", "")
    if key[0] == "ray.io/v1":
        found = _validator().iter_errors(manifest)
        return [f"{error.json_path}: {error.message}" for error in found]
    if key not in KINDS:
        return [f"{key}: not a kind that is known here"]
    return list(_model_problems(manifest, KINDS[key], "$"))


@cache
def _validator() -> Draft202012Validator:
    def look_up(_: Any, kind: str, value: Any, __: Any) -> Iterator[ValidationError]:
        for problem in _model_problems(value, kind, ""):
            yield ValidationError(problem)

    checker = extend(Draft202012Validator, {"kubernetes": look_up})
    return checker(yaml.safe_load(KUBERAY.read_text()))


def _model_problems(value: Any, kind: str, where: str) -> Iterator[str]:
    """Problems of a value that should be of a type of Kubernetes' Python client."""
    if container := re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind):
        yield from _container_problems(value, container[1], container[2], where)
    elif kind in _PLAIN:
        right = isinstance(value, _PLAIN[kind]) and (kind == "bool") == isinstance(value, bool)
        if not right:
            yield f"{where}: {value!r} is no {kind}"
    elif kind != "object":
        yield from _object_problems(value, getattr(models, kind), where)


def _container_problems(value: Any, container: str, inner: str, where: str) -> Iterator[str]:
    if not isinstance(value, list if container == "list" else dict):
        yield f"{where}: {value!r} is no {container}"
        return
    for key, item in enumerate(value) if isinstance(value, list) else value.items():
        yield from _model_problems(item, inner, f"{where}.{key}")
        if where.rsplit(".", 1)[-1] in _QUANTITIES and not _QUANTITY.fullmatch(str(item)):
            yield f"{where}.{key}: {item!r} is no quantity"


def _object_problems(value: Any, model: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no {model.__name__}"
        return
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in attributes:
            yield f"{where}.{key}: {model.__name__} has no such field"
        else:
            yield from _model_problems(item, model.openapi_types[attributes[key]], f"{where}.{key}")
    given = {attributes[key]: item for key, item in value.items() if key in attributes}
    try:
        model(local_vars_configuration=_SETTINGS, **given)  # refuses what is required and missing
    except ValueError as error:
        yield f"{where}: {error}"

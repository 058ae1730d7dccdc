"""The container file and the manifests of deploy/ are what their readers would take."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.cli import build_parser
from raypipe.config_toml import load_config
from tests.unit.kubernetes_schema import problems

ROOT = Path(__file__).resolve().parents[2]
RAYJOB = ROOT / "deploy" / "kuberay-rayjob.yaml"
CRONJOB = ROOT / "deploy" / "kuberay-reprocess-cronjob.yaml"
Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    """All manifests of a file, and those that a ConfigMap in it holds."""
    found: list[Manifest] = list(yaml.safe_load_all(path.read_text()))
    held = [text for each in found if each["kind"] == "ConfigMap" for text in each["data"].values()]
    return found + [yaml.safe_load(text) for text in held]


def of_kind(path: Path, kind: str) -> Manifest:
    (found,) = (each for each in documents(path) if each["kind"] == kind)
    return found


def pods(manifest: Manifest) -> list[Manifest]:
    """Specifications of all pods that a RayJob makes."""
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def constraint(package: str) -> str:
    found = re.search(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    assert found
    return found[1]


@pytest.mark.parametrize("path", [RAYJOB, CRONJOB], ids=lambda path: path.name)
def test_manifests_are_of_their_schemas(path: Path) -> None:
    for manifest in documents(path):
        assert problems(manifest) == []


def _rename(manifest: Manifest, path: str, old: str, new: str) -> None:
    place = _at(manifest, path)
    place[new] = place.pop(old)


def _at(manifest: Manifest, path: str) -> Any:
    place: Any = manifest
    for step in path.split("."):
        place = place[int(step) if step.isdigit() else step]
    return place


HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"
BREAKS: dict[str, Callable[[Manifest], object]] = {
    "shutdownAfterJobFinishes": lambda m: m["spec"].update(shutdownAfterJobFinishes="yes"),
    "shutDownAfterJobFinishes": lambda m: _rename(
        m, "spec", "shutdownAfterJobFinishes", "shutDownAfterJobFinishes"
    ),
    "minReplicas": lambda m: _at(m, WORKER).update(minReplicas="0"),
    "maxReplica": lambda m: _rename(m, WORKER, "maxReplicas", "maxReplica"),
    "num-cpus": lambda m: _at(m, HEAD)["rayStartParams"].update({"num-cpus": 0}),
    "headGroupSpec": lambda m: m["spec"]["rayClusterSpec"].pop("headGroupSpec"),
    "idleTimeout": lambda m: _at(m, "spec.rayClusterSpec.autoscalerOptions").update(idleTimeout=1),
    "upscalingMode": lambda m: _at(m, "spec.rayClusterSpec.autoscalerOptions").update(
        upscalingMode="Fast"
    ),
    "mode": lambda m: _at(m, "spec.rayClusterSpec.authOptions").update(mode="tokens"),
    "serviceaccountname": lambda m: _rename(
        m, f"{HEAD}.template.spec", "serviceAccountName", "serviceaccountname"
    ),
    "runAsUser": lambda m: _at(m, f"{HEAD}.template.spec.securityContext").update(runAsUser="ray"),
    "limits.memory": lambda m: _at(
        m, f"{WORKER}.template.spec.containers.0.resources.limits"
    ).update(memory="28 GB"),
    "containers": lambda m: _at(m, f"{WORKER}.template.spec").pop("containers"),
    "containerPort": lambda m: _at(m, f"{HEAD}.template.spec.containers.0.ports.0").update(
        containerPort="6379"
    ),
}


@pytest.mark.parametrize("said", BREAKS)
def test_broken_rayjobs_are_refused(said: str) -> None:
    manifest = copy.deepcopy(of_kind(RAYJOB, "RayJob"))
    BREAKS[said](manifest)
    found = problems(manifest)
    assert len(found) >= 1
    assert any(said.rsplit(".", 1)[-1] in problem for problem in found)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("spec", "concurrencypolicy", "Forbid"),
        ("spec", "schedule", 5),
        ("spec.jobTemplate.spec", "backoffLimit", "0"),
        ("spec.jobTemplate.spec.template.spec.initContainers.0", "arg", ["delete"]),
        ("spec.jobTemplate.spec.template.spec.volumes.0", "configMap", "raypipe-reprocess"),
    ],
)
def test_broken_cronjobs_are_refused(path: str, key: str, value: Any) -> None:
    manifest = of_kind(CRONJOB, "CronJob")
    _at(manifest, path)[key] = value
    assert any(key in problem for problem in problems(manifest))


@pytest.mark.parametrize("path", [RAYJOB, CRONJOB], ids=lambda path: path.name)
def test_clusters_come_from_zero_and_go(path: Path) -> None:
    job = of_kind(path, "RayJob")["spec"]
    cluster = job["rayClusterSpec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    with_gpus = {
        group["groupName"]: "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
        for group, pod in zip(cluster["workerGroupSpecs"], pods({"spec": job})[1:], strict=True)
    }
    assert with_gpus == ({"cpu": False, "gpu": True} if path == RAYJOB else {"cpu": False})


@pytest.mark.parametrize("path", [RAYJOB, CRONJOB], ids=lambda path: path.name)
def test_pods_have_bounds_no_root_and_no_secrets(path: Path) -> None:
    job = of_kind(path, "RayJob")
    specifications = pods(job)
    if path == CRONJOB:
        cron = of_kind(path, "CronJob")["spec"]
        assert cron["concurrencyPolicy"] == "Forbid"
        specifications.append(cron["jobTemplate"]["spec"]["template"]["spec"])
    for pod in specifications:
        assert pod["serviceAccountName"]
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod.get("initContainers", []) + pod["containers"]:
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not container.get("env")
            assert re.search(r":v?\d+\.\d+\.\d+", container["image"]), "a pinned version"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert not re.search(r"AKIA|secret_?access|password|kind: Secret", path.read_text(), re.I)


def test_the_schedule_may_do_what_it_does_and_no_more() -> None:
    role = of_kind(CRONJOB, "Role")
    binding = of_kind(CRONJOB, "RoleBinding")
    pod = of_kind(CRONJOB, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (rule,) = role["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    done = {container["args"][0] for container in pod["initContainers"] + pod["containers"]}
    needed = {"delete": {"get", "delete"}, "create": {"create"}, "wait": {"get", "list", "watch"}}
    assert set(rule["verbs"]) == set().union(*(needed[verb] for verb in done))
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == pod["serviceAccountName"]
    named = {argument for each in pod["initContainers"][2:] for argument in each["args"]}
    assert f"rayjob/{of_kind(CRONJOB, 'RayJob')['metadata']['name']}" in named


@pytest.mark.parametrize("path", [RAYJOB, CRONJOB], ids=lambda path: path.name)
def test_entrypoints_are_command_lines_that_raypipe_takes(path: Path) -> None:
    job = of_kind(path, "RayJob")["spec"]
    python, script, *arguments = shlex.split(job["entrypoint"])
    assert python == "python"
    folder = "/home/ray/raypipe/"
    assert (ROOT / script.removeprefix(folder)).is_file()
    options = build_parser().parse_args([Path(script).stem, *arguments])
    config = load_config(None, options.settings)
    assert set(yaml.safe_load(job["runtimeEnvYAML"])) == {"env_vars"}
    if path == RAYJOB:
        assert config.train.use_gpu is True
        gpus = job["rayClusterSpec"]["workerGroupSpecs"][1]["maxReplicas"]
        assert config.train.workers[0] <= gpus
    assert constraint("ray") == job["rayClusterSpec"]["rayVersion"]
    assert f"WORKDIR {folder[:-1]}" in (ROOT / "deploy" / "Containerfile").read_text()


def test_the_container_file() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    arguments = dict(rest.split("=", 1) for step, rest in steps if step == "ARG")
    (base,) = (rest for step, rest in steps if step == "FROM")
    image = base.replace("${BASE}", arguments["BASE"])
    assert image == f"rayproject/ray:{constraint('ray')}-py311-cpu"
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
    users = [rest for step, rest in steps if step == "USER"]
    assert users[-1].isdecimal(), "Kubernetes tells from a number alone that it is not root"
    assert int(users[-1]) > 0
    sources = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in sources)
    admitted = re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text())
    assert sorted(admitted) == sorted(sources)
    (install,) = (rest for step, rest in steps if step == "RUN" and "pip install" in rest)
    assert "-c constraints.txt" in install
    assert not any(re.search(r"(?i)token|secret|password|aws_", rest) for _, rest in steps)

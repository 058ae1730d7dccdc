"""constraints.txt pins all there is, and the audit of it can fail."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES}
OF_THE_BUILD = re.compile(r"nvidia-|cuda-|triton$|setuptools$|pip$|raypipe$")
"""Not pinned: what comes with torch's CUDA build, what every environment brings itself."""


def test_every_line_is_one_version() -> None:
    assert all(re.fullmatch(r"[\w.\-]+==[\w.+!]+", line) for line in LINES)
    assert len(PINS) == len(LINES)
    assert sorted(LINES, key=lambda line: line.split("==")[0].lower()) == LINES


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def test_pins_are_what_pyproject_asks_for() -> None:
    for wanted in declared():
        name = canonicalize_name(wanted.name)
        if name != "raypipe":
            assert wanted.specifier.contains(PINS[name], prereleases=True), wanted


def test_what_dependencies_depend_on_is_pinned() -> None:
    waiting, seen = declared(), set[tuple[str, str]]()
    missing = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if OF_THE_BUILD.match(name):
            continue
        if name not in PINS:
            missing.add(name)
        for extra in {"", *wanted.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [each for each in _depends_on(name) if _applies(each, extra)]
    assert not missing
    assert len(seen) > 100


def _depends_on(name: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:  # an extra that is not installed here
        return []


def _applies(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


@pytest.fixture(scope="module")
def audit() -> Any:
    """The script of continuous integration, as a module."""
    place = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
FLAWED = {
    "name": "requests",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.32"], "aliases": ["CVE-1"]}],
}
UNKNOWN = {"name": "ray", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_vulnerability_fails_the_audit(audit: Any) -> None:
    code, lines = audit.judge({"dependencies": [CLEAN, FLAWED, UNKNOWN]}, {})
    assert code == 1
    assert "requests 2.0: PYSEC-1 CVE-1: mended by 2.32" in lines
    assert "not audited: ray" in lines


def test_only_a_reason_makes_it_pass(audit: Any) -> None:
    ignored = audit.read_ignored("# of old\nCVE-1 only servers are concerned\n")
    code, lines = audit.judge({"dependencies": [CLEAN, FLAWED]}, ignored)
    assert code == 0
    assert any("ignored, only servers are concerned" in line for line in lines)
    with pytest.raises(ValueError, match="CVE-1 is ignored without a reason"):
        audit.read_ignored("CVE-1\n")


def test_an_audit_that_could_not_be_says_so(audit: Any) -> None:
    assert audit.judge({"dependencies": [UNKNOWN]}, {}) == (
        0,
        ["not audited: the service knows none of these packages"],
    )


def test_what_is_ignored_has_reasons(audit: Any) -> None:
    audit.read_ignored(audit.IGNORED.read_text())

"""Fail where a version of constraints.txt has a known vulnerability.

Asks pip-audit, which asks PyPI. Where that is not reached, or knows none of the packages, as
mirrors do not, nothing can be said: that is told, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IGNORED = ROOT / ".ci" / "audit-ignored.txt"
COMMAND = ["-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip"]
QUIET = ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]


def read_ignored(text: str) -> dict[str, str]:
    """Ids of vulnerabilities and why they are ignored; ValueError for one without a reason."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    entries = [line for line in lines if not line[0].startswith("#")]
    for entry in entries:
        if len(entry) < 2:
            raise ValueError(f"{IGNORED.name}: {entry[0]} is ignored without a reason")
    return dict(map(tuple, entries))


def judge(report: dict[str, Any], ignored: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines to print for a report of pip-audit."""
    packages = report["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return 0, ["not audited: the service knows none of these packages"]
    lines, failed = [], False
    for package in packages:
        for found in package.get("vulns", []):
            names = [found["id"], *found.get("aliases", [])]
            reason = next((ignored[name] for name in names if name in ignored), None)
            failed = failed or reason is None
            mend = ", ".join(found["fix_versions"]) or "nothing yet"
            what = f"ignored, {reason}" if reason else f"mended by {mend}"
            lines.append(f"{package['name']} {package['version']}: {' '.join(names)}: {what}")
    if unknown:
        lines.append(f"not audited: {', '.join(unknown)}")
    lines.append(f"{len(packages) - len(unknown)} packages audited")
    return int(failed), lines


def main() -> int:
    """Run pip-audit and print what came of it."""
    run = subprocess.run(
        [sys.executable, *COMMAND, *QUIET], cwd=ROOT, capture_output=True, text=True
    )
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        last = (run.stderr.strip().splitlines() or ["no answer"])[-1]
        code, lines = 0, [f"not audited: the service is not reached ({last})"]
    else:
        code, lines = judge(report, read_ignored(IGNORED.read_text()))
    print("\n".join(f"audit: {line}" for line in lines))
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The tutorial runs: every block of Python in order, with the output that the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
REAL = "acisf01575_001N001_r0085"
"""Name of the real spectrum: blocks that contain it need the file."""

_FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d.,:e-]*")


class Block(NamedTuple):
    """Code of the page, and the output shown below it, None where none is."""

    line: int
    code: str
    shown: str | None


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page in order, each with the text block that follows it."""
    found: list[Block] = []
    for fence in _FENCE.finditer(page):
        kind, content = fence.groups()
        if kind == "python":
            found.append(Block(page.count("\n", 0, fence.start()) + 2, content, None))
        else:
            found[-1] = found[-1]._replace(shown=content)
    return found


def words_of(text: str) -> list[str]:
    """Return the words of an output; numbers, which depend on the processor, are replaced."""
    return _NUMBER.sub("#", text).split()


def run_block(block: Block, names: dict[str, Any]) -> str:
    """Execute a block as part of the page, and return what it prints."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.code, str(PAGE), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def copy_real_spectrum(folder: Path, request: pytest.FixtureRequest) -> bool:
    """Copy the real spectrum of the page to a folder; return False where there is none."""
    try:
        products = request.getfixturevalue("shared_data") / "csc"
    except pytest.skip.Exception:
        return False
    for path in products.glob("acisf01575*"):
        shutil.copy(path, folder)
    return True


def test_words_are_compared_and_numbers_are_not() -> None:
    assert words_of("sim:1.0.1  -0.25 counts") == words_of("sim:22.0.1 3.5\n counts")
    assert words_of("1 counts") != words_of("1 photons")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_tutorial_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    blocks = blocks_of(PAGE.read_text())
    assert len(blocks) >= 8
    has_real_spectrum = copy_real_spectrum(tmp_path, request)
    names: dict[str, Any] = {}
    for block in blocks:
        if REAL in block.code and not has_real_spectrum:
            continue
        printed = run_block(block, names)
        if block.shown is not None:
            assert words_of(printed) == words_of(block.shown), printed
    for picture in ["fit.png", "map.png"] + ["real.png"] * has_real_spectrum:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")

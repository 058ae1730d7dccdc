"""Choose the file of each plot, and write it as PNG, SVG or a page of HTML."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.describing.description import Description
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import stem

log = logging.getLogger(__name__)

FORMATS = (".png", ".svg", ".html")
PLACEHOLDER = "{file}"
"""Part of a name that stands for the name of the spectrum's file, without folder and suffixes."""

_DPI = 160


@dataclass(frozen=True)
class PlotFiles:
    """Hold the file of each spectrum's plot; no files where no plot is wanted."""

    files: tuple[Path, ...]

    @classmethod
    def of(cls, plot: str | os.PathLike[str] | None, paths: Sequence[str]) -> PlotFiles:
        """Name a file per spectrum.

        `plot` is a file for one spectrum; for several, it is a folder, which gets PNG files, or a
        name with `PLACEHOLDER`. Spectra of the same name get numbers. Raises UsageError for other
        names, and for formats other than `FORMATS`.
        """
        if plot is None:
            return cls(())
        name = os.fspath(plot)
        if name.endswith("/") or Path(name).is_dir():
            name = str(Path(name) / f"{PLACEHOLDER}.png")
        if Path(name).suffix.lower() not in FORMATS:
            raise UsageError(
                f"--plot {plot}: expected a name that ends in {', '.join(FORMATS)}, or a folder "
                "that exists or ends in /"
            )
        if PLACEHOLDER not in name:
            if len(paths) > 1:
                raise UsageError(
                    f"--plot {plot}: {len(paths)} spectra need a file each: give a folder that "
                    f"exists or ends in /, or a name with {PLACEHOLDER}"
                )
            return cls((Path(name),))
        return cls(tuple(Path(name.replace(PLACEHOLDER, each)) for each in _distinct(paths)))

    def write(self, place: int, description: Description) -> None:
        """Draw the description of the spectrum at this place, if plots are wanted.

        Raises RaypipeError where the file cannot be written.
        """
        if not self.files:
            return
        file = self.files[place]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _write(description, file)
        except OSError as error:
            raise RaypipeError(f"{file}: cannot be written ({error.strerror})") from error
        log.info("%s: drawn into %s", description.file, file)


def _write(description: Description, file: Path) -> None:
    if file.suffix.lower() == ".html":
        from raypipe.describing.page import description_page

        file.write_text(description_page(description), encoding="utf-8")
        return
    figure = description.plot()
    figure.savefig(file, dpi=_DPI)


def _distinct(paths: Sequence[str]) -> list[str]:
    """Return the names of files without folders and suffixes, numbered where they repeat."""
    names: list[str] = []
    for path in paths:
        plain = stem(path) or "spectrum"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names

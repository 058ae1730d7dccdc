"""Run the verb `translate`: predict the spectrum of a row of an aligned table."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe.aligning.translated import Translated
from raypipe.alignment.opened import OpenedAlignment, open_alignment
from raypipe.config import Config
from raypipe.errors import RaypipeError, UsageError
from raypipe.ogip import read_spectrum
from raypipe.spectra.batch import SpectraBatch
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

PLOTS = (".png", ".svg")
_DPI = 160


@verb
def translate(
    call: Call,
    workspace: str | os.PathLike[str] | Workspace,
    *,
    view: str,
    detection: str | None = None,
    pha: str | os.PathLike[str] | None = None,
    arf: str | os.PathLike[str] | None = None,
    rmf: str | os.PathLike[str] | None = None,
    background: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> Translated:
    """Predict the spectrum of a source from its row in the table aligned with a catalog.

    `view` is a row of that table, by its name, detection_id or #N, or values of its columns as
    JSON. The answer has the photon flux density with a band of 68%, in units of the photon flux in
    0.5-7 keV, because the row does not say how bright a detection is. With `detection`, a
    detection_id of the workspace, or `pha`, a file whose ARF and RMF are beside it or given, the
    answer also has the counts that are expected from the predicted spectrum in that instrument and
    exposure, at the brightness of that detection. `plot` names a .png or .svg. Raises UsageError
    for a row or values that do not fit, and if no view is aligned with the catalog.
    """
    if detection is not None and pha is not None:
        raise UsageError("give --detection or --pha, not both")
    if pha is None and any(file is not None for file in (arf, rmf, background)):
        raise UsageError("--arf, --rmf and --background belong to --pha")
    if plot is not None and Path(plot).suffix.lower() not in PLOTS:
        raise UsageError(f"--plot {plot}: expected a name that ends in {' or '.join(PLOTS)}")
    opened = open_alignment(call.workspace, release=release, model=model)
    own = opened.own_model()
    counts, name = None, ""
    if detection is not None:
        counts, name = opened.predict_counts(view, opened.detection(detection), own), detection
    elif pha is not None:
        given = {"arf": arf, "rmf": rmf, "background": background}
        spectrum = read_spectrum(pha, **{k: v for k, v in given.items() if v is not None})
        batch = SpectraBatch.from_spectra([spectrum])
        counts, name = opened.predict_counts(view, batch, own), str(pha)
    found = Translated(
        query=_described(opened, view),
        alignment_id=opened.alignment.about.alignment_id,
        flux=opened.predict_spectrum(view, own),
        counts=counts,
        detection=name,
    )
    if plot is not None:
        _draw(found, Path(plot))
    return found


def _described(opened: OpenedAlignment, view: str) -> dict[str, Any]:
    """Describe the view for the answer: by its values, or by row, name and summary."""
    if view.lstrip().startswith(("[", "{")):
        return {"view": view}
    row = opened.find_row(view)
    return {name: opened.rows[name][row].as_py() for name in opened.rows.column_names}


def _draw(found: Translated, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        found.plot().savefig(file, dpi=_DPI)
    except OSError as error:
        raise RaypipeError(f"{file}: cannot be written ({error.strerror})") from error
    log.info("translate: drawn into %s", file)

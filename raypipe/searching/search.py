"""Run the verb `search`: find look-alikes of a detection, source or spectrum, or the strangest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.searching.latent_search import open_search
from raypipe.searching.query import SpectrumFiles
from raypipe.searching.view_search import open_view_search
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb


@verb
def search(
    call: Call,
    workspace: str | os.PathLike[str] | Workspace,
    *,
    detection: str | None = None,
    name: str | None = None,
    pha: str | os.PathLike[str] | None = None,
    arf: str | os.PathLike[str] | None = None,
    rmf: str | os.PathLike[str] | None = None,
    background: str | os.PathLike[str] | None = None,
    k: int = 10,
    strangest: bool = False,
    like_view: str | None = None,
    text: str | None = None,
    to_view: bool = False,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> pd.DataFrame:
    """Find the k detections of a catalog most similar to one query, or its strangest detections.

    Give exactly one query, or UsageError is raised. `detection` is a detection_id, `name` the name
    of a source, and `pha` a file whose ARF and RMF are beside it or given. `strangest` lists the
    detections that are farthest from the population or fitted worst. After `raypipe align`,
    `like_view` is a row of the aligned table or values of its columns as JSON, and `text` a text
    for the encoder of the alignment; with `to_view` the answer to a detection, name or spectrum is
    rows of that table instead of detections. `LatentSearch` in
    `raypipe.searching.latent_search` describes the columns of the answer. For many queries, open
    the catalog once with `raypipe.open_search`.
    """
    asked = [each is not None for each in (detection, name, pha, like_view, text)]
    if sum([*asked, strangest]) != 1:
        raise UsageError(
            "give exactly one of --detection, --name, --pha, --strangest, --like-view and --text"
        )
    if to_view and not any(asked[:3]):
        raise UsageError("--to-view belongs to --detection, --name or --pha")
    if pha is None and any(file is not None for file in (arf, rmf, background)):
        raise UsageError("--arf, --rmf and --background belong to --pha")
    files = SpectrumFiles(pha, arf, rmf, background) if pha is not None else None
    spectrum = files.read() if files is not None else None
    opened = open_search(call.workspace, release=release, model=model, config=call.config)
    if like_view is not None or text is not None or to_view:
        across = open_view_search(opened)
        if like_view is not None:
            return across.like_view(like_view, k)
        if text is not None:
            return across.like_text(text, k)
        if spectrum is not None:
            return across.views_like_spectrum(spectrum, k)
        if detection is not None:
            return across.views_like_detection(detection, k)
        return across.views_like_source(str(name), k)
    if spectrum is not None:
        return opened.like_spectrum(spectrum, k)
    if detection is not None:
        return opened.like_detection(detection, k)
    if name is not None:
        return opened.like_source(name, k)
    return opened.strangest(k)

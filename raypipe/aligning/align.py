"""Run the verb `align`: learn a space that spectra share with a second view of their sources."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe._version import __version__
from raypipe.aligning.added import shared_table, view_table
from raypipe.aligning.calibrate import calibrate
from raypipe.aligning.data import AlignData, Division, divide, join_view, make_pairs
from raypipe.aligning.finetune import PREFIX, Tuning
from raypipe.aligning.fit import Fitted
from raypipe.aligning.measure import (
    gallery_rows,
    measure_retrieval,
    measure_translation,
    similarities,
)
from raypipe.aligning.pairs import Pairs
from raypipe.aligning.retrieval import judge
from raypipe.aligning.workers import fit_pairs
from raypipe.alignment.bundle import (
    FORMAT,
    WEIGHTS,
    About,
    Alignment,
    load_alignment,
    save_alignment,
)
from raypipe.alignment.judged import JudgedPairs, save_judged
from raypipe.alignment.opened import VERB, VIEW
from raypipe.alignment.text_encoder import TextEncoder, read_text_encoder
from raypipe.alignment.view_table import ViewTable, read_view_table
from raypipe.alignment.views import ViewScale
from raypipe.catalog.added_columns import find_added, write_added
from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.model.choice import choose_model
from raypipe.model.training_record import FINETUNED
from raypipe.store.addresses import Address
from raypipe.store.layout import alignment_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, detections_of, require_publication
from raypipe.store.run_record import made_by, plain
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

EXECUTION = {"num_workers", "cpus_per_worker"}
"""Settings of where training runs, which do not change the alignment."""
KEYS = ("name", "detection_id", "position")


@verb
def align(
    call: Call,
    workspace: str | os.PathLike[str] | Workspace,
    *,
    with_: str | os.PathLike[str],
    key: str | None = None,
    radius: float = 1.0,
    columns: str | Sequence[str] | None = None,
    text_encoder: str | os.PathLike[str] | None = None,
    release: str | None = None,
    model: str | None = None,
    finetune: bool = False,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Align the spectra of a catalog with the view in a table; return the metrics.

    `with_` is a table whose rows are joined to detections by `key`: name, detection_id, or position
    within `radius` arcsec; by default the first of these that matches. `columns` names the columns
    of the view, separated by commas: numbers, words, vectors, or a light curve as TIMES:RATES. With
    `text_encoder`, a folder of the sentence-transformers layout, columns of text are read as texts.
    Writes the bundle `alignments/<id>/` and adds the columns shared_0.. to the catalog. With
    `finetune`, also tunes a copy of the catalog's model to the view, as a model of the workspace
    that is used only if it is named; `finetuned` in the metrics describes it. What exists already
    for the same settings and data is not trained again. Raises UsageError for a table or columns
    that cannot be used.
    """
    store = call.workspace
    if key is not None and key not in KEYS:
        raise UsageError(f"--key {key}: expected one of {', '.join(KEYS)}")
    if not radius > 0:
        raise UsageError(f"--radius {radius}: expected more than 0 arcsec")
    release = choose_release(store, release)
    model_id = choose_model(store, release, model)
    catalog = require_publication(store, release, model_id)
    tuning = Tuning.of(store, model_id, call.config) if finetune else None
    encoder = read_text_encoder(text_encoder) if text_encoder is not None else None
    table = read_view_table(with_, _names(columns), texts=encoder is not None)
    rows = detections_of(store, catalog, None)
    data = join_view(rows, table, encoder, key, radius)
    about = _about(release, model_id, table, data, encoder, call.config)
    settings = {"alignment_id": about.alignment_id, "align": _recipe(call.config)}
    is_whole = _is_made(store, about.alignment_id) and find_added(store, catalog, VERB, settings)
    found = tuning.find(store, about.alignment_id) if tuning else {}
    if is_whole and found is not None:
        log.info("align: %s is already made", about.alignment_id)
        _tell_tuned(found)
        return _metrics_of(store, about.alignment_id) | found
    division = divide(data.sources[data.paired], call.config.align)
    pairs, scale = make_pairs(data, division, call.config.align)
    targets = _targets(call.config, rows, data, with_)
    lock = exclusive(store, f"align-{release}-{model_id}", _folders(about))
    with call.recorded() as figures, lock:
        if _is_made(store, about.alignment_id):
            made = load_alignment(store.absolute_uri(alignment_folder(about.alignment_id)))
        else:
            parts = _Parts.of(pairs, division, data, call.config.align.seed)
            made, judged = _make(call, about, parts, scale, targets)
            save_judged(store, about.alignment_id, judged)  # the bundle, last, makes it complete
            save_alignment(made, store)
        if not is_whole:
            _add_columns(store, catalog, made, data, table, settings)
        figures |= {"alignment_id": about.alignment_id, **made.metrics["retrieval"]["to_view"]}
        if tuning and found is None:
            found = tuning.make(store, made, data, pairs, division, rows)
        figures |= found or {}
    log.info("align: %s done", about.alignment_id)
    _tell_tuned(found)
    return made.metrics | (found or {})


def _tell_tuned(found: Mapping[str, Any] | None) -> None:
    """Say how to use the tuned model, if there is one."""
    if found:
        log.info(
            "align: %s is the tuned model: run raypipe embed --model %s, then raypipe align "
            "--model %s",
            *[found[FINETUNED]["model_id"]] * 3,
        )


def _names(columns: str | Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    names = columns.split(",") if isinstance(columns, str) else list(columns)
    return [name.strip() for name in names if name.strip()]


def _about(
    release: str,
    model_id: str,
    table: ViewTable,
    data: AlignData,
    encoder: TextEncoder | None,
    config: Config,
) -> About:
    recipe = {
        "release": release,
        "model": model_id,
        "data": data.fingerprint,
        "settings": _recipe(config),
        "encoder": encoder.fingerprint if encoder else "",
        "version": f"{__version__} {FORMAT}",
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    texts = tuple(column.name for column in table.columns if column.kind == "text")
    return About(
        alignment_id=f"align-{digest[:8]}",
        release=release,
        model_id=model_id,
        table=table.file,
        key=data.how,
        texts=texts,
        text_encoder=encoder.folder if encoder and texts else "",
        text_encoder_fingerprint=encoder.fingerprint if encoder and texts else "",
    )


def _recipe(config: Config) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.align.model_dump().items()
        if name not in EXECUTION and not name.startswith(PREFIX)
    }


def _folders(about: About) -> tuple[str, str]:
    return alignment_folder(about.alignment_id), f"columns/{about.release}/{about.model_id}/{VERB}"


def _is_made(store: Workspace, alignment_id: str) -> bool:
    return store.exists(f"{alignment_folder(alignment_id)}/{WEIGHTS}")


def _metrics_of(store: Workspace, alignment_id: str) -> dict[str, Any]:
    metrics: dict[str, Any] = store.read_json(f"{alignment_folder(alignment_id)}/metrics.json")
    return metrics


@dataclass(frozen=True)
class _Parts:
    """Hold the pairs of training, validation and test, and the judged pairs among the test pairs.

    `chosen` are the rows of the judged pairs among all paired detections, and `ids` their ids.
    """

    train: Pairs
    validation: Pairs
    test: Pairs
    judged: Pairs
    chosen: npt.NDArray[np.int64]
    ids: list[str]

    @classmethod
    def of(cls, pairs: Pairs, division: Division, data: AlignData, seed: int) -> _Parts:
        """Divide pairs, and choose those by which the alignment is judged."""
        train, validation = pairs.take(division.train), pairs.take(division.validation)
        test = pairs.take(division.test)
        rows = gallery_rows(test, seed)
        chosen = division.test[rows]
        ids = data.detection_ids.take(pa.array(data.paired[chosen])).to_pylist()
        return cls(train, validation, test, test.take(rows), chosen, ids)


def _make(
    call: Call,
    about: About,
    parts: _Parts,
    scale: ViewScale,
    targets: Mapping[str, npt.NDArray[Any]],
) -> tuple[Alignment, JudgedPairs]:
    """Train the alignment, and as a check alignments of permuted pairs; measure all of them."""
    train, test, seed = parts.train, parts.test, call.config.align.seed
    log.info("align: %s: %d pairs to train, %d to judge", about.alignment_id, len(train), len(test))
    made, fitted = _trained(call, about, train, parts.validation, scale, about.alignment_id)
    calibrate(made, parts.validation, seed)
    nulls, permuted = [], []
    for number in range(call.config.align.permutations):
        # Nothing links the sides: recall must be that of chance, and the gains must be zero.
        first = seed + 1000 + 3 * number
        name = f"{about.alignment_id}-null{number}"
        pairs = train.permuted(first), parts.validation.permuted(first + 1)
        null, _ = _trained(call, about, *pairs, scale, name)
        others = test.permuted(first + 2)
        others = others.take(gallery_rows(others, seed))
        nulls.append(null)
        permuted.append(judge(similarities(null, others), seed))
    judged = JudgedPairs.of(
        parts.ids, parts.judged.posteriors, parts.judged.views(), [made, *nulls]
    )
    known = {name: values[parts.chosen] for name, values in targets.items()}
    useful, *of_permuted = judged.usefulness(known, seed)
    metrics = {
        "alignment_id": about.alignment_id,
        "made_by": made_by(),
        "data": {
            "train": len(train),
            "validation": len(parts.validation),
            "test": len(test),
            "sources": sum(len(np.unique(p.source)) for p in (train, parts.validation, test)),
            "columns": scale.as_json()["columns"],
        },
        "best_epoch": fitted.best_epoch,
        "history": fitted.history,
        **measure_retrieval(made, train, parts.judged, seed),
        "translation": measure_translation(made, test, parts.judged),
        "usefulness": useful,
        "permuted": [
            found | {"usefulness": scores}
            for found, scores in zip(permuted, of_permuted, strict=True)
        ],
    }
    made.metrics = plain(metrics)
    return made, judged


def _trained(
    call: Call, about: About, train: Pairs, validation: Pairs, scale: ViewScale, name: str
) -> tuple[Alignment, Fitted]:
    """Train on pairs as a run of that name."""
    fitted = fit_pairs(train, validation, scale, call.config, call.workspace, name)
    return Alignment(about, call.config, fitted.network), fitted


def _add_columns(
    store: Workspace,
    catalog: Publication,
    made: Alignment,
    data: AlignData,
    table: ViewTable,
    settings: Mapping[str, Any],
) -> None:
    detections = shared_table(made, data)
    write_added(
        store, catalog, VERB, detections, settings, others={VIEW: view_table(made, data, table)}
    )


def _targets(
    config: Config, rows: pa.Table, data: AlignData, with_: Address
) -> dict[str, npt.NDArray[Any]]:
    """Return the values of the targets for paired detections, from the catalog or from the table.

    Raises UsageError for a column that neither of them has, and for a column of the view.
    """
    names = config.align.targets
    if seen := [column.name for column in data.columns if column.name in names]:
        raise UsageError(
            f"align.targets: {', '.join(seen)} is in the view, which would predict itself; leave "
            "it out of --columns"
        )
    found: dict[str, npt.NDArray[Any]] = {}
    own = [name for name in names if name in rows.column_names]
    frame = rows.select(["detection_id", *own]).to_pandas().set_index("detection_id")
    frame = frame.loc[data.detection_ids.take(pa.array(data.paired)).to_pylist()]
    for name in own:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            found[name] = column.to_numpy(np.float64, na_value=np.nan)
        else:
            found[name] = np.array([None if pd.isna(v) else str(v) for v in column], dtype=object)
    if others := [name for name in names if name not in own]:
        for column in read_view_table(with_, others).columns:
            found[column.name] = column.values[data.place[data.paired]]
    return found

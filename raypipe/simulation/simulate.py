"""Write a survey of simulated detections with the catalog's file layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe._version import __version__
from raypipe.errors import UsageError
from raypipe.identity import parse_csc_name
from raypipe.physics.apec import apec_files
from raypipe.simulation.mission_products import NAMES, mission_names, mission_pha
from raypipe.simulation.products import INSTRUMENT, arf_file, pha_file, product_name, rmf_file
from raypipe.simulation.survey import RELEASE, Survey, draw_batch
from raypipe.simulation.survey_plan import Plan, Responses, plan_survey
from raypipe.store.addresses import file_name

logger = logging.getLogger(__name__)

TRUTH_FILE = "truth.parquet"
SURVEY_FILE = "survey.json"
_RESPONSES_FOLDER = ".responses"
_PARTIAL_SUFFIX = ".partial"
_BATCHES_AHEAD = 2
"""Number of unfinished batches per worker: enough to keep it busy, few enough for memory."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/")
"""The beginning of an address, also of one from which `Path` has removed a slash."""
_TRUTH_LEAVES_OUT = {"exposure_s", "backscal", "background_backscal"}
"""Columns of `Survey.table` that are in the PHA files."""

Progress = Callable[[int, int], None]
"""Called with the number of detections written so far, and the number of all detections."""


@dataclass(frozen=True)
class SimulationSummary:
    """Hold the result of `simulate`: folder, numbers of detections and sources, duration."""

    path: Path
    detections: int
    sources: int
    seconds: float
    fingerprint: str


def simulate(
    out: str | Path,
    *,
    detections: int = 4000,
    seed: int = 0,
    catalog: str | Path | None = None,
    responses: Responses = None,
    visits: int = 1,
    counts_min: float = 50.0,
    counts_max: float = 5000.0,
    apec_dir: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SimulationSummary:
    """Write a survey of simulated detections into the folder `out`.

    Sources are the built-in population, or those of the table `catalog`. Instruments are the
    built-in ACIS ones, or the responses (`read_responses`) of any telescopes in the folder, or the
    folders, `responses`; a source of which a telescope sees next to nothing goes to another, or has
    few counts. Each source is observed `visits` times, by different telescopes as far as there are
    any. Expected source counts (0.5-7 keV) lie within `counts_min` and `counts_max`. Plasmas are
    raypipe's own, or made from the tables of AtomDB in the folder `apec_dir`.

    A detection by ACIS has a pha3 (with its background), an arf3 and an rmf3 file, named and laid
    out as in the Chandra Source Catalog; detections of one instrument share their RMF by hard
    links. A detection by another telescope has a PHA on the channels of its response, the PHA of
    its background, and an ARF; detections of one instrument share one RMF, which their headers
    name. `truth.parquet` holds the identity, class, parameters and expected counts of each
    detection; detections of one source have the same `name`. `survey.json` says what made the
    survey.

    The same arguments give the same bytes for any number of `workers` (threads; by default one per
    CPU). A survey in `out`, complete or not, is replaced. Raises UsageError for an address such as
    s3://, for a folder with other contents (unless `overwrite`), and as `plan_survey` does.
    """
    started = time.monotonic()
    out = _local_folder(out)
    settings = recorded_settings(
        detections=detections,
        seed=seed,
        counts_min=counts_min,
        counts_max=counts_max,
        catalog=catalog,
        responses=responses,
        visits=visits,
        apec_dir=apec_dir,
    )
    plan = plan_survey(
        detections,
        seed,
        counts_min=counts_min,
        counts_max=counts_max,
        catalog=catalog,
        responses=responses,
        visits=visits,
        apec_dir=apec_dir,
    )
    if apec_dir is not None and not plan.targets.sources.have_plasma:
        logger.warning("no source of this survey has a plasma: the tables of AtomDB are not used")
    _prepare(out, overwrite=overwrite)
    logger.info("simulate: writing %d detections to %s", len(plan), out)
    _write_description(out, settings, complete=False, fingerprint=None)
    fingerprint = _write(plan, out, workers or os.cpu_count() or 1, progress)
    _write_description(out, settings, complete=True, fingerprint=fingerprint)
    return SimulationSummary(
        path=out,
        detections=len(plan),
        sources=len(plan.targets.sources),
        seconds=time.monotonic() - started,
        fingerprint=fingerprint,
    )


def recorded_settings(
    *,
    catalog: str | Path | None = None,
    responses: Responses = None,
    apec_dir: str | Path | None = None,
    **plain: Any,
) -> dict[str, Any]:
    """Return the arguments of `simulate` as a survey's description has them: names, not paths."""
    return plain | {
        "catalog": None if catalog is None else file_name(catalog),
        "responses": _folder_names(responses),
        "apec_tables": None if apec_dir is None else [name for name, _ in apec_files(apec_dir)],
    }


def _folder_names(responses: Responses) -> str | list[str] | None:
    """Return the name of the folder of responses, or the names of several, for `survey.json`."""
    if responses is None:
        return None
    folders = [responses] if isinstance(responses, str | Path) else responses
    names = [Path(folder).name for folder in folders]
    return names[0] if len(names) == 1 else names


def _local_folder(out: str | Path) -> Path:
    """Return the folder `out`; raises UsageError for an address."""
    if address := _ADDRESS.match(str(out)):
        raise UsageError(
            f"--out {address[1]}://...: simulate writes to a local folder only; name one "
            "and then copy it, for instance with aws s3 sync"
        )
    return Path(out)


def _prepare(out: Path, *, overwrite: bool) -> None:
    """Create the folder `out`, and remove the products of an earlier survey from it."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: this is a file; name a folder for the survey")
    holds_survey = _holds_survey(out)
    if out.is_dir() and any(out.iterdir()) and not holds_survey and not overwrite:
        raise UsageError(f"{out}: not empty, and not a simulated survey; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if holds_survey:
        (out / TRUTH_FILE).unlink(missing_ok=True)
        for path in out.iterdir():
            product = parse_csc_name(path.name.removesuffix(_PARTIAL_SUFFIX))
            is_own = product is not None and product.instrument == INSTRUMENT
            if is_own or NAMES.fullmatch(path.name):
                path.unlink()


def _holds_survey(folder: Path) -> bool:
    """Return whether a folder contains a simulated survey, complete or interrupted."""
    try:
        return json.loads((folder / SURVEY_FILE).read_text()).get("release") == RELEASE
    except (OSError, ValueError, AttributeError):
        return False


def _write(plan: Plan, out: Path, workers: int, progress: Progress | None) -> str:
    """Write the products and the truth of a plan; returns the fingerprint of its counts."""
    folder = out / _RESPONSES_FOLDER
    folder.mkdir(exist_ok=True)
    for index in sorted(set(plan.instrument.tolist())):
        _publish(_response_path(folder, index), rmf_file(plan.instruments[index]))
    partial = out / (TRUTH_FILE + _PARTIAL_SUFFIX)
    digest = hashlib.sha256()
    done = 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        truth = None
        batches = stack.enter_context(
            contextlib.closing(_in_order(pool, plan, out, ahead=_BATCHES_AHEAD * workers))
        )
        for survey in batches:
            table = truth_table(survey)
            if truth is None:
                writer = pq.ParquetWriter(partial, table.schema, write_page_checksum=True)
                truth = stack.enter_context(writer)
            truth.write_table(table)
            digest.update(survey.counts.tobytes() + survey.background_counts.tobytes())
            done += len(survey)
            logger.info("simulated %d of %d detections", done, len(plan))
            if progress is not None:
                progress(done, len(plan))
    for index in sorted(set(plan.instrument.tolist())):
        if not plan.instruments[index].is_acis:
            named = mission_names(plan.instruments[index], {"obsid": 0})["rmf"]
            _response_path(folder, index).replace(out / named)
    partial.replace(out / TRUTH_FILE)
    shutil.rmtree(folder)
    return digest.hexdigest()[:16]


def _in_order(
    pool: ThreadPoolExecutor, plan: Plan, out: Path, *, ahead: int
) -> Generator[Survey, None, None]:
    """Draw and write batches in the pool, `ahead` of them at a time, and yield them in order."""
    under_way = [pool.submit(_write_batch, plan, b, out) for b in range(min(ahead, plan.batches))]
    try:
        for batch in range(plan.batches):
            survey = under_way.pop(0).result()
            if batch + ahead < plan.batches:
                under_way.append(pool.submit(_write_batch, plan, batch + ahead, out))
            yield survey
    finally:
        for future in under_way:
            future.cancel()


def _write_batch(plan: Plan, batch: int, out: Path) -> Survey:
    survey = draw_batch(plan, batch)
    names = list(survey.table)
    for i, values in enumerate(zip(*survey.table.values(), strict=True)):
        row = dict(zip(names, values, strict=True))
        if survey.instruments[survey.instrument[i]].is_acis:
            _write_acis(survey, i, row, out)
        else:
            _write_other(survey, i, row, out)
    return survey


def _write_acis(survey: Survey, i: int, row: dict[str, Any], out: Path) -> None:
    index = int(survey.instrument[i])
    instrument = survey.instruments[index]
    pha = pha_file(instrument, row, *survey.native_counts(i))
    _publish(out / product_name(row, "arf3"), arf_file(instrument, row, survey.area_cm2[i]))
    _link(_response_path(out / _RESPONSES_FOLDER, index), out / product_name(row, "rmf3"))
    _publish(out / product_name(row, "pha3"), pha)


def _write_other(survey: Survey, i: int, row: dict[str, Any], out: Path) -> None:
    """Write the files of a detection, the spectrum last: it is what makes them a detection."""
    index = int(survey.instrument[i])
    instrument = survey.instruments[index]
    counts, background_counts = survey.native_counts(i)
    names = mission_names(instrument, row)
    background = mission_pha(instrument, row, background_counts, is_background=True)
    _publish(out / names["arf"], arf_file(instrument, row, survey.area_cm2[i]))
    _publish(out / names["background"], background)
    _publish(out / names["pha"], mission_pha(instrument, row, counts, is_background=False))


def _response_path(folder: Path, index: int) -> Path:
    return folder / f"{index}.rmf.gz"


def _publish(path: Path, data: bytes) -> None:
    """Write a file in one step, so that it is complete or does not exist."""
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    partial.write_bytes(data)
    partial.replace(path)


def _link(existing: Path, path: Path) -> None:
    """Link a file, or copy it if the file system does not support hard links."""
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(existing)
    except OSError:
        _publish(path, existing.read_bytes())


def truth_table(survey: Survey) -> pa.Table:
    """Return the truth of a survey: identity, class, parameters, expected counts.

    `model_counts` is what was expected in the source region (source and background),
    `background_model_counts` the background's part of it: float32 for each channel, in lists of
    1024 where all detections are by ACIS, else of as many as their responses have.
    """
    columns: dict[str, Any] = {
        name: pa.array(values, from_pandas=True, type=_arrow_type(name))
        for name, values in survey.table.items()
        if name not in _TRUTH_LEAVES_OUT
    }
    for name in ("model_counts", "background_model_counts"):
        columns[name] = _by_channel(survey, getattr(survey, name))
    return pa.table(columns)


def _by_channel(survey: Survey, values: npt.NDArray[np.float32]) -> pa.Array:
    """Return a column with a list of `values` (N, n) per detection, as long as its channels."""
    if all(each.is_acis for each in survey.instruments):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    lengths = np.array([len(each.channel_energy_kev) for each in survey.instruments])
    lengths = lengths[survey.instrument]
    flat = values[np.arange(values.shape[1]) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _arrow_type(name: str) -> pa.DataType | None:
    """Return the type of text columns that may contain only nulls; None for other columns."""
    return pa.string() if name in {"class", "catalog_detection"} else None


def _write_description(
    out: Path, settings: dict[str, Any], *, complete: bool, fingerprint: str | None
) -> None:
    description = {
        "release": RELEASE,
        "raypipe_version": __version__,
        "complete": complete,
        **settings,
        "fingerprint": fingerprint,
    }
    _publish(out / SURVEY_FILE, (json.dumps(description, indent=2) + "\n").encode())

"""Answer the questions of a served page about a catalog, from its Parquet parts."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.added_columns import AddedColumns
from raypipe.catalog.classes import catalog_classes
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog
from raypipe.evaluation.validation import sources_of
from raypipe.exploring.columns import (
    IDENTITY,
    ColumnHead,
    ExplorerColumn,
    choose_columns,
    column_order,
    head_of,
    is_group,
    join_table,
    rows_in_table,
)
from raypipe.exploring.explorer_data import MAP_SEED, RANKED, SIGMAS, spread, with_derived
from raypipe.exploring.latent_maps import LatentMap, make_maps
from raypipe.exploring.served_spectra import SpectraOfParts, plain
from raypipe.exploring.sky import sky_positions
from raypipe.model.covariance import triangles_of, unpack
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.neighbors import Posterior, nearest
from raypipe.searching.strangest import BADLY_FIT, FAR, Significances, far_sigmas, fit_sigmas
from raypipe.store.publication import detections_of, require_publication
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_KEYS = ["detection_id", "obsid", "obi", "region_id", "name", "ra", "dec"]
_RANKING = ["cash", "cash_expected", "fit_zscore", "anomaly_score"]
_BANDS = [f"{kind}_{band}" for kind in ("counts", "background_counts") for band in "smh"]
_PARTS_KEPT = 64
_READERS = 8
_COLUMNS_KEPT = 24
_MOST_FOUND = 5000


class ServedCatalog:
    """Hold identity, positions and latents of a catalog; read everything else when it is needed.

    All answers are about the publication of the catalog at the start. They raise RaypipeError if
    its files have been removed since.
    """

    def __init__(
        self,
        store: Workspace,
        evaluated: EvaluatedCatalog,
        table: str | os.PathLike[str] | None,
        radius_arcsec: float,
    ) -> None:
        self.store, self.release, self.model_id = store, evaluated.release, evaluated.model_id
        self.publication = require_publication(store, self.release, self.model_id)
        self._added = AddedColumns.of(store, self.publication, stale="warn")
        self._schema = self._added.join_schema(store.read_schema(self.publication.parts[0]))
        classes = catalog_classes(store, self.release, self.model_id)
        wanted = [
            *_KEYS,
            *_RANKING,
            *_BANDS,
            "background_scale",
            *(f"p_{each}" for each in classes),
        ]
        rows = self._read([*wanted, "total_counts", *self._latents, "z_cov"])
        self._set_latents(rows)
        frame = rows.drop_columns([name for name in ("z_cov",) if name in rows.column_names])
        self.frame = frame.to_pandas()
        self.notes: list[str] = []
        brought: set[str] = set()
        own = set(self.frame)
        self.strangest = self._rank(evaluated)
        self.frame = with_derived(self.frame, classes)
        if table is not None:
            self.frame, brought, sentence = join_table(self.frame, table, radius_arcsec)
            self.notes.append(sentence)
        self._choose_columns(own, brought)
        with ThreadPoolExecutor(_READERS) as pool:
            sizes = list(pool.map(store.count_rows, self.publication.parts))
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.spectra = SpectraOfParts(store, self.release, evaluated.model)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def _latents(self) -> list[str]:
        latents = 0
        while f"z{latents}" in self._schema.names:
            latents += 1
        return [f"z{i}" for i in range(latents)]

    def _read(self, columns: list[str]) -> pa.Table:
        needed = self._added.needed(self._schema, columns)
        base = detections_of(self.store, self.publication, [*needed, "detection_id"])
        joined = self._added.join(base, columns=columns)
        return joined.select([name for name in columns if name in joined.column_names])

    def _set_latents(self, rows: pa.Table) -> None:
        self.z = np.stack(
            [rows[name].to_numpy().astype(np.float32) for name in self._latents], axis=0
        )
        size = len(self.z) * (len(self.z) + 1) // 2
        self.triangles = (
            np.ascontiguousarray(triangles_of(rows["z_cov"]).T)
            if "z_cov" in rows.column_names
            else np.full((size, rows.num_rows), np.nan, np.float32)
        )
        self.measured = np.isfinite(self.z).all(axis=0)

    def _rank(self, evaluated: EvaluatedCatalog) -> dict[str, list[tuple[int, float]]]:
        """Add the significances of both rankings to the frame, and return the first of each."""
        rows = np.flatnonzero(self.measured)
        sigmas = {each: np.full(len(self.frame), np.nan) for each in (FAR, BADLY_FIT)}
        cash, expected, zscore, score = (
            self.frame[name].to_numpy(dtype=np.float64) for name in _RANKING
        )
        sigmas[BADLY_FIT][rows] = fit_sigmas(cash[rows], expected[rows], zscore[rows])
        if evaluated.model is not None and len(rows):
            known = Posteriors(self.z[:, rows], self.triangles[:, rows])
            sigmas[FAR][rows] = far_sigmas(known, evaluated.model.population)
        answer = {}
        for ranking, values in sigmas.items():
            self.frame[SIGMAS[ranking]] = values
            found = Significances(ranking, values)
            most = [row for row in found.most(RANKED, score) if np.isfinite(values[row])]
            chance = found.chance
            answer[ranking] = [(int(row), float(chance[row])) for row in most]
        return answer

    def _choose_columns(self, own: set[str], brought: set[str]) -> None:
        """Choose all numbers, and the texts with few different words; read only the latter."""
        texts, heads = [], []
        for field in self._schema:
            if field.name in IDENTITY or field.name in brought:
                continue
            is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            if is_number and not is_group(field.name):
                heads.append(head_of(field.name))
            elif not pa.types.is_nested(field.type):
                texts.append(field.name)
        held = self.frame[[name for name in self.frame if name not in own or name in brought]]
        words = self._read(texts).to_pandas()
        others = pd.concat([held, words[[name for name in words if name not in held]]], axis=1)
        chosen = choose_columns(others, brought, most=len(others.columns))
        self.held: dict[str, ExplorerColumn] = {each.name: each for each in chosen.columns}
        heads = [each for each in heads if each.name not in self.held]
        columns: list[ColumnHead] = [*heads, *chosen.columns]
        self.columns = sorted(columns, key=lambda each: column_order(each.name, brought))
        self.left_out = chosen.left_out

    @cached_property
    def maps(self) -> list[LatentMap]:
        """Return the maps of the measured rows."""
        return make_maps(self.z[:, self.measured].T.astype(np.float64), MAP_SEED)

    def column(self, name: str) -> Floats:
        """Return the values of a column (n,); raises KeyError for an unknown one."""
        if name in self.held:
            return self.held[name].values
        if not any(each.name == name for each in self.columns):
            raise KeyError(name)
        return self._stored(name)

    @lru_cache(maxsize=_COLUMNS_KEPT)  # noqa: B019  # One catalog lives as long as the process.
    def _stored(self, name: str) -> Floats:
        return _as_floats(self._read([name])[name])

    def places(self, number: int) -> Floats:
        """Return the places (n, 2) on a map, NaN without latents; IndexError for unknown maps."""
        return spread(self.maps[number].places, self.measured)

    @lru_cache(maxsize=4)  # noqa: B019
    def sky(self, frame: str) -> Floats:
        """Return the places (n, 2) on the map of the sky."""
        return sky_positions(self._numbers("ra"), self._numbers("dec"), frame)

    @cached_property
    def sources(self) -> Rows:
        """Return the number of each row's source, (n,)."""
        return pd.factorize(sources_of(self.frame))[0].astype(np.int64)

    def find(
        self, text: str, position: tuple[float, float] | None, radius_arcsec: float
    ) -> tuple[Rows, str]:
        """Find rows by a part of their name or id, or else by position; return them and how."""
        if not text.strip():
            return np.array([], dtype=np.int64), ""
        hits = np.zeros(len(self), dtype=bool)
        for column in (self._texts("detection_id"), self._texts("name")):
            found = pc.match_substring(column, text.strip(), ignore_case=True)
            hits |= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
        if hits.any() or position is None:
            return np.flatnonzero(hits)[:_MOST_FOUND], "by name or id"
        angle = _separations_arcsec(self._numbers("ra"), self._numbers("dec"), *position)
        near = np.flatnonzero(angle <= radius_arcsec)
        near = near[np.argsort(angle[near], kind="stable")]
        return near[:_MOST_FOUND], f"within {radius_arcsec:g} arcsec"

    def similar(self, rows: list[int], k: int) -> list[dict[str, float]]:
        """Return the k rows most similar to any of some rows, as the search on the page does."""
        known = Posteriors(self.z, self.triangles)
        best: dict[int, dict[str, float]] = {}
        for row in rows:
            if not self.measured[row]:
                continue
            one = known.take(np.array([row]))
            query = Posterior(one.z[:, 0].astype(np.float64), one.covariance[0])
            found = nearest(query, known, k + len(rows), np.array(rows))
            by_distance = not np.isfinite(found.log_overlap).all()
            overlap = -found.euclidean if by_distance else found.log_overlap
            distance = found.euclidean if by_distance else found.distance
            for each, value, far in zip(found.rows, overlap, distance, strict=True):
                if int(each) not in best or value > best[int(each)]["overlap"]:
                    best[int(each)] = {"row": int(each), "overlap": value, "distance": far}
        ranked = sorted(best.values(), key=lambda each: -each["overlap"])
        return [{name: float(x) for name, x in each.items()} for each in ranked[:k]]

    def records(self, rows: list[int]) -> list[dict[str, Any]]:
        """Return identity, position and all columns of some rows, in their order."""
        wanted = np.array(rows, dtype=np.int64)
        values = np.full((len(rows), len(self.columns)), np.nan)
        part_of = np.searchsorted(self._starts, wanted, side="right") - 1
        for part in np.unique(part_of):
            here = np.flatnonzero(part_of == part)
            values[here] = self._part(int(part))[wanted[here] - self._starts[part]]
        frame = self.frame.iloc[wanted]
        named = frame["name"] if "name" in frame else pd.Series([None] * len(frame))
        return [
            {
                "row": int(row),
                "id": str(identifier),
                "name": None if pd.isna(name) else str(name),
                "ra": plain([ra])[0],
                "dec": plain([dec])[0],
                "values": plain(line),
            }
            for row, identifier, name, ra, dec, line in zip(
                wanted, frame["detection_id"], named, self._numbers("ra")[wanted],
                self._numbers("dec")[wanted], values, strict=True,
            )
        ]  # fmt: skip

    def point(self, row: int) -> dict[str, Any]:
        """Return the spectrum of a row, the triangle of its covariance, and its ellipses."""
        triangle = self.triangles[:, row].astype(np.float64)
        z, covariance = self.z[:, [row]].T.astype(np.float64), unpack(triangle[None])
        part = int(np.searchsorted(self._starts, row, side="right") - 1)
        identifier = str(self.frame["detection_id"].iloc[row])
        number = _part_number(self.publication.parts[part])
        ellipses = [each.ellipses(z, covariance)[0] for each in self.maps if self.measured[row]]
        return {
            "spectrum": self.spectra.spectrum(number, identifier, z),
            "triangle": plain(triangle),
            "ellipses": [plain(each) for each in ellipses],
        }

    def rows_in(self, path: str | os.PathLike[str], radius_arcsec: float) -> Rows:
        """Return the rows that match a user's table, as `join_table` matches them."""
        keys = self.frame[[name for name in _KEYS if name in self.frame]]
        return rows_in_table(keys, path, radius_arcsec)

    @lru_cache(maxsize=_PARTS_KEPT)  # noqa: B019
    def _part(self, part: int) -> npt.NDArray[np.float64]:
        """Return the values of all columns in the rows of a part, (rows, columns)."""
        stored = [each.name for each in self.columns if each.name not in self.held]
        needed = self._added.needed(self._schema, stored)
        table = self.store.read_table(self.publication.parts[part], [*needed, "detection_id"])
        table = self._added.join(table, part=part, columns=stored)
        start = self._starts[part]
        here = slice(start, start + table.num_rows)
        values = np.full((table.num_rows, len(self.columns)), np.nan)
        for place, each in enumerate(self.columns):
            if each.name in self.held:
                values[:, place] = self.held[each.name].values[here]
            elif each.name in table.column_names:
                values[:, place] = _as_floats(table[each.name])
        return values

    def _numbers(self, name: str) -> Floats:
        if name not in self.frame:
            return np.full(len(self), np.nan)
        return self.frame[name].to_numpy(dtype=np.float64, na_value=np.nan)

    @lru_cache(maxsize=2)  # noqa: B019
    def _texts(self, name: str) -> pa.Array:
        known = self.frame[name] if name in self.frame else [None] * len(self)
        return pa.array(known, pa.string())


def _part_number(name: str) -> int:
    return int(name.rsplit("/part-", 1)[1][:5])


def _as_floats(column: pa.ChunkedArray) -> Floats:
    """Return a column of numbers, NaN where null."""
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _separations_arcsec(ra: Floats, dec: Floats, ra0: float, dec0: float) -> Floats:
    """Return the angles to a position by the haversine formula."""
    half = [np.sin(np.deg2rad(angle) / 2) ** 2 for angle in (dec - dec0, ra - ra0)]
    chord = half[0] + np.cos(np.deg2rad(dec)) * np.cos(np.deg2rad(dec0)) * half[1]
    return np.asarray(np.rad2deg(2 * np.arcsin(np.sqrt(np.minimum(1.0, chord)))) * 3600)

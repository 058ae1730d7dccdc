"""Numbers that no telescope gives, in each place that has a number: a reject or finite columns."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.part import ingest_part
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace

ODD = {"zero": 0.0, "nan": np.nan, "inf": np.inf, "negative": -1.0, "huge": 1e300}
CARDS = {**ODD, "denormal": 1e-310}
KEYWORDS = ["EXPOSURE", "BACKSCAL", "AREASCAL"]
COUNTS = {"none": 0, "one": 1, "many": 10**9, "negative": -1, "too-many": 2**31}
BLOCKS = ["source", "background"]
USABLE = ["plain", *(f"{block}-counts-{n}" for block in BLOCKS for n in ("none", "one", "many"))]


class Products:
    """The files of a simulated detection, and copies of them with something changed."""

    def __init__(self, folder: Path) -> None:
        simulate(folder / "simulated", detections=1, seed=9)
        self.folder = folder / "files"
        self.folder.mkdir()
        for kind in "pha", "arf", "rmf":
            (path,) = (folder / "simulated").glob(f"*_{kind}3.fits.gz")
            (folder / kind).write_bytes(gzip.decompress(path.read_bytes()))
        self._originals = folder
        self._written = 0

    def write(
        self,
        stem: str,
        kind: str = "pha",
        edit: Callable[[fits.HDUList], None] = lambda hdus: None,
        card: tuple[int, str, float] | None = None,
    ) -> None:
        """A detection called `stem`, one of its files edited by astropy or card by card.

        The last channel, which the model does not use, makes each a spectrum of other photons.
        """
        for each, suffix in (("pha", "pi"), ("arf", "arf"), ("rmf", "rmf")):
            path = self.folder / f"{stem}.{suffix}"
            with fits.open(self._originals / each) as hdus:
                if each == "pha":
                    self._written += 1
                    _block(hdus, background=False).data["COUNTS"][-1] = self._written
                    hdus[1].header["ANCRFILE"] = f"{stem}.arf"
                    hdus[1].header["RESPFILE"] = f"{stem}.rmf"
                if each == kind:
                    edit(hdus)
                hdus.writeto(path)
            if each == kind and card is not None:
                path.write_bytes(_with_card(path.read_bytes(), *card))


def _with_card(data: bytes, block: int, name: str, value: float) -> bytes:
    """The value of a keyword in the n-th table that has it, as astropy would not write it."""
    start = -1
    for _ in range(block + 1):
        start = data.index(f"{name:<8}=".encode(), start + 1)
    card = f"{name:<8}= {str(value).upper():>20}".ljust(80).encode()
    return data[:start] + card + data[start + 80 :]


def _block(hdus: fits.HDUList, background: bool) -> fits.BinTableHDU:
    (table,) = (
        hdu
        for hdu in hdus[1:]
        if hdu.header.get("HDUCLAS1") == "SPECTRUM"
        and (hdu.header.get("HDUCLAS2") == "BKG") == background
    )
    return table


def _set_counts(background: bool, value: int) -> Callable[[fits.HDUList], None]:
    def edit(hdus: fits.HDUList) -> None:
        table = _block(hdus, background)
        counts = np.full(len(table.data), value, np.int64)
        _replace(hdus, table, "COUNTS", "K", counts)

    return edit


def _set_area(value: float, rows: slice) -> Callable[[fits.HDUList], None]:
    def edit(hdus: fits.HDUList) -> None:
        area = np.array(hdus[1].data["SPECRESP"], float)
        area[rows] = value
        _replace(hdus, hdus[1], "SPECRESP", "D", area)

    return edit


def _replace(
    hdus: fits.HDUList, table: fits.BinTableHDU, name: str, form: str, values: np.ndarray
) -> None:
    columns = [
        fits.Column(name, form, array=values) if column.name == name else column
        for column in table.columns
    ]
    hdus[hdus.index(table)] = fits.BinTableHDU.from_columns(columns, header=table.header)


def _set_matrix(value: float, rows: slice) -> Callable[[fits.HDUList], None]:
    def edit(hdus: fits.HDUList) -> None:
        (table,) = (hdu for hdu in hdus[1:] if "MATRIX" in hdu.columns.names)
        column = table.data["MATRIX"]
        for row in range(len(column))[rows]:
            with np.errstate(over="ignore"):
                column[row] = np.full(len(column[row]), value).astype(np.float32)

    return edit


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Spectra and rejects of all mutations, by the name of the mutation."""
    folder = tmp_path_factory.mktemp("mutations")
    products = Products(folder)
    products.write("plain")
    for place, block in enumerate(BLOCKS):
        for name, value in COUNTS.items():
            products.write(f"{block}-counts-{name}", edit=_set_counts(block == "background", value))
        for keyword in KEYWORDS:
            for name, scale in CARDS.items():
                stem = f"{block}-{keyword.lower()}-{name}"
                products.write(stem, card=(place, keyword, scale))
    for where, rows in (("all", slice(None)), ("one", slice(17, 18))):
        for name, value in ODD.items():
            products.write(f"area-{where}-{name}", "arf", _set_area(value, rows))
            products.write(f"matrix-{where}-{name}", "rmf", _set_matrix(value, rows))
    workspace = Workspace(folder / "w")
    discover(workspace, source=str(products.folder), release="r")
    ingest_part(workspace, "r", 0, IngestConfig())
    return _by_name(workspace, "spectra/r"), _by_name(workspace, "rejects/r")


def _by_name(workspace: Workspace, folder: str) -> pd.DataFrame:
    table = workspace.read_folder(folder).to_pandas()
    return table.set_index(table.detection_id.str.removeprefix("file:"))


def _numbers(row: pd.Series) -> Iterator[np.ndarray]:
    for name in "exposure_s", "background_scale", "arf_cm2", "counts", "background_counts":
        yield np.asarray(row[name], np.float32)


def test_every_mutation_is_a_spectrum_or_a_reject(
    ingested: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    spectra, rejects = ingested
    assert len(spectra) + len(rejects) == 1 + 2 * (5 + 3 * 6) + 2 * 2 * 5
    assert not rejects.reason.str.contains("internal error").any()
    assert not rejects.retryable.any()


def test_what_is_used_is_finite_in_the_precision_of_the_model(
    ingested: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    spectra, _ = ingested
    for name, row in spectra.iterrows():
        for values in _numbers(row):
            assert np.isfinite(values).all(), name
            assert (values >= 0).all(), name
        assert row.exposure_s > np.finfo(np.float32).tiny
        assert row.background_scale > np.finfo(np.float32).tiny


def test_only_mutations_that_may_be_true_are_used(
    ingested: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    spectra, _ = ingested
    one_bin_without_response = ["area-one-zero", "matrix-one-zero"]
    assert sorted(spectra.index) == sorted([*USABLE, *one_bin_without_response])
    for name in USABLE:
        assert spectra.counts_b[name] == {
            "source-counts-none": 0,
            "source-counts-one": 445,
            "source-counts-many": 445 * 10**9,
        }.get(name, spectra.counts_b["plain"])


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("source-exposure-huge", "pi", "EXPOSURE is 1e+300 s, expected 1e-06 to 1e+10 s: give"),
        ("background-exposure-zero", "pi", "the background scale is inf, expected"),
        ("source-backscal-denormal", "pi", "the background scale is"),
        ("source-areascal-nan", "pi", "AREASCAL is nan, expected"),
        ("area-all-zero", "pi", "the largest effective area is 0.0 cm2"),
        ("area-one-huge", "pi", "cm2: make the ARF again"),
        ("area-one-inf", "arf", "SPECRESP is not finite at row 18"),
        ("matrix-one-nan", "rmf", "MATRIX is not finite at row 18"),
        ("matrix-one-negative", "rmf", "the RMF has negative probabilities: make it again"),
        (
            "matrix-all-zero",
            "rmf",
            "the RMF leads no photon of 0.2 to 12 keV into the model's channels",
        ),
        ("source-counts-too-many", "pi", "a channel has 2.14748e+09 counts, expected 0 to"),
    ],
)
def test_rejects_name_the_file_and_the_mend(
    ingested: tuple[pd.DataFrame, pd.DataFrame], name: str, file: str, said: str
) -> None:
    _, rejects = ingested
    assert rejects.uri[name].endswith(f"{name}.{file}")
    assert said in rejects.reason[name]

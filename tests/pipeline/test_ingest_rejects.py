"""What each kind of unusable file becomes: a reject that says what to mend, or a flag."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.part import ingest_part
from raypipe.ingestion.progress import is_done
from raypipe.ingestion.reader import _read_rmf
from raypipe.simulation.simulate import simulate
from raypipe.store.workspace import Workspace

CONFIG = IngestConfig()
Edit = Callable[[fits.HDUList], None]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    simulate(folder, detections=1, seed=9)
    return folder


@pytest.fixture
def files(one: Path, tmp_path: Path) -> Path:
    shutil.copytree(one, tmp_path / "files")
    return tmp_path / "files"


def _edit(folder: Path, product: str, change: Edit) -> None:
    (path,) = folder.glob(f"*_{product}.fits.gz")
    with fits.open(path) as hdus:
        loaded = fits.HDUList([hdu.copy() for hdu in hdus])
    change(loaded)
    path.unlink()
    loaded.writeto(path)


def _ingest(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    workspace = Workspace(folder.parent / "w")
    discover(workspace, source=str(folder))
    outcome = ingest_part(workspace, "sim", 0, CONFIG)
    assert outcome.spectra + outcome.rejects == 1
    assert is_done(workspace, "sim", 0, CONFIG), "a local file that is wrong is wrong for good"
    return (
        workspace.read_folder("spectra/sim").to_pandas(),
        workspace.read_folder("rejects/sim").to_pandas(),
    )


@pytest.mark.parametrize("product", ["pha3", "arf3"])
def test_a_link_that_leads_nowhere_is_a_reject(product: str, files: Path) -> None:
    (path,) = files.glob(f"*_{product}.fits.gz")
    path.unlink()
    path.symlink_to(f".git/annex/objects/{path.name}")
    spectra, rejects = _ingest(files)
    assert spectra.empty
    (row,) = rejects.to_dict("records")
    assert row["reason"].startswith(
        "the link leads to a file that does not exist: fetch it (git annex"
    )
    assert row["uri"] == str(path)


def _header(**values: object) -> Edit:
    def change(hdus: fits.HDUList) -> None:
        for name, value in values.items():
            hdus[1].header[name] = value

    return change


def _raw_keyword(folder: Path, name: str, value: str) -> None:
    """A value that astropy would not write."""
    (path,) = folder.glob("*_pha3.fits.gz")
    data = gzip.decompress(path.read_bytes())
    start = data.index(f"{name:<8}=".encode())
    card = f"{name:<8}= {value:>20}".ljust(80).encode()
    path.write_bytes(gzip.compress(data[:start] + card + data[start + 80 :]))


def _edit_bytes(folder: Path, product: str, old: bytes, new: bytes) -> None:
    (path,) = folder.glob(f"*_{product}.fits.gz")
    data = gzip.decompress(path.read_bytes())
    assert old in data
    path.write_bytes(gzip.compress(data.replace(old, new)))


def _hot_area(hdus: fits.HDUList) -> None:
    hdus[1].data["SPECRESP"][17] = np.nan


def _background_scale(hdus: fits.HDUList) -> None:
    (background,) = (h for h in hdus if h.header.get("HDUCLAS2") == "BKG")
    background.header["BACKSCAL"] = 0.0


@pytest.mark.parametrize(
    ("product", "change", "said"),
    [
        ("pha3", _header(EXPOSURE=0.0), "EXPOSURE is 0.0"),
        ("pha3", _header(EXPOSURE=-5.0), "EXPOSURE is -5.0"),
        ("pha3", _header(BACKSCAL=0.0), "must be above zero"),
        ("pha3", _background_scale, "must be above zero"),
        ("pha3", _header(AREASCAL=0.0), "AREASCAL is 0.0, expected 1e-06 to 1e+06: give 1"),
        ("pha3", _header(INSTRUME="HRC"), "HRC has almost no energy resolution"),
        ("pha3", _header(HDUCLAS4="TYPE:II"), "type II"),
        ("arf3", _hot_area, "SPECRESP is not finite at row 18"),
    ],
)
def test_what_cannot_be_used_says_why(files: Path, product: str, change: Edit, said: str) -> None:
    _edit(files, product, change)
    _, rejects = _ingest(files)
    assert said in rejects.reason[0]
    assert rejects.stage[0] == "read"
    assert not rejects.retryable[0]


def test_exposures_that_are_no_number(files: Path) -> None:
    _raw_keyword(files, "EXPOSURE", "NAN")
    _, rejects = _ingest(files)
    assert "EXPOSURE is nan" in rejects.reason[0]


def test_spectra_without_background_are_kept_and_flagged(files: Path) -> None:
    def change(hdus: fits.HDUList) -> None:
        (place,) = (i for i, h in enumerate(hdus) if h.header.get("HDUCLAS2") == "BKG")
        del hdus[place]
        hdus[1].header["BACKFILE"] = "none"

    _edit(files, "pha3", change)
    spectra, _ = _ingest(files)
    assert "no_background" in spectra["flags"][0].split("|")
    assert spectra.background_counts[0] is None
    assert np.isnan(spectra.background_scale[0])


def test_channels_out_of_order_are_put_in_order(files: Path, one: Path, tmp_path: Path) -> None:
    def shuffle(hdus: fits.HDUList) -> None:
        order = np.random.default_rng(0).permutation(len(hdus[1].data))
        hdus[1].data = hdus[1].data[order]

    _edit(files, "pha3", shuffle)
    spectra, _ = _ingest(files)
    shutil.copytree(one, tmp_path / "other" / "files")
    expected, _ = _ingest(tmp_path / "other" / "files")
    assert spectra["flags"][0] == "channels_sorted"
    assert (spectra.counts[0] == expected.counts[0]).all()
    assert spectra.counts_b[0] == expected.counts_b[0]


def _no_area_below_2_kev(hdus: fits.HDUList) -> None:
    hdus[1].data["SPECRESP"][hdus[1].data["ENERG_LO"] < 2] = 0.0


def test_responses_of_part_of_the_band_are_flagged(files: Path) -> None:
    _edit(files, "arf3", _no_area_below_2_kev)
    spectra, _ = _ingest(files)
    assert "response_partial" in spectra["flags"][0].split("|")


@pytest.mark.parametrize("product", ["pha3", "arf3", "rmf3"])
def test_files_cut_anywhere(files: Path, product: str) -> None:
    (path,) = files.glob(f"*_{product}.fits.gz")
    zipped = path.read_bytes()
    plain = gzip.decompress(zipped)
    cuts = np.random.default_rng(1).uniform(0, 0.97, 6)
    for cut in cuts:
        for content in (
            zipped[: int(cut * len(zipped))],
            gzip.compress(plain[: int(cut * len(plain))], 1),
        ):
            path.unlink()
            path.write_bytes(content)
            shutil.rmtree(files.parent / "w", ignore_errors=True)
            _, rejects = _ingest(files)
            assert product in rejects.uri[0]
            assert "internal error" not in rejects.reason[0]


def test_reasons_are_cut_however_much_of_the_file_they_quote(files: Path) -> None:
    """A table whose name fills two thousand cards."""
    (path,) = files.glob("*_arf3.fits.gz")
    data = gzip.decompress(path.read_bytes())
    start = data.index(b"EXTNAME =", 2880)
    cards = [b"EXTNAME = 'SPECRESP" + b"x" * 50 + b"&'"]
    cards += [b"CONTINUE  '" + b"y" * 66 + b"&'"] * 2000 + [b"CONTINUE  'z'"]
    cards = [card.ljust(80) for card in cards]
    cards += [b" " * 80] * (-(len(cards) - 1) % 36)
    path.write_bytes(gzip.compress(data[:start] + b"".join(cards) + data[start + 80 :]))
    _edit_bytes(files, "arf3", b"SPECRESP'  ", b"SPECRES2'  ")
    _, rejects = _ingest(files)
    assert "arf3" in rejects.uri[0]
    assert len(rejects.reason[0]) <= 500


@pytest.mark.parametrize("reader", ["read_pha", "read_arf", "read_rmf"])
@pytest.mark.parametrize(
    ("error", "said", "retryable"),
    [
        (MemoryError(), "not enough memory to read it", True),
        (RecursionError("too deep"), "internal error RecursionError('too deep')", False),
        (ValueError("9" * 5000), "internal error ValueError('999", False),
        (KeyError(10**5000), "internal error KeyError; please report it", False),
    ],
)
def test_whatever_goes_wrong_with_one_file_is_its_own_reject(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
    error: Exception,
    said: str,
    retryable: bool,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(f"raypipe.ingestion.reader.{reader}", fail)
    _read_rmf.cache_clear()
    workspace = Workspace(files.parent / "w")
    discover(workspace, source=str(files))
    outcome = ingest_part(workspace, "sim", 0, CONFIG)
    assert (outcome.spectra, outcome.rejects, outcome.retryable) == (0, 1, int(retryable))
    reason = workspace.read_folder("rejects/sim").to_pandas().reason[0]
    assert said in reason
    assert len(reason) <= 500


def test_names_that_would_steer_a_terminal_are_escaped(shared_data: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    name = "red\x1b[31m\nforged line"
    whole = shared_data / "ciao" / "3c273.pi"
    for suffix in ".arf", ".rmf":
        shutil.copy(whole.with_suffix(suffix), files)
    shutil.copy(whole, files / f"{name}.pi")
    (files / f"{name} broken.pi").write_bytes(whole.read_bytes()[:9000])
    workspace = Workspace(tmp_path / "w")
    discover(workspace, source=str(files), release="mine")
    outcome = ingest_part(workspace, "mine", 0, CONFIG)
    assert (outcome.spectra, outcome.rejects) == (1, 1)
    texts = [
        *workspace.read_folder("rejects/mine")["uri"].to_pylist(),
        *workspace.read_folder("rejects/mine")["reason"].to_pylist(),
        *workspace.read_folder("spectra/mine")["source_uri"].to_pylist(),
    ]
    assert all(text.isprintable() for text in texts)
    assert any(text.endswith(r"red\x1b[31m\nforged line.pi") for text in texts)
    assert any(text.endswith(r"red\x1b[31m\nforged line broken.pi") for text in texts)


def test_a_local_gzip_bomb(files: Path) -> None:
    (path,) = files.glob("*_pha3.fits.gz")
    path.write_bytes(gzip.compress(bytes(300 << 20), 9))
    assert path.stat().st_size * 200 < 300 << 20
    _, rejects = _ingest(files)
    assert "expands to more than" in rejects.reason[0]

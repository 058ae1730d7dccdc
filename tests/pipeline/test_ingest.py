from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raypipe.discovery.discover import discover
from raypipe.errors import RaypipeError
from raypipe.ingestion.ingest import ingest
from raypipe.ogip import read_spectrum
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.parts import check_totals, count_rows
from raypipe.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("local_ray")

SETTINGS = {"discover": {"part_rows": 40}}
EXACT = SETTINGS | {"ingest": {"rmf": "exact"}}


def _rows(workspace: Workspace, release: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    spectra = workspace.read_folder(f"spectra/{release}").to_pandas().set_index("detection_id")
    rejects = workspace.read_folder(f"rejects/{release}").to_pandas().set_index("detection_id")
    return spectra, rejects


def test_a_survey_arrives_as_it_was_drawn(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(survey), catalog=survey / "truth.parquet", config=SETTINGS)
    totals = ingest(workspace, config=SETTINGS)
    assert totals == {"manifest": 160, "spectra": 160, "rejects": 0}
    truth = pd.read_parquet(survey / "truth.parquet").set_index("detection_id")
    table = workspace.read_folder("spectra/sim")
    counts = np.array([sum(row) for row in table["counts"].to_pylist()])
    expected = np.array(
        [truth.loc[i, "model_counts"].sum() for i in table["detection_id"].to_pylist()]
    )
    pulls = (counts - expected) / np.sqrt(expected)
    assert np.abs(pulls).max() < 5
    assert pulls.std() == pytest.approx(1.0, abs=0.2)
    assert table["class"].null_count == 0
    assert len(workspace.files("responses")) == len(set(table["rmf_id"].to_pylist()))


def test_real_products_and_their_bands(shared_data: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(shared_data / "csc"), release="csc2.1")
    assert ingest(workspace) == {"manifest": 7, "spectra": 6, "rejects": 1}
    spectra, rejects = _rows(workspace, "csc2.1")
    reference = pd.read_json(shared_data / "csc" / "sherpa_reference.json").set_index("file")
    for _, row in spectra.iterrows():
        wanted = reference.loc[Path(row.source_uri).name]
        assert [row[f"counts_{b}"] for b in "smhb"] == [wanted[f"counts_{b}"] for b in "smhb"]
        assert row.counts.sum() == wanted.counts
        assert row.background_counts.sum() == wanted.bkg_counts
        assert row.exposure_s == pytest.approx(wanted.exposure, rel=1e-9)
        assert row.background_scale == pytest.approx(wanted.bkg_scale, rel=1e-9)
    assert list(rejects.index) == ["csc2.1:24564.0.1"]
    assert "HRC has almost no energy resolution" in rejects.reason.iloc[0]
    assert not rejects.retryable.iloc[0]


def test_own_spectra_come_with_their_backgrounds(shared_data: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    release = discover(workspace, source=str(shared_data / "ciao"), release="mine")["release"]
    assert ingest(workspace)["spectra"] == 7
    spectra, _ = _rows(workspace, release)
    zeroth = spectra.loc["file:3c273"]
    assert zeroth["flags"] == "grating_zeroth_order|not_poisson"
    assert zeroth.background_counts.sum() == 216


def _break_files(folder: Path) -> dict[str, str]:
    """Damage some files of a survey; returns what each detection's reason must say."""
    products = sorted(folder.glob("*_pha3.fits.gz"))

    def name(i: int, product: str) -> Path:
        return products[i].with_name(products[i].name.replace("pha3", product))

    def identity(i: int) -> str:
        return f"sim:{int(products[i].name[5:10])}.0.1"

    def edit(path: Path, old: bytes, new: bytes) -> None:
        data = gzip.decompress(path.read_bytes())
        assert old in data
        path.unlink()
        path.write_bytes(gzip.compress(data.replace(old, new, 1)))

    reasons = {}
    products[0].write_bytes(products[0].read_bytes()[:3000])
    reasons[identity(0)] = "pha3"
    products[1].write_text("<html>503 Service Unavailable</html>")
    reasons[identity(1)] = "FITS"
    name(2, "arf3").unlink()
    reasons[identity(2)] = "no ARF"
    name(3, "rmf3").unlink()
    reasons[identity(3)] = "no RMF"
    products[4].write_bytes(b"")
    reasons[identity(4)] = "pha3"
    header = gzip.decompress(products[5].read_bytes())
    start = header.index(b"EXPOSURE=")
    card = header[start : start + 80]
    zero = b"EXPOSURE=                  0.0".ljust(80)
    edit(products[5], card, zero)
    reasons[identity(5)] = "EXPOSURE"
    rmf = name(6, "rmf3")
    damaged = bytearray(rmf.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    rmf.unlink()
    rmf.write_bytes(damaged)
    reasons[identity(6)] = "rmf3"
    return reasons


def test_nothing_is_lost_to_broken_files(survey: Path, tmp_path: Path) -> None:
    broken = tmp_path / "survey"
    shutil.copytree(survey, broken)
    reasons = _break_files(broken)
    workspace = Workspace(tmp_path / "w")
    discover(workspace, source=str(broken), config=SETTINGS)
    totals = ingest(workspace, config=EXACT)
    assert totals == {"manifest": 160, "spectra": 160 - len(reasons), "rejects": len(reasons)}
    spectra, rejects = _rows(workspace, "sim")
    assert not set(spectra.index) & set(rejects.index)
    assert set(rejects.index) == set(reasons)
    for identifier, said in reasons.items():
        reject = rejects.loc[identifier]
        assert said in f"{reject.uri}: {reject.reason}", identifier
        assert "internal error" not in rejects.loc[identifier].reason


def test_only_what_is_missing_is_done_again(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(survey), config=SETTINGS)
    ingest(workspace, config=SETTINGS)
    before = workspace.read_folder("spectra/sim")
    names = workspace.files("spectra/sim")
    stamps = {name: workspace.modified(name) for name in names}
    workspace.delete(names[1])
    with pytest.raises(RaypipeError, match="run ingest again"):
        check_totals(workspace, "sim", count_rows(workspace, "sim"))
    ingest(workspace, config=SETTINGS)
    changed = [name for name in names if workspace.modified(name) != stamps[name]]
    assert changed == [names[1]]
    assert workspace.read_folder("spectra/sim").equals(before)


def test_changed_manifests_are_ingested_again(survey: Path, tmp_path: Path) -> None:
    source = tmp_path / "survey"
    shutil.copytree(survey, source)
    workspace = Workspace(tmp_path / "w")
    discover(workspace, source=str(source), config=SETTINGS)
    ingest(workspace, config=SETTINGS)
    gone = sorted(source.glob("*_pha3.fits.gz"))[0]
    gone.unlink()
    discover(workspace, source=str(source), config=SETTINGS)
    assert ingest(workspace, config=SETTINGS)["manifest"] == 159
    spectra, _ = _rows(workspace, "sim")
    assert len(spectra) == 159
    assert f"sim:{int(gone.name[5:10])}.0.1" not in spectra.index


def test_files_that_vanish_are_rejected_and_come_back(survey: Path, tmp_path: Path) -> None:
    source = tmp_path / "survey"
    shutil.copytree(survey, source)
    workspace = Workspace(tmp_path / "w")
    discover(workspace, source=str(source), config=SETTINGS)
    victim = sorted(source.glob("*_pha3.fits.gz"))[0]
    moved = victim.rename(tmp_path / victim.name)
    assert ingest(workspace, config=SETTINGS)["rejects"] == 1
    _, rejects = _rows(workspace, "sim")
    assert "no such file" in rejects.reason.iloc[0]
    moved.rename(victim)
    part = next(
        i for i, name in enumerate(workspace.files("rejects/sim")) if workspace.count_rows(name)
    )
    workspace.delete(part_name(spectra_folder("sim"), part))
    assert ingest(workspace, config=SETTINGS)["rejects"] == 0


def test_counts_on_the_grid_are_those_of_the_file(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(survey), config=SETTINGS)
    ingest(workspace, config=SETTINGS)
    spectra, _ = _rows(workspace, "sim")
    row = spectra.iloc[17]
    spectrum = read_spectrum(row.source_uri)
    assert (row.counts == spectrum.counts).all()
    assert (row.background_counts == spectrum.background_counts).all()
    assert row.background_scale == spectrum.background_scale

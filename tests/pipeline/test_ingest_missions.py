"""A folder of spectra of several telescopes, from discovery to rows, in one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raypipe.config import EmbedConfig, IngestConfig
from raypipe.discovery.discover import discover
from raypipe.ingestion.part import ingest_part
from raypipe.model.bundle import load_model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace

MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
GRID = EnergyGrid()


def _ingest(source: Path, folder: Path) -> tuple[Workspace, pd.DataFrame, pd.DataFrame]:
    workspace = Workspace(folder)
    discover(workspace, source=str(source), release="r")
    ingest_part(workspace, "r", 0, IngestConfig())
    spectra, rejects = (
        workspace.read_folder(f"{kind}/r").to_pandas().set_index("detection_id")
        for kind in ("spectra", "rejects")
    )
    return workspace, spectra, rejects


@pytest.fixture(scope="module")
def missions(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, pd.DataFrame, pd.DataFrame]:
    return _ingest(shared_data / "missions", tmp_path_factory.mktemp("missions"))


def _names(shared_data: Path) -> dict[str, str]:
    """Names of the sets by detection_id."""
    index = json.loads((shared_data / "missions/index.json").read_text())
    return {f"file:{Path(each['pha']).stem}": each["name"] for each in index}


def test_every_telescope_becomes_rows(
    missions: tuple[Workspace, pd.DataFrame, pd.DataFrame], shared_data: Path
) -> None:
    _, spectra, rejects = missions
    assert rejects.empty
    said = {name: (row.telescope, row.instrument, row["flags"]) for name, row in spectra.iterrows()}
    beyond = "response_not_named|beyond_energy_grid"
    assert {_names(shared_data)[str(name)]: set_of(*rest) for name, rest in said.items()} == {
        "xmm-pn": ("XMM", "EPN", {"bad_quality_channels"}),
        "swift-xrt": ("SWIFT", "XRT", {"no_background", "response_not_named"}),
        "nicer": ("NICER", "XTI", {"no_background", "response_not_named"}),
        "asca-sis": ("ASCA", "SIS0", {"no_background", "response_not_named"}),
        "nustar-a": ("NUSTAR", "FPMA", {"response_partial", *beyond.split("|")}),
        "nustar-b": ("NUSTAR", "FPMB", {"response_partial", *beyond.split("|")}),
    }
    assert spectra["rmf_id"].nunique() == 5, "both modules of NuSTAR have one response here"
    bands = spectra[[f"counts_{band}" for band in "usmhb"]]
    assert bands.notna().all(axis=1).sum() == 4
    assert bands.filter(like="counts_h").notna().all(axis=None)


def test_rows_say_when_they_were_observed(
    missions: tuple[Workspace, pd.DataFrame, pd.DataFrame], shared_data: Path
) -> None:
    _, spectra, _ = missions
    assert not spectra[["mjd_start", "mjd_stop"]].isna().any(axis=None)
    for detection_id, row in spectra.iterrows():
        name = _names(shared_data)[str(detection_id)]
        assert 49402 < row.mjd_start < 58494, name
        lasted_s = (row.mjd_stop - row.mjd_start) * 86400.0
        assert row.exposure_s < lasted_s < 110_000, "gaps between the intervals count, too"


def set_of(telescope: str, instrument: str, flags: str) -> tuple[str, str, set[str]]:
    return telescope, instrument, set(flags.split("|"))


def test_rows_fold_a_power_law_as_sherpa_does(
    missions: tuple[Workspace, pd.DataFrame, pd.DataFrame], shared_data: Path
) -> None:
    workspace, spectra, _ = missions
    library = ResponseLibrary(workspace)
    low, high = GRID.edges_kev[:-1], GRID.edges_kev[1:]
    photons = 1e-4 * (low**-0.7 - high**-0.7) / 0.7
    with np.load(shared_data / "missions/sherpa_reference.npz") as reference:
        for detection_id, row in spectra.iterrows():
            name = _names(shared_data)[str(detection_id)]
            response = library.load(row.rmf_id)
            assert np.array_equal(row.counts, reference[f"{name}:counts"])
            expected = response.bins.bin_counts(reference[f"{name}:powerlaw_counts"])
            folded = photons * row.exposure_s * row.arf_cm2 @ response.redistribution.astype(float)
            seen = expected > 1e-3 * expected.max()
            within = 6e-3 if name.startswith("nustar") else 1e-3
            assert folded[seen] == pytest.approx(expected[seen], rel=within), name


def test_rows_of_the_table_encode_alike_together_and_alone(
    missions: tuple[Workspace, pd.DataFrame, pd.DataFrame],
) -> None:
    workspace, _, _ = missions
    table = workspace.read_folder("spectra/r")
    model = load_model(MODEL)
    batch = SpectraBatch.from_table(table, ResponseLibrary(workspace))
    config = EmbedConfig(errors=False)
    together = model.encode_batch(batch, config=config)
    assert batch.counts.shape == (6, 256)
    assert together["z0"].notna().all()
    for row in range(6):
        one = SpectraBatch.from_table(table.slice(row, 1), ResponseLibrary(workspace))
        alone = model.encode_batch(one, config=config)
        for name in [f"z{i}" for i in range(8)]:
            assert together[name][row] == pytest.approx(alone[name][0], rel=1e-5, abs=1e-5)


def test_a_response_is_not_chosen_among_several(shared_data: Path, tmp_path: Path) -> None:
    """Each mission's ARF and RMF in one folder: those that no header names are nobody's."""
    files = tmp_path / "files"
    files.mkdir()
    for file in (shared_data / "missions").glob("*/*"):
        shutil.copy(file, files)
    _, spectra, rejects = _ingest(files, tmp_path / "w")
    assert set(spectra.index) == {"file:PN", "file:sis0"}, "those that are named, or have its name"
    assert spectra.loc["file:PN", "flags"] == "bad_quality_channels"
    assert len(spectra) + len(rejects) == 6
    assert (
        "RESPFILE names none: write the name of the RMF into it" in rejects.reason["file:target_sr"]
    )
    assert "put the file RESPFILE names beside it" in rejects.reason["file:nu90402339002A01_sr"]

"""The same photons are one detection; different photons never are."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from raypipe.discovery.discover import discover
from raypipe.discovery.photons import TELLING_COUNTS, Photons, photons_of, same_photons
from raypipe.ogip import read_pha
from raypipe.store.workspace import Workspace
from tests.unit.ogip_files import N_CHANNELS, arf_hdu, column, pha_bytes, to_bytes

BRIGHT = [3] * N_CHANNELS
FAINT = [1, 2, *[0] * (N_CHANNELS - 2)]
EMPTY = [0] * N_CHANNELS
GROUPED = [column("GROUPING", "I", [1, -1] * (N_CHANNELS // 2))]
REGION = {"DSTYP1": "sky(x,y)", "DSVAL1": "Circle(4097.6,4086.9,3.1)"}


def _spectrum(counts: Any = BRIGHT, extra: Any = None, **keywords: Any) -> bytes:
    stated = {"TELESCOP": "CHANDRA", "INSTRUME": "ACIS", "OBS_ID": "6903", "TSTART": 1e8}
    return pha_bytes(extra, counts=counts, **{**stated, **keywords})


def _detections(folder: Path, files: dict[str, bytes] | None = None) -> dict[str, str]:
    """Detection_ids by file name, of a folder to which files are added."""
    for name, content in (files or {}).items():
        (folder / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "s" / name).write_bytes(content)
    discover(folder / "w", source=str(folder / "s"))
    rows = Workspace(folder / "w").read_folder("manifest/s")
    names = (uri.removeprefix(f"{folder / 's'}/") for uri in rows["pha_uri"].to_pylist())
    return dict(zip(names, rows["detection_id"].to_pylist(), strict=True))


def _set_aside(folder: Path) -> dict[str, tuple[str, str]]:
    entries = json.loads((folder / "w" / "manifest" / "s" / "set_aside.json").read_text())
    return {
        entry["uri"].removeprefix(f"{folder / 's'}/"): (entry["reason"], entry["detection_id"])
        for entry in entries
    }


def test_ciaos_usual_output_is_one_detection(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cases" / "combine-spectra", tmp_path / "s")
    assert _detections(tmp_path) == {"combined_src.pi": "file:combined_src"}
    reason = f"the same photons, grouped, as {tmp_path}/s/combined_src.pi"
    assert _set_aside(tmp_path) == {"combined_grp.pi": (reason, "file:combined_src")}


def test_copies_are_one_detection(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cases" / "gz-twins", tmp_path / "s")
    assert _detections(tmp_path) == {"src.pi": "file:src"}
    assert {name: twin for name, (_, twin) in _set_aside(tmp_path).items()} == {
        "src.pi.gz": "file:src",
        "backup/src.pi": "file:src",
    }


def test_real_spectra_of_one_quasar_stay_apart(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "ciao").glob("obs*"):
        (tmp_path / "s").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "s")
    assert len(_detections(tmp_path)) == 3
    assert not (tmp_path / "w" / "manifest" / "s" / "set_aside.json").exists()


def test_real_spectra_that_are_grouped_again_do_not_count_twice(
    shared_data: Path, tmp_path: Path
) -> None:
    for name in "bubble.pi", "9774.pi", "obs1.pi":
        content = (shared_data / "ciao" / name).read_bytes()
        _add(tmp_path / "s", name, content)
        _add(tmp_path / "s", name.replace(".pi", "_grp.pi"), _grouped(content))
    assert _detections(tmp_path).keys() == {"bubble.pi", "9774.pi", "obs1.pi"}


def _add(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def _grouped(content: bytes) -> bytes:
    """A spectrum as grppha leaves it: grouped, EXPOSURE in single precision."""
    with fits.open(io.BytesIO(content)) as hdus:
        spectrum = hdus["SPECTRUM"]
        grouping = np.tile([1, -1, -1, -1], len(spectrum.data) // 4)
        columns = spectrum.columns + fits.ColDefs([column("GROUPING", "I", grouping)])
        made = fits.BinTableHDU.from_columns(columns, header=spectrum.header)
        made.header["EXPOSURE"] = float(np.float32(spectrum.header["EXPOSURE"]))
    return to_bytes(made)


def test_the_ungrouped_is_kept_where_both_have_as_many_companions(tmp_path: Path) -> None:
    files = {"a.pi": _spectrum(extra=GROUPED), "b.pi": _spectrum(EXPOSURE=1000.0004)}
    assert _detections(tmp_path, files).keys() == {"b.pi"}


def test_the_one_that_can_be_used_is_kept(tmp_path: Path) -> None:
    files = {
        "a.pi": _spectrum(),
        "b.pi": _spectrum(extra=GROUPED, ANCRFILE="x.arf"),
        "x.arf": to_bytes(arf_hdu()),
    }
    assert _detections(tmp_path, files).keys() == {"b.pi"}


def test_a_copy_that_cannot_be_compared_with_its_background_is_not_kept(tmp_path: Path) -> None:
    background = _spectrum([1, *EMPTY[1:]], HDUCLAS2="BKG")
    files = {
        "a.pi": _spectrum(BACKFILE="a_bkg.pi"),
        "a_bkg.pi": _spectrum([1, *EMPTY[1:]], HDUCLAS2="BKG", drop=("BACKSCAL",)),
        "b.pi": _spectrum(),
    }
    assert _detections(tmp_path, files).keys() == {"b.pi"}
    assert _detections(tmp_path, {"a_bkg.pi": background}).keys() == {"a.pi"}


def test_a_detection_keeps_its_id_when_another_file_of_its_photons_comes(tmp_path: Path) -> None:
    grouped = {"a_grp.pi": _spectrum(extra=GROUPED)}
    assert _detections(tmp_path, grouped) == {"a_grp.pi": "file:a_grp"}
    assert _detections(tmp_path, {"a.pi": _spectrum()}) == {"a.pi": "file:a_grp"}
    assert _detections(tmp_path) == {"a.pi": "file:a_grp"}


def test_a_copy_that_comes_later_changes_nothing(tmp_path: Path) -> None:
    assert _detections(tmp_path, {"x/b.pi": _spectrum()}) == {"x/b.pi": "file:b"}
    assert _detections(tmp_path, {"a.pi": _spectrum()}) == {"x/b.pi": "file:b"}


@pytest.mark.parametrize(
    "other",
    [
        {"OBS_ID": "6904"},
        {"INSTRUME": "HRC"},
        {"DATE-OBS": "2006-04-01T15:43:44"},
        {"HDUCLAS2": "NET"},
        {"EXPOSURE": 1000.1},
        {"counts": [4, *BRIGHT[1:]]},
        {"channels": 2 * np.arange(N_CHANNELS)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_tells_photons_apart(other: dict[str, Any], tmp_path: Path) -> None:
    files = {"a.pi": _spectrum(), "b.pi": _spectrum(**other)}
    assert _detections(tmp_path, files).keys() == {"a.pi", "b.pi"}


def test_photons_are_the_same_from_whichever_channel_they_are_counted(tmp_path: Path) -> None:
    files = {"a.pi": _spectrum(), "b.pi": _spectrum(channels=np.arange(N_CHANNELS))}
    assert _detections(tmp_path, files).keys() == {"a.pi"}


def test_alike_spectra_are_not_all_compared_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alike = photons_of(read_pha(_spectrum()), b"", "a")
    files = {f"{i}.pi": replace(alike, exposure_s=100.0 + 0.1 * i) for i in range(2_000)}
    compared = []
    monkeypatch.setattr(Photons, "agree", lambda *pair: compared.append(pair))
    assert len(same_photons(files, files, lambda *_: False)) == len(files)
    assert len(compared) < 10 * len(files)


@given(st.floats(1e-3, 1e9), st.floats(-0.999e-6, 0.999e-6))
def test_exposures_that_agree_within_rounding_are_found(exposure: float, relative: float) -> None:
    alike = photons_of(read_pha(_spectrum()), b"", "a")
    other = exposure * (1 + relative)
    files = {"a": replace(alike, exposure_s=exposure), "b": replace(alike, exposure_s=other)}
    assert same_photons(["a", "b"], files, lambda *_: False) == {"a": ["b"]}


@pytest.mark.parametrize("scale", ["AREASCAL", "BACKSCAL"])
def test_scales_count_where_no_observation_is_named(scale: str, tmp_path: Path) -> None:
    one, two = ({"OBS_ID": "none", scale: value} for value in (0.5, 0.6))
    rounded = {**one, scale: 0.50000004}
    files = {"a.pi": _spectrum(**one), "b.pi": _spectrum(**two), "c.pi": _spectrum(**rounded)}
    assert _detections(tmp_path, files).keys() == {"a.pi", "b.pi"}
    named = {"d.pi": _spectrum(**{scale: 0.5}), "e.pi": _spectrum(**{scale: 0.6})}
    assert _detections(tmp_path, named).keys() == {"a.pi", "b.pi", "d.pi"}


def test_rates_are_the_counts_they_stand_for(tmp_path: Path) -> None:
    counts = np.array([3, 100_001, *[7] * (N_CHANNELS - 2)])
    rates = (counts / 1000).astype(np.float32).astype(float)
    files = {"a.pi": _spectrum(counts), "b.pi": _spectrum(rates, count_column="RATE")}
    assert _detections(tmp_path, files).keys() == {"a.pi"}


def test_a_copy_of_a_background_is_no_source(tmp_path: Path) -> None:
    background = _spectrum([5] * N_CHANNELS)
    files = {"a.pi": _spectrum(BACKFILE="bkg.pi"), "bkg.pi": background}
    files["bkg.pi.gz"] = gzip.compress(background)
    assert _detections(tmp_path, files).keys() == {"a.pi"}
    reason = f"the same photons as the background {tmp_path}/s/bkg.pi"
    assert _set_aside(tmp_path) == {"bkg.pi.gz": (reason, None)}


@pytest.mark.parametrize("counts", [EMPTY, FAINT], ids=["empty", "faint"])
class TestFaintSources:
    """Sources of one observation, with one aperture, ARF and background for all."""

    def test_of_any_names_stay_apart(self, counts: list[int], tmp_path: Path) -> None:
        files = {f"src{number}.pi": _spectrum(counts, ANCRFILE="x.arf") for number in range(4)}
        files |= {f"{number}/src.pi": _spectrum(counts, DATE=str(number)) for number in range(2)}
        assert len(_detections(tmp_path, {**files, "x.arf": to_bytes(arf_hdu())})) == 6

    def test_of_other_regions_stay_apart(self, counts: list[int], tmp_path: Path) -> None:
        regions = [{**REGION, "DSVAL1": f"Circle({x},4086.9,3.1)"} for x in (4000, 4100)]
        files = {f"{at}/src.pi": _spectrum(counts, **each) for at, each in enumerate(regions)}
        assert len(_detections(tmp_path, files)) == 2

    def test_of_other_arfs_stay_apart(self, counts: list[int], tmp_path: Path) -> None:
        files = {f"{at}/src.pi": _spectrum(counts, ANCRFILE="src.arf") for at in range(2)}
        files |= {f"{at}/src.arf": to_bytes(arf_hdu(area=[at + 1.0] * 6)) for at in range(2)}
        assert len(_detections(tmp_path, files)) == 2

    def test_of_one_region_at_other_times_stay_apart(
        self, counts: list[int], tmp_path: Path
    ) -> None:
        slices = [_spectrum(counts, **{**REGION, "TSTART": start}) for start in (1e8, 2e8)]
        assert len(_detections(tmp_path, {"a.pi": slices[0], "b.pi": slices[1]})) == 2

    def test_of_one_region_are_one(self, counts: list[int], tmp_path: Path) -> None:
        files = {
            "a.pi": _spectrum(counts, **REGION),
            "a_grp.pi": _spectrum(counts, extra=GROUPED, **REGION),
            "sas.pi": _spectrum(counts, SLCTEXPR="(X,Y) IN circle(1,2,3)"),
            "sas_grp.pi": _spectrum(counts, GROUPED, SLCTEXPR="(x,y) in CIRCLE(1,2,3)"),
        }
        assert _detections(tmp_path, files).keys() == {"a.pi", "sas.pi"}

    def test_copies_are_one(self, counts: list[int], tmp_path: Path) -> None:
        spectrum, arf = _spectrum(counts, ANCRFILE="a.arf"), to_bytes(arf_hdu())
        files = {
            "a.pi": spectrum,
            "a.arf": arf,
            "a.pi.gz": gzip.compress(spectrum),
            "backup/a.pi": spectrum,
            "backup/a.arf.gz": gzip.compress(arf),
            "bare/a.pi": spectrum,
        }
        assert _detections(tmp_path, files).keys() == {"a.pi"}


@given(
    st.lists(st.integers(0, 20), min_size=N_CHANNELS, max_size=N_CHANNELS),
    st.lists(st.integers(0, 20), min_size=N_CHANNELS, max_size=N_CHANNELS),
)
def test_a_key_is_one_of_counts(first: list[int], second: list[int]) -> None:
    spectra = [_spectrum(counts) for counts in (first, second)]
    keys = [photons_of(read_pha(content), content, "a").key for content in spectra]
    again = photons_of(read_pha(spectra[0]), spectra[0], "b")
    assert (keys[0] == keys[1]) == (first == second)
    assert (again.key == keys[0]) == again.is_telling == (sum(first) >= TELLING_COUNTS)

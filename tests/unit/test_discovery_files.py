"""A folder as users have it: no entry refuses it, and every file is accounted for."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.discovery import folder as folder_module
from raypipe.discovery.discover import discover
from raypipe.discovery.files import UNSEEN, Skipped, list_files
from raypipe.errors import UsageError
from raypipe.store.workspace import Workspace
from tests.unit.ogip_files import arf_hdu, pha_bytes, to_bytes

CSC = "acisf{:05d}_000N00{}_r0001_{}3.fits.gz"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one spectrum, which every case is added to."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "plain.pi").write_bytes(_spectrum(0))
    return tmp_path / "s"


def _spectrum(number: int, **keywords: Any) -> bytes:
    """A spectrum whose photons are those of no other number."""
    counts = [number + 1, *[3] * 15]
    return pha_bytes(counts=counts, **{"OBS_ID": str(number), **keywords})


def _found(source: Path) -> tuple[dict[str, str], list[dict[str, str]], dict[str, Any]]:
    """Detection_ids by file name, what is set aside, and the summary: every file is in one."""
    workspace = Workspace(source.parent / "w")
    summary = discover(workspace, source=str(source))
    rows = workspace.read_folder("manifest/s").to_pylist()
    files = summary["files"]
    assert files["listed"] == sum(files.values()) - files["listed"]
    assert files["spectra"] == summary["rows"] == len(rows)
    assert workspace.read_json("manifest/s/manifest.json") == summary
    aside = []
    if workspace.exists("manifest/s/set_aside.json"):
        aside = workspace.read_json("manifest/s/set_aside.json")
    assert len(aside) == files["set_aside"] + summary["folders_not_searched"]
    names = {row["pha_uri"].removeprefix(f"{source}/"): row["detection_id"] for row in rows}
    return names, aside, summary


def _reasons(source: Path, aside: list[dict[str, str]]) -> dict[str, str]:
    return {entry["uri"].removeprefix(f"{source}/"): entry["reason"] for entry in aside}


def test_loops_of_links_end(source: Path) -> None:
    (source / "deep" / "deeper").mkdir(parents=True)
    (source / "deep" / "deeper" / "b.pi").write_bytes(_spectrum(1))
    (source / "deep" / "deeper" / "up").symlink_to(source, target_is_directory=True)
    (source / "also").symlink_to(source / "deep", target_is_directory=True)
    (source / "self.pi").symlink_to(source / "self.pi")
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi", "deep/deeper/b.pi", "self.pi"}
    again = "a link to a folder that is listed already"
    assert _reasons(source, aside) == {"also": again, "deep/deeper/up": again}


def test_linked_folders_are_searched(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.pi").write_bytes(_spectrum(1))
    (source / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert _found(source)[0].keys() == {"plain.pi", "link/b.pi"}


def test_names_that_are_not_utf8_are_set_aside(source: Path) -> None:
    (source / os.fsdecode(b"Gr\xf6\xdfe.pi")).touch()
    (source / os.fsdecode(b"Gr\xf6\xdfe")).mkdir()
    (source / os.fsdecode(b"Gr\xf6\xdfe") / "b.pi").touch()
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi"}
    assert _reasons(source, aside) == {
        r"Gr\xf6\xdfe.pi": "a name that is not UTF-8: rename the file",
        r"Gr\xf6\xdfe": "a name that is not UTF-8: rename the folder",
    }


def test_a_subfolder_that_cannot_be_read_is_left_out(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    names, aside, summary = _found(source)
    assert names.keys() == {"plain.pi"}
    assert _reasons(source, aside) == {"closed": "cannot be read (Permission denied)"}
    assert summary["folders_not_searched"] == 1


def test_hidden_folders_are_not_searched(source: Path) -> None:
    for name in ".git", ".datalad", "b/.git":
        (source / name / "annex").mkdir(parents=True)
        (source / name / "annex" / "x.pi").touch()
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi"}
    assert set(_reasons(source, aside).values()) == {"a hidden folder"}
    assert len(aside) == 3


def test_links_that_lead_nowhere_are_detections(source: Path) -> None:
    csc = CSC.format(7, 1, "pha")
    for name in "gone.pi", csc, CSC.format(7, 1, "arf"), "gone.fits", "notes.txt":
        (source / name).symlink_to(f".git/annex/objects/{name}")
    names, aside, summary = _found(source)
    assert names == {"plain.pi": "file:plain", "gone.pi": "file:gone", csc: "s:7.0.1"}
    assert _reasons(source, aside) == {
        "gone.fits": "a link to a file that is not there (git annex get brings it)"
    }
    assert summary["overlooked_suffixes"] == {".txt": 1}
    assert dict(list_files(Workspace(source)))["gone.pi"] == UNSEEN


def test_a_link_that_leads_somewhere_again_is_another_file(source: Path) -> None:
    (source / "gone.pi").symlink_to("object")
    before = Workspace(source.parent / "w")
    discover(before, source=str(source))
    stamps = [set(before.read_folder("manifest/s")["files_stamp"].to_pylist())]
    (source / "object").write_bytes(_spectrum(3))
    discover(before, source=str(source))
    stamps.append(set(before.read_folder("manifest/s")["files_stamp"].to_pylist()))
    assert len(stamps[0] & stamps[1]) == 1


def test_spectra_that_name_each_other_both_stay(source: Path) -> None:
    (source / "a.pi").write_bytes(_spectrum(1, BACKFILE="b.pi"))
    (source / "b.pi").write_bytes(_spectrum(2, BACKFILE="a.pi"))
    (source / "c.pi").write_bytes(_spectrum(3, BACKFILE="d.pi"))
    (source / "d.pi").write_bytes(_spectrum(4, BACKFILE="e.pi"))
    (source / "e.pi").write_bytes(_spectrum(5, BACKFILE="c.pi"))
    (source / "self.pi").write_bytes(_spectrum(6, BACKFILE="self.pi"))
    assert _found(source)[0].keys() == {
        *("plain.pi", "a.pi", "b.pi", "c.pi", "d.pi", "e.pi", "self.pi")
    }


def test_of_a_chain_of_spectra_the_last_alone_is_a_background(source: Path) -> None:
    for number in range(1, 5):
        content = _spectrum(number, BACKFILE=f"{number + 1}.pi")
        (source / f"{number}.pi").write_bytes(content)
    (source / "5.pi").write_bytes(_spectrum(5))
    assert _found(source)[0].keys() == {"plain.pi", "1.pi", "2.pi", "3.pi", "4.pi"}


def test_pipes_and_sockets_are_listed_and_not_opened(source: Path) -> None:
    os.mkfifo(source / "b.pi")
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi"}
    assert _reasons(source, aside) == {"b.pi": "not a regular file"}


def test_of_two_that_name_each_other_the_background_says_so(source: Path) -> None:
    (source / "a.pi").write_bytes(_spectrum(1, BACKFILE="b.pi"))
    (source / "b.pi").write_bytes(_spectrum(2, BACKFILE="a.pi", HDUCLAS2="BKG"))
    names, aside, summary = _found(source)
    assert names.keys() == {"plain.pi", "a.pi"}
    assert aside == []
    assert summary["files"]["companions"] == 1


def test_backgrounds_and_responses_are_found_by_relative_paths(source: Path) -> None:
    for name in "src", "bkg", "resp":
        (source / name).mkdir()
    (source / "src" / "a.pi").write_bytes(
        _spectrum(1, BACKFILE="../bkg/x.pi", ANCRFILE="../resp/a.arf", RESPFILE="../resp/a.rmf")
    )
    (source / "bkg" / "x.pi").write_bytes(_spectrum(2))
    (source / "resp" / "a.arf").write_bytes(to_bytes(arf_hdu()))
    (source / "resp" / "a.rmf.gz").touch()
    names, aside, summary = _found(source)
    assert names.keys() == {"plain.pi", "src/a.pi"}
    assert summary["files"]["companions"] == 3
    assert aside == []
    (row,) = _row(source, "src/a.pi")
    found = [
        row[key].removeprefix(f"{source}/") for key in ("background_uri", "arf_uri", "rmf_uri")
    ]
    assert found == ["bkg/x.pi", "resp/a.arf", "resp/a.rmf.gz"]


@pytest.mark.parametrize(
    "named", ["../out.arf", "../../s/../out.arf", "{}/out.arf", "a/../../out.arf", "C:\\out.arf"]
)
def test_no_path_of_a_header_leads_out_of_the_folder(
    named: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.arf").write_bytes(to_bytes(arf_hdu()))
    (source / "a.pi").write_bytes(_spectrum(1, ANCRFILE=named.format(tmp_path)))
    _found(source)
    assert [row["arf_uri"] for row in _row(source, "a.pi")] == [None]


@pytest.mark.parametrize("named", ["A.ARF", "a.arf[SPECRESP]", "/data/x/a.arf", "C:\\work\\a.arf"])
def test_a_companion_may_be_spelled_in_other_ways(named: str, source: Path) -> None:
    (source / "a.pi").write_bytes(_spectrum(1, ANCRFILE=named))
    (source / "a.arf").write_bytes(to_bytes(arf_hdu()))
    _found(source)
    assert [row["arf_uri"] for row in _row(source, "a.pi")] == [str(source / "a.arf")]


def _row(source: Path, name: str) -> Iterator[dict[str, Any]]:
    rows = Workspace(source.parent / "w").read_folder("manifest/s").to_pylist()
    return (row for row in rows if row["pha_uri"] == str(source / name))


def test_a_background_that_says_so_is_no_source(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cases" / "background-unnamed", tmp_path / "s")
    names, aside, _ = _found(tmp_path / "s")
    assert names == {"src.pi": "file:src"}
    assert _reasons(tmp_path / "s", aside) == {
        "src_bkg.pi": "a background (HDUCLAS2 BKG) that no spectrum names"
    }


@pytest.mark.parametrize(
    ("spectrum", "background"),
    [
        ("a.pi", "a_bkg.pi"),
        ("a_grp.pi.gz", "a_bg.pi"),
        ("q_src1.pi", "q_bkg1.pi"),
        ("nu01A01_sr.pha", "nu01A01_bk.pha"),
        ("PN.pha", "PNbackground_spectrum.fits"),
        ("source.pi", "back.pi"),
        ("d/a.pi", "d/A_BKG.PI"),
    ],
)
@pytest.mark.parametrize("is_broken", [False, True])
def test_the_background_of_a_spectrum_that_cannot_be_read_is_no_source(
    spectrum: str, background: str, is_broken: bool, source: Path
) -> None:
    (source / "d").mkdir()
    if is_broken:
        (source / spectrum).write_bytes(_spectrum(1)[:3000])
    else:
        (source / spectrum).symlink_to(f".git/annex/{spectrum}")
    (source / background).write_bytes(_spectrum(2))
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi", spectrum}
    assert _reasons(source, aside) == {
        background: f"by its name the background of {source / spectrum}, which cannot be read"
    }
    (source / spectrum).unlink()
    (source / spectrum).write_bytes(_spectrum(1, BACKFILE=background.rpartition("/")[2]))
    names, aside, summary = _found(source)
    assert names.keys() == {"plain.pi", spectrum}
    assert aside == []
    assert summary["files"]["companions"] == 1


def test_other_spectra_beside_one_that_cannot_be_read_stay(source: Path) -> None:
    (source / "e").mkdir()
    (source / "a.pi").symlink_to("nowhere")
    others = {"a_bkgless.pi", "b_bkg.pi", "e/a_bkg.pi", "a_2.pi", "feedback.pi", "plain_bkg.pi"}
    for number, name in enumerate(sorted(others)):
        (source / name).write_bytes(_spectrum(number + 1))
    (source / "a_bkg.pi").write_bytes(_spectrum(9, BACKFILE="b_bkg.pi"))
    names, aside, _ = _found(source)
    assert names.keys() == {"plain.pi", "a.pi", "a_bkg.pi", *others} - {"b_bkg.pi"}
    assert aside == []


@pytest.mark.parametrize(
    "name",
    [
        *("P0123_M1S001_SourceSpec_0001.fits", "P0123M1S001SRSPEC0001.FTZ", "a.FIT.gz"),
        *("a.ds", "a.grp", "a.PI", "A.PHA", "a.Pi.GZ", "source.fits"),
    ],
)
def test_spectra_are_found_whatever_their_names(name: str, source: Path) -> None:
    content = _spectrum(1)
    packed = name.lower().endswith((".ftz", ".gz"))
    (source / name).write_bytes(gzip.compress(content) if packed else content)
    assert name in _found(source)[0]


def test_files_that_hold_no_spectrum_are_counted(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "picture.fits").write_bytes(to_bytes(arf_hdu()))
    (source / "table.fits.gz").write_bytes(gzip.compress(to_bytes(arf_hdu())))
    (source / "broken.fits.gz").write_bytes(b"\x1f\x8b broken")
    (source / "a_evt2.fits").write_bytes(_spectrum(1))
    (source / "readme").touch()
    names, aside, summary = _found(source)
    assert names.keys() == {"plain.pi"}
    assert aside == []
    assert summary["overlooked_suffixes"] == {".fits": 2, ".fits.gz": 2, "no suffix": 1}
    assert "5 looked like no spectrum (.fits 2, .fits.gz 2, no suffix 1)" in caplog.text


def test_what_is_overlooked_is_said_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x.arf").touch()
    with pytest.raises(
        UsageError, match=r"no spectra there .* 1 looked like no spectrum \(\.arf 1"
    ):
        discover(tmp_path / "w", source=str(tmp_path / "s"))


def test_csc_products_are_accounted_for_without_being_opened(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, product in (1, "pha"), (2, "pha"), (1, "arf"), (1, "rmf"):
        (source / CSC.format(5, version, product)).touch()
    (source / CSC.format(6, 1, "arf")).touch()
    (source / CSC.format(6, 1, "reg")).touch()
    monkeypatch.setattr(Workspace, "read_bytes", _only("plain.pi", "manifest.json"))
    monkeypatch.setattr(folder_module, "look_into", _look_at_nothing)
    names, _, summary = _found(source)
    assert names.keys() == {"plain.pi", CSC.format(5, 2, "pha")}
    assert summary["files"] == {
        "listed": 7,
        "spectra": 2,
        "companions": 2,
        "unused": 2,
        "set_aside": 0,
        "overlooked": 1,
    }


def _look_at_nothing(folder: Workspace, names: list[str]) -> Iterator[tuple[str, bool]]:
    assert names == []
    return iter(())


def _only(*allowed: str) -> Any:
    read = Workspace.read_bytes

    def read_bytes(self: Workspace, name: str) -> bytes:
        assert name.endswith(allowed), name
        return read(self, name)

    return read_bytes


def test_no_more_files_are_looked_into_than_allowed(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_module, "MOST_LOOKS", 2)
    for number in range(5):
        (source / f"x{number}.fits").write_bytes(_spectrum(number + 1))
    names, _, summary = _found(source)
    assert len(names) == 3
    assert summary["overlooked_suffixes"] == {".fits": 3}
    assert "3 FITS files of other names are not looked into: more than 2" in caplog.text


def test_a_hidden_file_is_not_listed(source: Path) -> None:
    (source / ".DS_Store").touch()
    (source / "._plain.pi").touch()
    (source / ".gone.pi").symlink_to("nowhere")
    skipped: list[Skipped] = []
    assert [file.name for file in list_files(Workspace(source), skipped)] == ["plain.pi"]
    assert skipped == []


def test_nothing_is_lost_in_a_folder_of_everything(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cases", tmp_path / "s")
    _, _, summary = _found(tmp_path / "s")
    assert summary["files"]["listed"] == sum(
        len(files) for _, _, files in os.walk(shared_data / "cases")
    )

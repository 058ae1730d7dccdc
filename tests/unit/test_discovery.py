from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.discovery.discover import discover
from raypipe.discovery.listing import CscFiles, looks_like_pha
from raypipe.discovery.own_ids import own_ids
from raypipe.discovery.release import folder_release
from raypipe.errors import RaypipeError, UsageError
from raypipe.identity import stem
from raypipe.store.layout import manifest_folder
from raypipe.store.manifest import choose_release, read_manifest_summary
from raypipe.store.workspace import Workspace, check_name


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_the_newest_version_of_each_product_wins(memory: int, tmp_path: Path) -> None:
    names = [
        "d/acisf04487_001N022_r0009_arf3.fits.gz",
        "d/acisf04487_001N021_r0009_arf3.fits.gz",
        "d/acisf04487_001N023_r0009_pha3.fits.gz",
        "d/acisf04487_001N022_r0009_rmf3.fits.gz",
        "d/acisf00010_000N001_e2_r0001_pha3.fits.gz",
        "d/acisf00010_000N001_e1_r0001_pha3.fits.gz",
        "d/acisf00011_000N001_r0001_arf3.fits.gz",
        "d/readme.txt",
    ]
    rows = []
    for order in names, names[::-1]:
        files = CscFiles(tmp_path / "scratch", memory)
        assert [name for name in order if not files.add(name, "1@2")] == ["d/readme.txt"]
        found = pa.concat_tables(files.detections("csc2.1", "s3://b/")).sort_by("obsid")
        rows.append(found.to_pylist())
    assert rows[0] == rows[1]
    interleaved, versions = rows[0]
    assert versions["detection_id"] == "csc2.1:4487.1.9"
    assert (versions["obsid"], versions["obi"], versions["region_id"]) == (4487, 1, 9)
    assert versions["pha_uri"] == "s3://b/d/acisf04487_001N023_r0009_pha3.fits.gz"
    assert versions["arf_uri"].endswith("N022_r0009_arf3.fits.gz")
    assert versions["files_stamp"] == "1@2 1@2 1@2 "
    assert "_e1_" in interleaved["pha_uri"]
    assert interleaved["arf_uri"] is None
    assert interleaved["files_stamp"] == "1@2   "


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3c273.pi", True),
        ("q1127_src1.pi.gz", True),
        ("source.PHA", True),
        ("my_pha_3.fits", True),
        ("spectrum.fits.gz", True),
        ("3c273.arf", False),
        ("evt2.fits", False),
        ("picture.fits", False),
    ],
)
def test_which_names_look_like_spectra(name: str, expected: bool) -> None:
    assert looks_like_pha(name) is expected


def test_stems() -> None:
    assert stem("a/b/q1127_src1.pi.gz") == "q1127_src1"
    assert stem("3c273.pi") == "3c273"


def test_own_spectra_find_their_companions(shared_data: Path, tmp_path: Path) -> None:
    summary = discover(tmp_path, source=str(shared_data / "ciao"))
    rows = Workspace(tmp_path).read_folder(manifest_folder(summary["release"])).to_pandas()
    rows = rows.set_index("detection_id")
    assert sorted(rows.index) == [
        f"file:{name}" for name in ("3c273", "9774", "bubble", "obs1", "obs2", "obs3", "q1127_src1")
    ]
    bright = rows.loc["file:q1127_src1"]
    assert Path(bright.rmf_uri).name == "q1127_src1.wrmf.gz"
    assert Path(bright.background_uri).name == "q1127_bkg1.pi.gz"


def _touch(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"acisf{i:05d}_000N001_r0001_pha3.fits.gz").touch()


def test_parts_cover_the_manifest_and_stale_ones_go(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 40)
    workspace = Workspace(tmp_path / "w")
    settings = {"discover": {"part_rows": 5}}
    first = discover(workspace, source=str(tmp_path / "s"), config=settings)
    assert first["parts"] == 8
    again = discover(workspace, source=str(tmp_path / "s"), config=settings)
    assert again == first
    fewer = discover(workspace, source=str(tmp_path / "s"), config={"discover": {"part_rows": 20}})
    assert len(workspace.files("manifest/s", ".parquet")) == fewer["parts"] == 2
    ids = workspace.read_folder("manifest/s")["detection_id"].to_pylist()
    assert sorted(ids) == sorted(f"s:{i}.0.1" for i in range(40))


def test_what_cannot_be_discovered_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no spectra there"):
        discover(tmp_path / "w", source=str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no such folder"):
        discover(tmp_path / "w", source=str(tmp_path / "absent"))
    (tmp_path / "x.pi").touch()
    with pytest.raises(UsageError, match=rf"x\.pi: a file; .*--source {tmp_path}$"):
        discover(tmp_path / "w", source=str(tmp_path / "x.pi"))
    (tmp_path / "empty" / "survey.json").write_text("{")
    with pytest.raises(UsageError, match=r"survey\.json"):
        discover(tmp_path / "w", source=str(tmp_path / "empty"))


def test_releases_cannot_lead_out_of_the_workspace(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 1)
    (tmp_path / "s" / "survey.json").write_text('{"release": "../../victim"}')
    with pytest.raises(UsageError, match="victim"):
        discover(tmp_path / "w", source=str(tmp_path / "s"))
    with pytest.raises(UsageError, match="release"):
        discover(tmp_path / "w", source=str(tmp_path / "s"), release="..")


def test_files_of_one_stem_stay_apart(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "a.pi", "a.pha", "b/a.pi", "c.pi.gz")
    assert _ids_by_name(tmp_path) == {
        "a.pha": "file:a",
        "a.pi": "file:a.pi",
        "b/a.pi": "file:b/a.pi",
        "c.pi.gz": "file:c",
    }


def test_a_detection_id_stays_when_files_of_its_stem_come_and_go(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    assert _ids_by_name(tmp_path) == {"b/a.pi": "file:a"}
    _unreadable_spectra(tmp_path / "s", "a.pha", "a.pi")
    grown = {"b/a.pi": "file:a", "a.pha": "file:a.pha", "a.pi": "file:a.pi"}
    assert _ids_by_name(tmp_path) == grown
    (tmp_path / "s" / "b" / "a.pi").unlink()
    del grown["b/a.pi"]
    assert _ids_by_name(tmp_path) == grown


def test_detection_ids_move_with_the_folder(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    _ids_by_name(tmp_path)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    _unreadable_spectra(tmp_path / "elsewhere", "a.pi")
    moved = _ids_by_name(tmp_path, "elsewhere")
    assert moved == {"b/a.pi": "file:a", "a.pi": "file:a.pi"}


def test_detection_ids_outlive_a_killed_run(tmp_path: Path) -> None:
    _unreadable_spectra(tmp_path / "s", "b/a.pi")
    _ids_by_name(tmp_path)
    (tmp_path / "w" / "manifest" / "mine" / "manifest.json").unlink()
    _unreadable_spectra(tmp_path / "s", "a.pi")
    assert _ids_by_name(tmp_path) == {"b/a.pi": "file:a", "a.pi": "file:a.pi"}


@given(
    st.lists(
        st.sampled_from(["a.pi", "a.pi.pha", "a.pha", "b/a.pi", "b/c/a.pi.gz", "c/a", "a"]),
        unique=True,
    ),
    st.data(),
)
def test_ids_are_unique_and_stay(names: list[str], data: st.DataObject) -> None:
    before = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    published = own_ids(before, {})
    ids = own_ids(names, published)
    assert ids.keys() == set(names)
    assert len(set(ids.values())) == len(names)
    assert published.items() <= ids.items()


def _unreadable_spectra(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not a spectrum")


def _ids_by_name(folder: Path, source: str = "s") -> dict[str, str]:
    discover(folder / "w", source=str(folder / source), release="mine")
    rows = Workspace(folder / "w").read_folder("manifest/mine")
    names = (uri.removeprefix(f"{folder / source}/") for uri in rows["pha_uri"].to_pylist())
    return dict(zip(names, rows["detection_id"].to_pylist(), strict=True))


def test_releases_are_chosen_or_asked_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(UsageError, match="no release"):
        choose_release(workspace, None)
    _touch(tmp_path / "s", 1)
    discover(workspace, source=str(tmp_path / "s"), release="one")
    assert choose_release(workspace, None) == "one"
    discover(workspace, source=str(tmp_path / "s"), release="two")
    with pytest.raises(UsageError, match="choose one with --release"):
        choose_release(workspace, None)
    with pytest.raises(UsageError, match="no release three"):
        choose_release(workspace, "three")
    workspace.delete("manifest/one/manifest.json")
    with pytest.raises(RaypipeError, match="no whole manifest"):
        read_manifest_summary(workspace, "one")


@pytest.mark.parametrize(
    ("folder", "release"),
    [
        ("my_spectra", "my_spectra"),
        ("csc2.1", "csc2.1"),
        ("M 31 (new)", "M-31-new"),
        ("données", "donnees"),
        (".hidden", "hidden"),
        ("x" * 200, "x" * 56 + "-aa20c23"),
    ],
)
def test_a_folder_names_its_release(folder: str, release: str, tmp_path: Path) -> None:
    _touch(tmp_path / folder, 1)
    summary = discover(tmp_path / "w", source=f"{tmp_path / folder}/")
    assert summary["release"] == release
    rows = Workspace(tmp_path / "w").read_folder(manifest_folder(release))
    assert rows["detection_id"].to_pylist() == [f"{release}:0.0.1"]


def test_a_bucket_names_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    names = {
        "s3://bucket": "bucket",
        "s3://bucket/a/b c/": "b-c",
        "s3://bucket/csc2.1": "csc2.1",
    }
    assert {uri: folder_release(Workspace(uri)) for uri in names} == names


def test_a_relative_folder_names_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert [folder_release(Workspace(uri)) for uri in (".", "..", "../b")] == ["b", "a", "b"]


@pytest.mark.parametrize("folder", ["___", "日本", "(-)"])
def test_a_folder_without_a_name_asks_for_one(folder: str, tmp_path: Path) -> None:
    _touch(tmp_path / folder, 1)
    with pytest.raises(UsageError, match=r"gives no name .* --release mine"):
        discover(tmp_path / "w", source=str(tmp_path / folder))
    summary = discover(tmp_path / "w", source=str(tmp_path / folder), release="mine")
    assert summary["release"] == "mine"


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=120))
def test_any_folder_gives_a_legal_name_or_asks_for_one(name: str) -> None:
    try:
        release = folder_release(Workspace(f"/data/{name}"))
    except UsageError:
        assert name == ".." or not re.search("[A-Za-z0-9]", name)
    else:
        assert check_name(release, "release") == release
        assert len(release) <= 64


def test_the_root_of_a_disk_asks_for_a_name() -> None:
    with pytest.raises(UsageError, match="--release mine"):
        folder_release(Workspace("/"))


def test_what_is_said_counts_before_the_name_of_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "s", 1)
    settings = {"discover": {"release": "set"}}

    def named(**arguments: Any) -> str:
        summary = discover(tmp_path / "w", source=str(tmp_path / "s"), **arguments)
        return str(summary["release"])

    assert named(config=settings) == "set"
    assert named(config=settings, release="said") == "said"
    (tmp_path / "s" / "survey.json").write_text('{"release": "survey"}')
    assert named(config=settings) == "survey"
    assert named(release="said") == "said"


def test_another_folder_of_the_same_name_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in "a", "b":
        (tmp_path / place).mkdir()
        _touch(tmp_path / place / "s", 1)
        discover(tmp_path / "w", source=str(tmp_path / place / "s"))
    was, now = tmp_path / "a" / "s", tmp_path / "b" / "s"
    assert f"release s is that of {was}, and becomes that of {now}; --release NAME" in caplog.text

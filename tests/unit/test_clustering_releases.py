"""Clusters of one release after another: those that persist keep their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import raypipe
from raypipe.catalog.schema import triangles
from raypipe.errors import UsageError
from raypipe.model.bundle import Model, load_model, save_model
from raypipe.model.covariance import pack
from raypipe.store.layout import model_folder
from raypipe.store.manifest import summary_name
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table

SOURCES = 80
OPTIONS = {"cluster": {"directions": 3, "starts": 2}}
Groups = dict[int, int]
"""Group of each source, by number; sources of a group have similar spectra."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, pa.Table]:
    """Two detections of each source, source by source, and the model that measured them."""
    made = make_workspace(tmp_path_factory.mktemp("w"), 2 * SOURCES)
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    return model, read_detections(made.workspace, RELEASE, made.models[0])


class Releases:
    """Publish catalogs of several releases in one workspace, and find their clusters."""

    def __init__(self, workspace: Workspace, model: Model, rows: pa.Table) -> None:
        self.workspace, self.model, self.rows = workspace, model, rows
        save_model(model, workspace, model_folder(model.model_id))

    def publish(self, release: str, groups: Groups, seed: int = 0) -> None:
        """Publish a release of these sources; another seed changes the latents of all of them."""
        rows = self.rows.take([i for source in groups for i in (2 * source, 2 * source + 1)])
        rng = np.random.default_rng(seed)
        z = 4.0 * np.eye(8)[np.repeat(list(groups.values()), 2)]
        z += rng.normal(0.0, 0.2, z.shape)
        covariance = pack(np.broadcast_to(0.01 * np.eye(8), (len(z), 8, 8)))
        ids = pc.replace_substring(rows["detection_id"], f"{RELEASE}:", f"{release}:")
        new = {f"z{i}": pa.array(z[:, i]) for i in range(8)}
        for name, column in {"detection_id": ids, "z_cov": triangles(covariance), **new}.items():
            place = rows.column_names.index(name)
            rows = rows.set_column(place, rows.schema.field(place).with_type(column.type), column)
        summary = {"rows": len(rows), "parts": 1, "source": "here"}
        self.workspace.write_json(summary_name(release), summary)
        publish_table(self.workspace, self.model, rows, release)

    def cluster(self, release: str, clusters: int, previous: str | None = None) -> dict[int, int]:
        """Find clusters of a release, and return the number that each source's has."""
        raypipe.cluster(
            self.workspace, release=release, clusters=clusters, previous=previous, config=OPTIONS
        )
        frame = raypipe.open_catalog(self.workspace, release=release)
        obsid = frame["detection_id"].str.extract(r":(\d+)\.")[0].astype(int)
        found = frame["cluster"].groupby(obsid // 2).unique()
        assert found.str.len().eq(1).all(), "detections of a source are in one cluster here"
        return {int(source): int(numbers[0]) for source, numbers in found.items()}


@pytest.fixture
def releases(tmp_path: Path, embedded: tuple[Model, pa.Table]) -> Releases:
    return Releases(Workspace(tmp_path), *embedded)


def sources(first: int, last: int, group: int) -> Groups:
    return dict.fromkeys(range(first, last), group)


def numbers_of(found: dict[int, int], groups: Groups) -> dict[int, int]:
    """Return the number of each group's cluster; every group has to be one cluster."""
    pairs: dict[int, set[int]] = {}
    for source, group in groups.items():
        pairs.setdefault(group, set()).add(found[source])
    assert all(len(numbers) == 1 for numbers in pairs.values()), pairs
    return {group: numbers.pop() for group, numbers in pairs.items()}


FIRST = sources(0, 25, 0) | sources(25, 45, 1) | sources(45, 60, 2)


def test_a_new_release_keeps_numbers_and_gives_new_ones_to_new_clusters(
    releases: Releases,
) -> None:
    """Sources are dropped, added and measured again, a group vanishes, and another is new."""
    releases.publish("first", FIRST)
    before = numbers_of(releases.cluster("first", 3), FIRST)
    assert sorted(before.values()) == [0, 1, 2]
    second = sources(5, 25, 0) | sources(25, 40, 1) | sources(60, 70, 1) | sources(70, 80, 3)
    releases.publish("second", second, seed=1)
    after = numbers_of(releases.cluster("second", 3, previous="first"), second)
    assert after == {0: before[0], 1: before[1], 3: 3}
    table = raypipe.open_clusters(releases.workspace, release="second")
    assert table["cluster"].tolist() == sorted(after.values())
    shown = raypipe.open_catalog(releases.workspace, release="second")
    assert {f"p_cluster_{number}" for number in after.values()} <= set(shown)
    assert f"p_cluster_{before[2]}" not in shown

    third = sources(5, 25, 0) | sources(45, 60, 2) | sources(70, 80, 3)
    releases.publish("third", third, seed=2)
    last = numbers_of(releases.cluster("third", 3, previous="second"), third)
    assert (last[0], last[3]) == (before[0], 3)
    assert last[2] == 4, "a number that was given once is not given to another cluster"


def test_a_cluster_that_is_split_keeps_its_number_where_most_sources_are(
    releases: Releases,
) -> None:
    first = sources(0, 40, 0) | sources(40, 60, 1)
    releases.publish("first", first)
    before = numbers_of(releases.cluster("first", 2), first)
    second = sources(0, 15, 2) | sources(15, 40, 0) | sources(40, 60, 1)
    releases.publish("second", second)
    after = numbers_of(releases.cluster("second", 3), second)
    assert after == {0: before[0], 1: before[1], 2: 2}


def test_detections_without_a_name_are_followed_by_their_file(
    tmp_path: Path, embedded: tuple[Model, pa.Table]
) -> None:
    model, rows = embedded
    place = rows.column_names.index("name")
    unnamed = rows.set_column(place, "name", pa.nulls(len(rows), pa.string()))
    releases = Releases(Workspace(tmp_path), model, unnamed)
    releases.publish("first", FIRST)
    before = numbers_of(releases.cluster("first", 3), FIRST)
    releases.publish("second", FIRST, seed=1)
    assert numbers_of(releases.cluster("second", 3), FIRST) == before


def test_without_a_choice_the_newest_clusters_of_another_release_decide(
    releases: Releases,
) -> None:
    releases.publish("first", FIRST)
    releases.cluster("first", 3)
    other = sources(60, 80, 0) | sources(25, 45, 1)
    releases.publish("other", other)
    newest = numbers_of(releases.cluster("other", 2), other)
    assert newest == {1: newest[1], 0: 3}
    third = sources(45, 60, 2) | sources(60, 80, 0)
    releases.publish("third", third)
    assert numbers_of(releases.cluster("third", 2), third) == {0: 3, 2: 4}


def test_another_previous_release_numbers_the_clusters_again(releases: Releases) -> None:
    """The numbers of a named release win over those that the release itself has."""
    releases.publish("first", FIRST)
    releases.cluster("first", 3)
    second = sources(25, 45, 1) | sources(60, 80, 3)
    releases.publish("second", second)
    numbers_of(releases.cluster("second", 2), second)
    releases.publish("mine", second)
    mine = numbers_of(releases.cluster("mine", 2, previous="second"), second)
    assert mine[3] == 3
    again = numbers_of(releases.cluster("mine", 2, previous="first"), second)
    assert again[1] == mine[1]
    releases.publish("fourth", second)
    with pytest.raises(UsageError, match="has no clusters of this release"):
        releases.cluster("mine", 2, previous="fourth")


def test_a_split_and_a_merge_share_one_number_at_most(releases: Releases) -> None:
    releases.publish("first", FIRST)
    before = numbers_of(releases.cluster("first", 3), FIRST)
    merged = sources(0, 25, 0) | sources(25, 45, 1) | sources(45, 60, 1)
    releases.publish("second", merged)
    after = numbers_of(releases.cluster("second", 2), merged)
    assert after == {0: before[0], 1: before[1]}

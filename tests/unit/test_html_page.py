"""The report: self-contained, escaped, and there whatever the workspace lacks."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import raypipe
from raypipe.config import ReportConfig
from raypipe.errors import RaypipeError
from raypipe.evaluation.evaluate import evaluate
from raypipe.evaluation.evaluated_catalog import choose_catalog, metrics_name
from raypipe.html.page import minus, number_cell, text_cell
from raypipe.reporting.detections import (
    DETECTIONS_SHOWN,
    detections_section,
    order_of_interest,
    remarks,
)
from raypipe.reporting.report import report
from raypipe.reporting.report_data import (
    gather_report_data,
)
from raypipe.reporting.sections import group_rejects
from raypipe.searching.strangest import BADLY_FIT, FAR, Significances
from raypipe.store.layout import model_folder, spectra_folder
from raypipe.store.publication import require_publication
from tests.unit.page_outline import outline_of
from tests.unit.synthetic_workspace import NASTY_NAME, RELEASE, make_workspace


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    made = make_workspace(folder, detections=120, presets=("folded", "paper"))
    settings = {"evaluate": {"folds": 2, "mixture_components": 4, "neighbors": 5}}
    evaluate(made.workspace, labels=made.truth, config=settings)
    uri = report(str(folder), labels=made.truth)
    assert uri == f"{folder}/reports/{RELEASE}/folded-test.html"
    return Path(uri).read_text()


def test_page_loads_nothing_from_elsewhere(full_page: str) -> None:
    outline = outline_of(full_page)
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]*", "", full_page)
    assert all(ref.startswith(("#", "data:image/png;base64,")) for ref in outline.references)
    assert not outline.tags & {"script", "link", "iframe", "object", "embed"}
    assert "@import" not in full_page


def test_ids_are_unique_and_references_resolve(full_page: str) -> None:
    outline = outline_of(full_page)
    assert len(outline.ids) == len(set(outline.ids))
    wanted = {ref[1:] for ref in outline.references if ref.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", full_page))
    assert wanted <= set(outline.ids)


def test_text_of_the_data_is_escaped(full_page: str) -> None:
    assert "<script" not in full_page
    assert "no &lt;SPECTRUM&gt; &amp; nothing else" in full_page
    assert "no <SPECTRUM> & nothing else" in "".join(outline_of(full_page).text)


def test_page_shows_what_was_measured(full_page: str) -> None:
    text = " ".join("".join(outline_of(full_page).text).split())
    for expected in (
        "Excess Cash per bin",
        "Balanced accuracy, ",
        "published (arXiv:2510.14102)",
        "latents (paper)",
        "121 detections in the manifest = 120 spectra + 1 reject.",
        "The worst explained",
        "Trained on",
        "t-SNE",
    ):
        assert expected in text, expected


def test_a_small_unlabeled_catalog_shows_every_detection(tmp_path: Path) -> None:
    make_workspace(tmp_path, detections=6, labels=False, seen=False)
    page = Path(report(str(tmp_path))).read_text()
    text = " ".join("".join(outline_of(page).text).split())
    assert all(f"sim:{i}.0.1" in text for i in range(6))
    assert page.count("counts s⁻¹ keV⁻¹") == 6
    assert NASTY_NAME in text
    assert "has not been evaluated" in text
    evaluate(str(tmp_path))
    page = Path(report(str(tmp_path))).read_text()
    assert ">not measured<" not in page
    assert "Mean of the Cash z-scores" in page
    assert "statistic that the model would have without noise" not in page
    assert "no row has a class" in page


def test_the_page_opens_with_what_went_in_what_came_out_and_what_was_found(
    full_page: str,
) -> None:
    opening = full_page[full_page.index("<section") : full_page.index('id="detections"')]
    text = " ".join("".join(outline_of(f"{opening}></section>").text).split())
    assert ">120 spectra<" in opening
    assert "of 61 sources, release sim, by CHANDRA ACIS; 1 more could not be used" in text
    assert ">8 latents<" in opening
    assert "with their errors; fluxes" in text
    assert "probabilities of 8 classes" in text
    assert len(re.findall("<li>", opening)) == 3
    assert re.search(r"8 latents explain \d+\.\d% of the spectra", text)
    assert "have a balanced accuracy of" in text
    assert opening.count("<figure") == 3
    assert "<a href" not in opening


def test_detections_lead_to_the_explorer(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=60)
    raypipe.explore(made.workspace)
    page = Path(report(str(tmp_path)))
    addresses = set(re.findall(r'href="([^"#]+)#detection=([^"]+)"', page.read_text()))
    assert len(addresses) > 50
    assert {name for name, _ in addresses} == {"../../explorer/sim/folded-test.html"}
    assert (page.parent / "../../explorer/sim/folded-test.html").exists()
    assert ("../../explorer/sim/folded-test.html", "sim%3A30.0.1") in addresses


def test_the_table_of_the_detections_follows(full_page: str) -> None:
    opening = full_page[full_page.index('id="detections"') : full_page.index('id="unusual"')]
    assert full_page.index("<section") < full_page.index('id="detections"')
    assert full_page.count("<section", 0, full_page.index('id="unusual"')) == 3
    for title in ("counts", "hardness", "label", "likely class", "p", "unusual"):
        assert re.search(f"<th[^>]*>{title}</th>", opening), title
    rows = opening[opening.index("<tbody>") : opening.index("</tbody>")]
    assert rows.count("<tr>") == DETECTIONS_SHOWN
    assert f"{DETECTIONS_SHOWN} of 120 detections" in opening
    assert f"catalog/{RELEASE}/folded-test/" in opening
    assert "64 labeled training spectra of release sim (AGN 8, CV 8," in opening


def test_unusual_detections_come_first_and_the_others_by_counts(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=12)
    data = gather_report_data(
        made.workspace, choose_catalog(made.workspace, None, None), None, ReportConfig()
    )
    sigmas = np.linspace(-1, 1, 12)
    sigmas[[3, 7]] = 8.0, 9.0
    quiet = replace(
        data,
        significances={
            FAR: Significances(FAR, np.full(12, 0.5)),
            BADLY_FIT: Significances(BADLY_FIT, sigmas),
        },
    )
    order = order_of_interest(quiet)
    assert order[:2] == [7, 3]
    assert (quiet.catalog["total_counts"].iloc[order[2:]].diff().dropna() <= 0).all()
    text = " ".join("".join(outline_of(detections_section(quiet)).text).split())
    assert text.count("badly fit (") == 2
    assert text.count("far (") == 0


def test_search_and_report_agree_on_what_is_unusual(full_page: str, tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=120)
    answer = raypipe.search(made.workspace, strangest=True, k=3)
    data = gather_report_data(
        made.workspace, choose_catalog(made.workspace, None, None), None, ReportConfig()
    )
    for ranking, found in data.significances.items():
        rows = answer[answer["ranking"] == ranking]
        own = data.catalog["detection_id"].iloc[found.most(3, found.sigmas)]
        np.testing.assert_allclose(rows["sigmas"], np.sort(found.sigmas)[::-1][:3], rtol=1e-6)
        assert set(own) == set(rows["detection_id"]) or rows["sigmas"].nunique() < 3
        assert found.remark() == answer.attrs["remarks"][ranking]
        assert found.remark() in " ".join("".join(outline_of(full_page).text).split())


@pytest.mark.parametrize("detections", [1, 2])
def test_the_smallest_catalogs_have_a_page(tmp_path: Path, detections: int) -> None:
    make_workspace(tmp_path, detections=detections, labels=False, seen=False)
    evaluate(str(tmp_path))
    page = Path(report(str(tmp_path))).read_text()
    outline_of(page)
    assert page.count("counts s⁻¹ keV⁻¹") == detections


def test_page_without_model_or_spectra_says_so(tmp_path: Path) -> None:
    make_workspace(tmp_path, detections=6)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / model_folder("folded-test"), elsewhere)
    text = "".join(outline_of(Path(report(str(tmp_path))).read_text()).text)
    assert "The bundle of folded-test is not in this workspace" in text
    evaluate(str(tmp_path), model=str(elsewhere))
    page = Path(report(str(tmp_path), model=str(elsewhere))).read_text()
    assert page.count("counts s⁻¹ keV⁻¹") == 6
    assert "Trained on" in page
    make_workspace(tmp_path, detections=6)
    shutil.rmtree(tmp_path / spectra_folder(RELEASE))
    text = "".join(outline_of(Path(report(str(tmp_path))).read_text()).text)
    assert "spectra of this catalog's detections are not in this workspace" in text
    assert "run raypipe ingest again" in text


@pytest.mark.slow
def test_a_page_of_400_classes(tmp_path: Path) -> None:
    names = [f"class {i:03d}" for i in range(400)]
    made = make_workspace(tmp_path, detections=1600, classes=names)
    settings = {"evaluate": {"folds": 2, "mixture_components": 4, "neighbors": 5}}
    evaluate(made.workspace, labels=made.truth, config=settings)
    page = Path(report(str(tmp_path), labels=made.truth)).read_text()
    text = " ".join("".join(outline_of(page).text).split())
    assert "classes, the most frequent first" in text
    assert "other (371 classes)" in text
    assert len(page) < 6_000_000


@pytest.mark.parametrize(
    "changed", [{"data": "x"}, {"classification": [1, 2]}, {"comparison": [3]}]
)
def test_metrics_of_another_shape_are_an_error_that_says_what_to_do(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    made = make_workspace(tmp_path, detections=6)
    name = metrics_name(RELEASE, made.models[0])
    made.workspace.write_json(name, {"data": {}, "comparison": []} | changed)
    with pytest.raises(RaypipeError, match=f"{next(iter(changed))}.*raypipe evaluate again"):
        report(str(tmp_path))


def test_cells() -> None:
    assert number_cell(None) == number_cell(float("nan")) == '<td class="number">–</td>'
    assert ">−0.50 <small>± 0.10</small><" in number_cell(-0.5, "+.2f", 0.1)
    assert "&lt;b&gt;" in text_cell("<b>", "<i>")


def test_a_detection_without_latents_is_counted_not_shown(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=8, seen=False)
    (name,) = require_publication(made.workspace, RELEASE, "folded-test").parts
    broken = made.workspace.read_table(name).to_pandas()
    broken.loc[3, ["z0", "fit_zscore"]] = np.nan
    made.workspace.write_table(name, pa.Table.from_pandas(broken, preserve_index=False))
    metrics = evaluate(str(tmp_path))
    assert metrics["data"]["n_rows"] == 7
    assert metrics["data"]["n_rows_without_latents"] == 1
    page = Path(report(str(tmp_path))).read_text()
    assert page.count("counts s⁻¹ keV⁻¹") == 7


def test_a_catalog_without_rows_has_a_page(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=2, seen=False)
    published = require_publication(made.workspace, RELEASE, "folded-test")
    (name,) = published.parts
    made.workspace.write_table(name, made.workspace.read_table(name).slice(0, 0))
    listed = made.workspace.read_json(published.name)
    made.workspace.write_json(published.name, listed | {"rows": 0})
    assert evaluate(str(tmp_path))["data"]["n_rows"] == 0
    outline_of(Path(report(str(tmp_path))).read_text())


def test_rejects_with_the_same_problem_are_one_row() -> None:
    rejects = pd.DataFrame(
        {
            "detection_id": ["a", "b", "c"],
            "stage": "read",
            "reason": ["x/a.fits: cut short", "x/b.fits: cut short", "x/c.fits[2]: no COUNTS"],
            "retryable": False,
            "uri": ["x/a.fits", "x/b.fits", "x/c.fits"],
        }
    )
    found = group_rejects(rejects)
    assert found["reason"].tolist() == ["cut short", "[2]: no COUNTS"]
    assert found["detections"].tolist() == [2, 1]
    assert found["uri"].tolist() == ["x/a.fits", "x/c.fits"]


def test_a_detection_is_labeled_by_its_telescope() -> None:
    row = pd.Series({"name": "A2029", "telescope": "ASCA", "instrument": "SIS0", "flags": "a|b"})
    assert remarks(row) == "A2029 · ASCA · SIS0 · a, b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.25", "−0.25"),
        ("-0.00", "0.00"),
        ("3e-14", "3e−14"),
        ("z-scores of -0.1, PCA-8", "z-scores of −0.1, PCA-8"),
    ],
)
def test_minus_signs_are_those_of_numbers(text: str, shown: str) -> None:
    assert minus(text) == shown

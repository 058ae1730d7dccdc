"""The questions of the study asked of a whole workspace, and two evaluations compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raypipe.evaluation import study, symbolic
from raypipe.evaluation.compare_runs import comparison_text
from raypipe.evaluation.evaluate import evaluate
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog, earlier_metrics, metrics_name
from raypipe.evaluation.published import beside_published
from raypipe.evaluation.questions import few_labels, formulas, time_domain
from raypipe.evaluation.questions.material import Material
from raypipe.evaluation.study import QUESTIONS
from raypipe.model.bundle import load_model
from raypipe.reporting.study import ANSWERS, study_section
from raypipe.store.layout import model_folder
from raypipe.store.publication import read_detections
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace, publish_table

FAST = {"evaluate": {"folds": 2, "mixture_components": 8, "neighbors": 5}}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A workspace whose catalog has fluxes that follow from its counts."""
    made = make_workspace(tmp_path_factory.mktemp("study"), detections=240, seen=False)
    table = read_detections(made.workspace, RELEASE, made.models[0])
    for band in "smh":
        counts = np.asarray(table[f"counts_{band}"].to_numpy(), dtype=np.float64)
        for limit, factor in (("", 1.0), ("_lolim", 0.9), ("_hilim", 1.1)):
            flux = pa.array((counts + 0.5) * factor * 1e-15)
            name = f"flux_{band}{limit}"
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table.append_column(name, flux)
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    publish_table(made.workspace, model, table)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "GENERATIONS", 3)
    monkeypatch.setattr(symbolic, "POPULATION", 60)
    monkeypatch.setattr(formulas, "SEEDS", 2)
    monkeypatch.setattr(time_domain, "PERMUTATIONS", 9)
    monkeypatch.setattr(time_domain, "SUBSAMPLES", 3)
    monkeypatch.setattr(time_domain, "FEWEST_SOURCES", 100)
    monkeypatch.setattr(few_labels, "REPEATS", 2)


def real_table(path: Path, synthetic: Synthetic) -> Path:
    catalog = read_detections(synthetic.workspace, RELEASE, synthetic.models[0]).to_pandas()
    rng = np.random.default_rng(0)
    flux = {f"obs_flux_aper90_{band}": catalog[f"flux_{band}"] for band in "smh"}
    pd.DataFrame(
        {
            **{name: catalog[name] for name in ("obsid", "obi", "region_id")},
            **flux,
            "obs_flux_aper90_b": sum(flux.values()),
            "src_cnts_aper90_b": catalog["total_counts"],
            "var_prob_b": rng.random(len(catalog)),
            "var_inter_prob_b": np.log(catalog["counts_h"] + 1) - np.log(catalog["counts_s"] + 1),
        }
    ).to_parquet(path)
    return path


@pytest.mark.usefixtures("quick")
def test_all_questions_are_answered_and_kept(synthetic: Synthetic, tmp_path: Path) -> None:
    pytest.importorskip("pyoperon")
    table = real_table(tmp_path / "real.parquet", synthetic)
    common: dict[str, Any] = {"labels": synthetic.truth, "config": FAST}
    metrics = evaluate(synthetic.workspace, catalog=table, study=True, **common)
    study = metrics["study"]
    assert list(study) == list(QUESTIONS)
    assert {name: answer["reason"] for name, answer in study.items()} == dict.fromkeys(study)

    sky = study["sky"]["by_class"]["all"]
    assert sky["flux_s"]["difference"] == pytest.approx(0.0)
    variability = study["time_domain"]["quantities"]
    assert variability["var_inter_prob_b"]["free"]["hardness"]["excess"] > 0.2
    assert abs(variability["var_prob_b"]["free"]["hardness"]["excess"]) < 0.15
    by_name = study["quantities"]["quantities"]["hard_hs"]["by_representation"]
    assert {"latents (folded)", "posterior draws", "supervised network on full spectra"} <= set(
        by_name
    )
    clusters = study["clusters"]["by_representation"]["hardness ratios"]["all_classes"]
    assert clusters["balanced_accuracy"] > 2 / 8
    assert len(study["traversals"]["directions"]) == 8 + 3
    curve = study["traversals"]["directions"][0]["curves"]["0"]
    assert len(curve) == len(study["traversals"]["energy_kev"])
    assert set(study["formulas"]["by_direction"]) == {
        *(f"z{i}" for i in range(8)),
        *(f"direction {i}" for i in (1, 2, 3)),
    }
    assert "counts" in study["robustness"]["by_condition"]
    assert study["few_labels"]["repeats"] == 2

    page = study_section(SimpleNamespace(metrics=metrics))  # type: ignore[arg-type]
    assert all(title in page for title, _ in ANSWERS.values())
    assert "not measured" not in page.lower()
    assert page.count("<svg") == 8 + 3 + 1
    falling = [each["name"] for each in study["traversals"]["directions"] if each["name"]]
    assert all(name.replace("-", "−") in page for name in falling)
    rows = {each.question: each for each in beside_published(metrics)}
    accuracy = study["clusters"]["by_representation"]["latents (folded)"]["all_classes"]
    assert rows["Clusters, eight classes"].value == accuracy["balanced_accuracy"]
    assert "of 2 columns" in rows["Mutual information with variability"].ours

    # An evaluation without questions keeps the answers, those of other labels do not hold.
    again = evaluate(synthetic.workspace, **common)
    assert again["study"] == json.loads(json.dumps(study))
    assert evaluate(synthetic.workspace, config=FAST)["study"] == {}


def test_an_interrupted_study_continues_with_the_question_it_was_at(
    synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def question(name: str, error: BaseException | None = None) -> Callable[..., dict[str, Any]]:
        def measure(_: Material) -> dict[str, Any]:
            asked.append(name)
            if error is not None:
                raise error
            return {"reason": None, "name": name}

        return measure

    def evaluated(questions: Mapping[str, Any], **options: Any) -> Any:
        monkeypatch.setattr(study, "QUESTIONS", questions)
        settings = {"evaluate": {**FAST["evaluate"], "questions": list(questions)}}
        return evaluate(synthetic.workspace, config=settings, **options)["study"]

    questions = {"sky": question("sky"), "clusters": question("clusters", KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        evaluated(questions)
    written = earlier_metrics(
        synthetic.workspace, EvaluatedCatalog(RELEASE, synthetic.models[0], None)
    )
    assert written is not None
    assert written["study"]["sky"]["name"] == "sky"
    assert written["summary"], "the figures of every evaluation are there as well"

    # A question that fails does not stop the others, and is asked again.
    questions["clusters"] = question("clusters", ValueError("no such thing"))
    questions["quantities"] = question("quantities")
    found = evaluated(questions)
    assert found["clusters"]["reason"] == "failed with ValueError: no such thing"
    assert found["quantities"]["reason"] is None
    questions["clusters"] = question("clusters")
    assert evaluated(questions)["clusters"]["reason"] is None
    assert asked == ["sky", "clusters", "clusters", "quantities", "clusters"]

    # Other labels are another question.
    evaluated(questions, labels=synthetic.truth)
    assert asked[5:] == ["sky", "clusters", "quantities"]


def test_questions_that_cannot_be_measured_say_why(synthetic: Synthetic) -> None:
    settings = {"evaluate": {**FAST["evaluate"], "questions": ["sky", "time_domain"]}}
    study = evaluate(synthetic.workspace, config=settings)["study"]
    assert set(study) == {"sky", "time_domain"}
    assert all("--catalog" in answer["reason"] for answer in study.values())


def test_a_damaged_file_of_metrics_is_replaced(synthetic: Synthetic) -> None:
    name = metrics_name(RELEASE, synthetic.models[0])
    synthetic.workspace.write_bytes(name, b'{"data": ')
    evaluated = EvaluatedCatalog(RELEASE, synthetic.models[0], None)
    assert earlier_metrics(synthetic.workspace, evaluated) is None
    evaluate(synthetic.workspace, config=FAST)
    assert earlier_metrics(synthetic.workspace, evaluated) is not None


def test_an_evaluation_compared_with_itself_is_the_same(synthetic: Synthetic) -> None:
    evaluate(synthetic.workspace, labels=synthetic.truth, config=FAST)
    model = synthetic.models[0]
    result = evaluate(synthetic.workspace, compare=(model, model))
    assert result["same_detections"]
    assert len(result["figures"]) > 20
    assert {each["verdict"] for each in result["figures"]} == {"same"}
    assert "figures differ by less than 2 sigma" in comparison_text(result)

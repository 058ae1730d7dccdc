"""The figures of the report: they show all counts, classes and groups, and stay small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import raypipe
from raypipe.display.spectrum_figure import (
    BinnedSpectrum,
    group_bins,
    poisson_interval,
    spectrum_figure,
)
from raypipe.display.style import ACCENT, CLASS_STYLE, OTHER_STYLE, SECOND
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.html.page import svg
from raypipe.reporting import figures
from raypipe.reporting.classes import MOST_CLASSES, class_styles, join_rare
from raypipe.reporting.report_data import (
    _read_examples,
    choose_examples,
    choose_worst,
    map_latents,
)
from tests.unit.page_outline import outline_of
from tests.unit.synthetic_workspace import BINS, RELEASE, make_workspace


def catalog(n: int, classes: list[str] | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n, 8)), columns=[f"z{i}" for i in range(8)])
    frame["total_counts"] = rng.permutation(n) + 50
    frame["fit_sigmas"] = rng.permutation(n).astype(float)
    frame["split"] = "test"
    if classes is not None:
        frame["class"] = classes
    return frame


def test_examples_spread_over_counts_and_classes() -> None:
    classes = ["AGN", "YSO", "NS", "CV"] * 50
    frame = catalog(200, classes)
    chosen = choose_examples(frame, wanted=4, seed=1)
    shown = frame.iloc[chosen]
    assert set(shown["class"]) == set(classes)
    quarters = pd.qcut(frame["total_counts"], 4, labels=False).iloc[chosen]
    assert quarters.tolist() == [3, 2, 1, 0]
    assert chosen == choose_examples(frame, wanted=4, seed=1)
    assert frame["fit_sigmas"].iloc[choose_worst(frame)].tolist() == [199.0, 198.0]


def test_small_catalogs_are_shown_whole() -> None:
    frame = catalog(7)
    chosen = choose_examples(frame, wanted=3, seed=0)
    assert sorted(chosen) == list(range(7))
    assert frame["total_counts"].iloc[chosen].is_monotonic_decreasing
    assert choose_worst(frame) == []


@pytest.mark.parametrize(("rows", "method"), [(2, "latents"), (10, "principal"), (60, "t-SNE")])
def test_latent_map_says_how_it_was_made(rows: int, method: str) -> None:
    chart = map_latents(catalog(rows), seed=0)
    assert chart.positions.shape == (rows, 2)
    assert method in chart.method


def test_groups_hold_enough_counts_and_all_of_them() -> None:
    counts = np.array([3, 3, 1, 9, 0, 0, 0, 0, 0, 2], dtype=float)
    starts = group_bins(counts, fewest=5, widest=4)
    assert starts.tolist() == [0, 2, 4]
    assert np.add.reduceat(counts, starts).sum() == counts.sum()
    joined = group_bins(np.array([5.0, 5.0, 1.0]), fewest=5, widest=4)
    assert joined.tolist() == [0, 1]


def test_poisson_interval_agrees_with_gehrels_tables() -> None:
    low, high = poisson_interval(np.array([0.0, 1.0, 10.0]))
    assert low == pytest.approx([0, 0.173, 6.891], abs=2e-3)
    assert high == pytest.approx([1.841, 3.300, 14.267], abs=2e-3)


def test_spectrum_without_counts_or_background_can_be_drawn() -> None:
    zeros = np.zeros(256)
    example = BinnedSpectrum(zeros, zeros + 1e-3, zeros, np.linspace(0.5, 8, 257), 1e4)
    assert "<svg" in svg(spectrum_figure(example))


def test_ink_follows_the_page_and_text_stays_text() -> None:
    drawing = figures.confusion_matrix(np.array([[3, 1], [0, 2]]), ["<A&B>", "$x$"])
    text = svg(drawing)
    assert "currentColor" in text
    assert "&lt;A&amp;B&gt;" in text
    assert "$x$" in text


def test_the_column_density_has_its_subscript() -> None:
    drawing = svg(figures.correlation_map(np.array([[0.5]]), ["log N_H"], ["N_HX"]))
    assert ">log N<tspan" in drawing
    assert "N_HX" in drawing
    outline_of(drawing)


def test_examples_are_drawn_in_the_channel_bins_of_their_response(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, detections=1, seen=False)
    subject = choose_catalog(made.workspace, None, None)
    catalog = raypipe.open_catalog(made.workspace)
    (example,) = _read_examples(made.workspace, RELEASE, catalog, subject.model)
    edges = np.append(BINS.lo_kev, BINS.hi_kev[-1])
    np.testing.assert_array_equal(example.spectrum.edges_kev, edges)


def test_every_class_has_a_look_of_its_own() -> None:
    assert len({color for color, _ in CLASS_STYLE.values()}) == 8
    assert len({marker for _, marker in CLASS_STYLE.values()}) == 8


def test_other_classes_have_looks_of_their_own_too() -> None:
    names = [*CLASS_STYLE, *(f"kind {i:02d}" for i in range(56))]
    styles = class_styles(names)
    assert list(styles) == sorted(names)
    assert len(set(styles.values())) == len(names)
    assert {name: styles[name] for name in CLASS_STYLE} == CLASS_STYLE
    assert OTHER_STYLE not in styles.values()


def test_the_rarest_of_many_classes_are_put_together() -> None:
    few = np.array([f"c{i % MOST_CLASSES}" for i in range(90)] + [None], dtype=object)
    assert join_rare(few) is few
    names = [f"c{i:03d}" for i in range(400) for _ in range(1 + (i < 10))]
    joined = join_rare(np.array([*names, None], dtype=object))
    assert joined[-1] is None
    counts = pd.Series(joined).value_counts()
    assert len(counts) == MOST_CLASSES
    assert counts["other (371 classes)"] == 371
    assert {f"c{i:03d}" for i in range(10)} < set(counts.index)


@pytest.mark.parametrize("n", [MOST_CLASSES, MOST_CLASSES + 1, 400])
def test_figures_of_many_classes_stay_small(n: int) -> None:
    """Numbers in the cells of a matrix up to 30 classes, a picture beyond; no panel per class."""
    matrix = np.diag(np.arange(1, n + 1)) + np.eye(n, k=1, dtype=np.int64)
    names = [f"c{i:03d}" for i in range(n)]
    (axes,) = figures.confusion_matrix(matrix, names).axes
    is_picture = n > MOST_CLASSES
    assert (len(axes.images), len(axes.texts)) == ((1, 0) if is_picture else (0, n * n))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) <= MOST_CLASSES
    if is_picture:
        assert labels[0] == f"c{n - 2:03d} ({n})"
    positions = np.random.default_rng(0).normal(size=(2 * n, 2))
    classes = np.array(names * 2, dtype=object)
    panels = [axes for axes in figures.class_panels(positions, classes).axes if axes.get_visible()]
    assert len(panels) == MOST_CLASSES
    if is_picture:
        assert panels[-1].get_title("left") == f"other ({n - 29} classes) · {2 * (n - 29)}"
    (legend,) = figures.latent_map(positions, classes).legends
    assert len(legend.get_texts()) == MOST_CLASSES


def test_a_picture_shows_what_is_right_and_what_is_wrong() -> None:
    n = MOST_CLASSES + 1
    matrix = np.zeros((n, n), np.int64)
    matrix[:, 0] = 1
    matrix[5] = np.eye(n, dtype=np.int64)[5] * 10
    (axes,) = figures.confusion_matrix(matrix, [f"c{i}" for i in range(n)]).axes
    pixels = np.asarray(axes.images[0].get_array())
    right, wrong = to_rgba(SECOND), to_rgba(ACCENT)
    assert pixels[0, 0] == pytest.approx(right)
    assert pixels[1, 1] == pytest.approx(right)
    assert pixels[2, 1] == pytest.approx(wrong)
    assert pixels[2, 2, 3] == 0

"""Build the explorer's figures with Bokeh; the script of the page fills in their data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    HoverTool,
    LinearColorMapper,
    LogTicker,
    LogTickFormatter,
    PolyAnnotation,
    Range1d,
    Span,
)
from bokeh.plotting import figure

from raypipe.display.style import ACCENT, MUTED, SECOND
from raypipe.exploring.sky import graticule

TICKS_KEV = [0.2, 0.3, 0.5, 1, 2, 3, 5, 8, 10, 20, 30, 50]

_TOOLS = "pan,wheel_zoom,box_zoom,box_select,lasso_select,tap,reset,save"
_HOVER = "window.explorer.hover(cb_data.index.indices)"
_SELECTED = "window.explorer.selected()"


@dataclass(frozen=True)
class Figures:
    """Hold the figures of the page, by the names of their places on it."""

    map: figure
    sky: figure
    counts: figure
    residuals: figure
    flux: figure

    def by_name(self) -> dict[str, Any]:
        """Return the figures by name."""
        return dict(vars(self))


def make_figures(shaded: bool = False, outlined: bool = True) -> Figures:
    """Make all figures; map and sky share their points, and with them selection and filter.

    Where the catalog is `shaded`, an image shows all detections, and the points are those selected.
    Points that are not `outlined` take half the time to draw, and have only filled shapes.
    """
    points = _Points(
        _source("points", "x", "y", "sx", "sy", "value", "size", "shape"),
        _source("coarse", "x", "y", "sx", "sy", "value", "size"),
        LinearColorMapper(name="colors", palette=[MUTED], low=0, high=1, nan_color=MUTED),
        outlined,
    )
    points.all.selected.js_on_change("indices", CustomJS(code=_SELECTED))
    kept = CDSView(filter=BooleanFilter(name="kept"))
    plane = _plane("map", points, kept, ("x", "y"), 460)
    sky = _plane("sky", points, kept, ("sx", "sy"), 380)
    plane.x_range, plane.y_range = Range1d(0, 1), Range1d(0, 1)
    for drawn in (plane, sky) if shaded else ():
        image = _source(f"{drawn.name}_image", "url", "x", "y", "w", "h")
        drawn.image_url(
            "url", "x", "y", "w", "h", source=image, anchor="bottom_left", level="underlay"
        )
    sky.match_aspect = True
    sky.axis.visible = False
    sky.grid.visible = False
    _draw_graticule(sky)
    return Figures(plane, sky, _counts_figure(), _residuals_figure(), _flux_figure())


@dataclass(frozen=True)
class _Points:
    """Hold the points of map and sky: all, and the few that stand for them during a movement."""

    all: ColumnDataSource
    coarse: ColumnDataSource
    mapper: LinearColorMapper
    outlined: bool

    @property
    def style(self) -> dict[str, Any]:
        color = {"field": "value", "transform": self.mapper}
        outline = {"line_width": 0.4, "line_alpha": 0.9} if self.outlined else {}
        line = color if self.outlined else None
        return {
            "size": "size",
            "fill_color": color,
            "fill_alpha": 0.75,
            "line_color": line,
        } | outline


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)


def _plane(
    name: str,
    points: _Points,
    kept: CDSView,
    xy: tuple[str, str],
    height: int,
) -> figure:
    """Make a figure of all points, the shown one with its posterior, and lines that join sources.

    The shown point is marked on a layer above the others, so that these are not drawn again when
    the pointer moves on.
    """
    drawn = figure(
        name=name, tools=_TOOLS, active_scroll="wheel_zoom", output_backend="webgl", height=height,
        sizing_mode="stretch_width", active_drag="pan",
    )  # fmt: skip
    joins = _source(f"{name}_joins", "x0", "y0", "x1", "y1")
    drawn.segment(
        "x0", "y0", "x1", "y1", source=joins, line_color=MUTED, line_alpha=0.5, line_width=1
    )
    shown = drawn.scatter(
        *xy, source=points.all, view=kept, marker="shape", nonselection_fill_alpha=0.12,
        nonselection_line_alpha=0.1, name=f"{name}_points", **points.style,
    )  # fmt: skip
    drawn.scatter(*xy, source=points.coarse, visible=False, name=f"{name}_coarse", **points.style)
    line = {"line_color": ACCENT, "line_alpha": 1, "line_width": 2.5}
    for mark in ("ellipse", "ring"):
        drawn.add_layout(
            PolyAnnotation(name=f"{name}_{mark}", level="overlay", fill_color=None, **line)
        )
    drawn.add_tools(
        HoverTool(tooltips=None, renderers=[shown], callback=CustomJS(code=_HOVER), visible=False)
    )
    drawn.toolbar.logo = None
    drawn.toolbar_location = "above"
    return drawn


def _draw_graticule(sky: figure) -> None:
    parts = graticule()
    lines = sky.multi_line(
        [part[:, 0] for part in parts], [part[:, 1] for part in parts],
        line_color=MUTED, line_alpha=0.4, line_width=0.8, level="underlay",
    )  # fmt: skip
    # The whole sky is in view, whatever points there are.
    sky.x_range.renderers = sky.y_range.renderers = [lines]
    sky.text(
        "x", "y", "text", source=_source("sky_labels", "x", "y", "text"), text_color=MUTED,
        text_font_size="11px", text_align="center", text_baseline="middle", level="underlay",
    )  # fmt: skip


def _energy_figure(name: str, height: int, y_label: str, **more: Any) -> figure:
    drawn = figure(
        name=name, tools="pan,wheel_zoom,box_zoom,reset,save", height=height, x_axis_type="log",
        sizing_mode="stretch_width", x_range=(0.3, 10), **more,
    )  # fmt: skip
    drawn.toolbar.logo = None
    drawn.toolbar.autohide = True
    drawn.xaxis.axis_label = "energy (keV)"
    drawn.yaxis.axis_label = y_label
    drawn.xaxis.ticker = TICKS_KEV
    drawn.min_border_left = 70
    return drawn


def _counts_figure() -> figure:
    drawn = _energy_figure("counts", 270, "counts s⁻¹ keV⁻¹", y_axis_type="log", y_range=(1e-4, 1))
    crosses = _source("crosses_data", "lo", "hi", "mid", "rate", "low", "high")
    fold, background = _source("fold_data", "x", "y"), _source("background_data", "x", "y")
    points, model = {"line_color": SECOND, "line_width": 1.3}, {"line_color": ACCENT}
    drawn.segment("lo", "rate", "hi", "rate", source=crosses, legend_label="counts", **points)
    drawn.segment("mid", "low", "mid", "high", source=crosses, **points)
    drawn.line("x", "y", source=fold, line_width=2, legend_label="fold of the latents", **model)
    drawn.line(
        "x", "y", source=background, line_color=MUTED, line_width=1.5, line_dash="dashed",
        legend_label="background",
    )  # fmt: skip
    drawn.xaxis.axis_label = None
    _log_ticks(drawn)
    _style_legend(drawn)
    return drawn


def _residuals_figure() -> figure:
    drawn = _energy_figure("residuals", 150, "Δ / σ", y_range=(-4, 4))
    source = _source("residuals_data", "lo", "hi", "mid", "value", "low", "high")
    drawn.add_layout(Span(location=0, dimension="width", line_color=ACCENT, line_width=1.5))
    drawn.segment("lo", "value", "hi", "value", source=source, line_color=SECOND, line_width=1.3)
    drawn.segment("mid", "low", "mid", "high", source=source, line_color=SECOND, line_width=1.3)
    return drawn


def _flux_figure() -> figure:
    drawn = _energy_figure(
        "flux", 230, "photons cm⁻² s⁻¹ keV⁻¹", y_axis_type="log", y_range=(1e-7, 1e-3)
    )
    source = _source("flux_data", "x", "y", "low", "high")
    drawn.varea("x", "low", "high", source=source, fill_color=ACCENT, fill_alpha=0.25,
                legend_label="68% of the posterior")  # fmt: skip
    drawn.line("x", "y", source=source, line_color=ACCENT, line_width=2,
               legend_label="flux, response removed")  # fmt: skip
    _log_ticks(drawn)
    _style_legend(drawn)
    return drawn


def _log_ticks(drawn: figure) -> None:
    drawn.yaxis.formatter = LogTickFormatter(min_exponent=2)
    drawn.yaxis.ticker = LogTicker(mantissas=[1, 3], desired_num_ticks=5)


def _style_legend(drawn: figure) -> None:
    drawn.legend.orientation = "horizontal"
    drawn.legend.margin = 0
    drawn.legend.label_text_font_size = "11px"
    drawn.legend.padding = 3
    drawn.legend.background_fill_alpha = 0
    drawn.legend.border_line_alpha = 0
    drawn.add_layout(drawn.legend[0], "above")

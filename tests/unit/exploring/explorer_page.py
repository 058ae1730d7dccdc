"""Use the explorer's page as a person does: point, select, choose."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import numpy.typing as npt

from tests.chromium import Page

READY = "document.documentElement?.dataset.ready"
HOSTILE = '</script><img src=x onerror="window.harmed=1">'
CLASSES = [HOSTILE, "=1+1", "AGN", "CV", "HMXB", "LMXB", "NS", "YSO"]

PIXELS = """
(() => {
  const view = Bokeh.index.get_one(explorer.models("map"));
  const box = view.canvas_view.el.getBoundingClientRect();
  const { x_scale, y_scale } = view.frame;
  const [x, y] = explorer.places.map;
  return Array.from(x, (_, i) => [box.x + x_scale.compute(x[i]), box.y + y_scale.compute(y[i])]);
})()
"""

MOVE = "(() => { const { x_range } = explorer.models('map'); x_range.start -= 1; })()"


def saved(make: str, rows: str) -> str:
    """Return the code that makes the file of some rows."""
    return f"explorer.catalog.records({rows}).then((each) => {make}(each, explorer.columns, 'x'))"


def hover(page: Page, place: npt.NDArray[np.float64], row: int) -> None:
    """Move the pointer about a point until the page shows it; a busy page drops movements."""
    for i in range(40):
        page.move(place[0] + 0.4 * (i % 2), place[1])
        with suppress(AssertionError):
            page.wait(f"explorer.drawn === {row}", 0.5)
            return
    raise AssertionError(f"{row} is not shown; {page.errors}")


def select_by(page: Page, tool: str, *places: tuple[float, float]) -> None:
    """Drag a tool of the map through some places until it has selected more than one point."""
    activate = f"explorer.models('map').toolbar.tools.find((t) => t.type === '{tool}').active"
    page.run(f"{activate} = true")
    for _ in range(5):
        page.drag(*places)
        with suppress(AssertionError):
            page.wait("explorer.selection.length > 1", 5)
            break
    page.run(f"{activate} = false")


def choose(page: Page, element: str, text: str) -> None:
    """Choose the option of a select element that begins with a text."""
    page.run(
        f"""(() => {{ const s = document.querySelector({element!r});
        s.value = [...s.options].find((o) => o.text.startsWith({text!r})).value;
        s.dispatchEvent(new Event("change")); }})()"""
    )

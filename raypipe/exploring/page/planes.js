// Draw the detections on map and sky: each as a glyph, which is fluid for 50,000 of them.
"use strict";

const HIGHLIGHTED = 5000;

class Glyphs {
  constructor(explorer) {
    this.explorer = explorer;
    this.points = explorer.models("points");
  }

  get selection() {
    return Array.from(this.points.selected.indices);
  }

  select(rows) {
    this.points.selected.indices = rows;
  }

  /** Move the points to their places, {x, y} each. */
  place(map, sky) {
    const from = (values) => Float64Array.from(values);
    this.set({ x: from(map.x), y: from(map.y), sx: from(sky.x), sy: from(sky.y) });
  }

  async paint(color, size) {
    this.set({ value: color.values, shape: color.shapes, size });
  }

  filter(kept) {
    this.explorer.models("kept").booleans = kept;
  }

  set(values) {
    this.points.data = { ...this.points.data, ...values };
  }
}

// Draw the detections on map and sky: each as a glyph, which is fluid for 50,000 of them.
"use strict";

const HIGHLIGHTED = 5000;
const COARSE_POINTS = 4000;
const SLOW_MS = 120;
const REST_MS = 250;

class Glyphs {
  constructor(explorer) {
    this.explorer = explorer;
    this.points = explorer.models("points");
    this.mostMoving = COARSE_POINTS;
    this.resting = {};
    for (const name of ["map", "sky"]) explorer.onMove(name, () => this.moved(name));
  }

  /** Where drawing is slow, draw a part of the points until the view comes to rest. */
  moved(name) {
    const began = performance.now();
    if (this.slow) this.coarsen(name);
    else requestAnimationFrame(() => setTimeout(() => (this.slow ||= performance.now() - began > SLOW_MS)));
  }

  coarsen(name) {
    if (this.points.data.x.length < 2 * this.mostMoving) return;
    const show = (coarse) => {
      for (const part of ["coarse", "points"]) {
        this.renderer(name, part).visible = coarse === (part === "coarse");
      }
    };
    if (!this.resting[name]) {
      this.sample();
      show(true);
    }
    clearTimeout(this.resting[name]);
    this.resting[name] = setTimeout(() => {
      this.resting[name] = null;
      show(false);
    }, REST_MS);
  }

  renderer(name, part) {
    return this.explorer.models(`${name}_${part}`);
  }

  /** Give the coarse points their data: those of every n-th point that passes the filters. */
  sample() {
    const { data } = this.points, { kept } = this.explorer;
    if (this.sampled?.data === data && this.sampled.kept === kept) return;
    this.sampled = { data, kept };
    const rows = [...kept.keys()].filter((row) => kept[row]);
    const step = Math.ceil(rows.length / this.mostMoving);
    const chosen = rows.filter((_, i) => i % step === 0);
    const names = ["x", "y", "sx", "sy", "value", "size"];
    this.explorer.models("coarse").data = Object.fromEntries(
      names.map((name) => [name, Float64Array.from(chosen, (row) => data[name][row])]),
    );
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

/** The server draws all detections as an image; only the selected ones are glyphs. */
class Shaded {
  constructor(explorer) {
    this.explorer = explorer;
    this.points = explorer.models("points");
    this.rows = [];
    this.drawing = { map: 0, sky: 0 };
    for (const name of ["map", "sky"]) {
      const figure = explorer.models(name);
      explorer.onMove(name, () => this.later(name));
      figure.on_event("mousemove", (event) => this.pointed(name, event));
      figure.on_event("tap", (event) => this.tapped(name, event));
      figure.on_event("selectiongeometry", (event) => this.drawn(name, event));
    }
  }

  get selection() {
    return this.rows;
  }

  select(rows) {
    this.rows = rows;
    this.highlight();
    this.explorer.selected();
  }

  place() {
    this.highlight();
    this.later("map");
    this.later("sky");
  }

  async paint(color) {
    this.colors = color;
    this.later("map");
    this.later("sky");
    this.highlight();
  }

  filter() {
    if (this.colors) ["map", "sky"].forEach((name) => this.later(name));
  }

  /** Draw the selected rows over the image, the first of them if there are many. */
  highlight() {
    const places = this.explorer.places;
    if (!places || !this.colors) return;
    const rows = this.rows.slice(0, HIGHLIGHTED);
    const at = (values) => Float64Array.from(rows, (row) => values[row]);
    this.points.data = {
      x: at(places.map[0]), y: at(places.map[1]), sx: at(places.sky[0]), sy: at(places.sky[1]),
      value: at(this.colors.values), size: new Float64Array(rows.length).fill(9),
      shape: rows.map((row) => this.colors.shapes[row]),
    };
    this.explorer.models("kept").booleans = new Array(rows.length).fill(true);
  }

  /** Ask for an image of a figure's ranges once the reader has stopped moving them. */
  later(name) {
    clearTimeout(this.drawing[name]);
    this.drawing[name] = setTimeout(() => this.image(name), 60);
  }

  async image(name) {
    const explorer = this.explorer, figure = explorer.models(name);
    const view = Bokeh.index.get_one(figure);
    if (!view || !this.colors) return;
    const [x, y] = [figure.x_range, figure.y_range].map((range) => [range.start, range.end]);
    if (![...x, ...y].every(Number.isFinite)) return;
    const { width, height } = view.frame.bbox;
    const { gradient, words } = this.colors;
    const place = name === "sky" ? { frame: $("sky-choice").value } : explorer.pair
      ? { latents: explorer.pair.map((i) => explorer.latents[i].name) } : { number: Number($("map-choice").value) };
    const asked = {
      ...place, x, y, width: Math.round(width), height: Math.round(height), column: explorer.colored.name,
      low: this.colors.low, high: this.colors.high, logarithmic: Boolean(gradient?.isLog),
      words: words?.map((each) => explorer.colored.categories.indexOf(each.word)) ?? null,
      dark: document.documentElement.dataset.theme === "dark",
      filters: explorer.filters.map(({ column, low, high, words }) => ({ column: column.name, low, high, words: words && [...words] })),
    };
    const turn = (this.turn = { ...this.turn, [name]: (this.turn?.[name] ?? 0) + 1 })[name];
    const picture = await (await explorer.catalog.ask("image", asked)).blob();
    if (turn !== this.turn[name]) return;
    const source = explorer.models(`${name}_image`), before = source.data.url[0];
    source.data = { url: [URL.createObjectURL(picture)], x: [x[0]], y: [y[0]], w: [x[1] - x[0]], h: [y[1] - y[0]] };
    if (before) setTimeout(() => URL.revokeObjectURL(before), 2000);
    this.images = (this.images ?? 0) + 1;
  }

  /** Return the row nearest to a place, no farther than some pixels; undefined if there is none. */
  nearest(name, { x, y }, pixels = 8) {
    const view = Bokeh.index.get_one(this.explorer.models(name));
    const [xs, ys] = this.explorer.places[name], kept = this.explorer.kept;
    const perX = 1 / Math.abs(view.frame.x_scale.invert(1) - view.frame.x_scale.invert(0));
    const perY = 1 / Math.abs(view.frame.y_scale.invert(1) - view.frame.y_scale.invert(0));
    let found, best = pixels ** 2;
    for (let i = 0; i < xs.length; i++) {
      const square = ((xs[i] - x) * perX) ** 2 + ((ys[i] - y) * perY) ** 2;
      if (square < best && kept[i]) [found, best] = [i, square];
    }
    return found;
  }

  pointed(name, event) {
    if (this.waiting || !this.explorer.places) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      const row = this.nearest(name, event);
      if (row !== undefined) this.explorer.hover([row]);
    });
  }

  tapped(name, event) {
    const row = this.nearest(name, event);
    this.select(row === undefined ? [] : [row]);
  }

  /** Select the rows inside a box or lasso. */
  drawn(name, { geometry, final }) {
    if (!final || !["rect", "poly"].includes(geometry.type)) return;
    const [xs, ys] = this.explorer.places[name], kept = this.explorer.kept;
    const corners = geometry.type === "rect"
      ? [[geometry.x0, geometry.y0], [geometry.x1, geometry.y0], [geometry.x1, geometry.y1], [geometry.x0, geometry.y1]]
      : Array.from(geometry.x, (x, i) => [x, geometry.y[i]]);
    this.select(rowsInside(corners, xs, ys, kept));
  }
}

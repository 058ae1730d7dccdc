// Tie figures, data and controls together. Bokeh draws; this sets the data of its sources.
"use strict";

class Explorer {
  constructor(packed, data, columns, models) {
    Object.assign(this, { packed, data, columns, models, filters: [], shown: null, drawn: 0 });
    this.spectra = new Spectra(packed.spectra, data.kind, data.hasFold, data.exposure);
    this.kept = new Array(packed.n).fill(true);
    this.latents = columns.filter((each) => /^z\d+$/.test(each.name));
  }

  title(row) {
    return this.data.names[row] ?? this.data.ids[row];
  }

  column(name) {
    return this.columns.find((each) => each.name === name);
  }

  get selection() {
    return Array.from(this.models("points").selected.indices);
  }

  // -- places of the points --

  place() {
    const map = $("map-choice").value, sky = this.data.sky[$("sky-choice").value];
    const n = this.packed.n, points = this.models("points");
    this.pair = map === "latents" ? [Number($("x-latent").value), Number($("y-latent").value)] : null;
    $("pair").hidden = !this.pair;
    let x, y;
    if (this.pair) {
      [x, y] = this.pair.map((i) => this.latents[i].values);
      this.nameAxes(...this.pair.map((i) => this.latents[i].name));
      $("map-note").textContent = "";
    } else {
      const chosen = this.data.maps[map];
      [x, y] = [chosen.places.subarray(0, n), chosen.places.subarray(n)];
      this.nameAxes(`${chosen.name} 1`, `${chosen.name} 2`);
      const kept = chosen.kept === null ? "" : ` It keeps ${(100 * chosen.kept).toFixed(0)}% of the 15 nearest neighbors in latent space.`;
      $("map-note").textContent = `Map: ${chosen.method}.${kept}`;
    }
    const [sx, sy] = [sky.places.subarray(0, n), sky.places.subarray(n)];
    this.places = { map: [x, y], sky: [sx, sy] };
    const from = (values) => Float64Array.from(values);
    points.data = { ...points.data, x: from(x), y: from(y), sx: from(sx), sy: from(sy) };
    const labels = sky.labels;
    this.models("sky_labels").data = {
      x: labels.map((each) => each[0]), y: labels.map((each) => each[1]), text: labels.map((each) => each[2]),
    };
    fitRange(this.models("map"), x, y);
    this.join();
    this.mark();
  }

  nameAxes(x, y) {
    const figure = this.models("map");
    figure.below[0].axis_label = x;
    figure.left[0].axis_label = y;
  }

  join() {
    for (const name of ["map", "sky"]) {
      const [x, y] = this.places[name];
      const nothing = { x0: [], y0: [], x1: [], y1: [] };
      this.models(`${name}_joins`).data = $("joined").checked ? joins(this.data.sources, x, y, this.kept) : nothing;
    }
  }

  // -- color, size, filter --

  color() {
    this.colored = this.columns[$("color-choice").value];
    const dark = document.documentElement.dataset.theme === "dark";
    const color = this.colored.categories ? colorWords(this.colored) : colorNumbers(this.colored, this.packed.palette, dark);
    const mapper = this.models("colors"), points = this.models("points");
    mapper.setv({ palette: color.palette, low: color.low, high: color.high });
    const counts = this.column("total_counts")?.values;
    const bySize = $("sized").checked && counts;
    const base = this.packed.n > 20000 ? 3 : this.packed.n > 2000 ? 4.5 : 6;
    const size = Float64Array.from({ length: this.packed.n }, (_, i) =>
      bySize ? Math.min(26, base * (0.5 + 0.45 * Math.log10(1 + counts[i]))) : base * 1.4,
    );
    points.data = { ...points.data, value: color.values, shape: color.shapes, size };
    drawLegend(color, this.colored);
    $("color-about").textContent = this.colored.about;
    this.selected();
  }

  filter() {
    this.kept = passing(this.packed.n, this.filters);
    this.models("kept").booleans = this.kept;
    const number = this.kept.filter(Boolean).length;
    $("filter-count").textContent = `${number.toLocaleString("en-US")} of ${this.packed.n.toLocaleString("en-US")} detections pass.`;
    if (this.places) this.join();
  }

  // -- one detection --

  hover(rows) {
    if (rows.length && $("follow").checked) this.show(rows[0]);
  }

  /** Select a row alone, and show it. */
  pick(row) {
    this.models("points").selected.indices = [row];
    this.show(row);
  }

  async show(row) {
    if (row === this.shown) return;
    this.shown = row;
    const began = performance.now();
    const spectrum = await this.spectra.get(row);
    if (row !== this.shown) return;
    this.spectrum = spectrum;
    describeRow(row, this);
    this.draw();
    this.mark();
    this.drawn = row;
    this.milliseconds = performance.now() - began;
  }

  draw() {
    $("no-spectrum").hidden = Boolean(this.spectrum);
    if (!this.spectrum) {
      for (const name of ["crosses", "fold", "background", "residuals", "flux"]) this.clear(name);
      return;
    }
    const made = spectrumData(this.spectrum, this.packed.poisson);
    for (const [name, data] of Object.entries(made.data)) this.models(`${name}_data`).data = data;
    for (const name of ["counts", "residuals", "flux"]) setRange(this.models(name).x_range, made.energy);
    setRange(this.models("counts").y_range, made.rates);
    setRange(this.models("residuals").y_range, made.residuals);
    setRange(this.models("flux").y_range, made.flux);
  }

  clear(name) {
    const source = this.models(`${name}_data`);
    source.data = Object.fromEntries(Object.keys(source.data).map((key) => [key, []]));
  }

  /** Mark the shown row on map and sky, with its posterior on the map. */
  mark() {
    if (this.shown === null || !this.places) return;
    for (const name of ["map", "sky"]) {
      const [x, y] = this.places[name].map((values) => values[this.shown]);
      this.models(`${name}_current`).data = Number.isFinite(x) ? { x: [x], y: [y] } : { x: [], y: [] };
      if (name === "map") this.models("map_ellipse").data = ellipse(x, y, this.variance());
    }
  }

  variance() {
    const n = this.packed.n, row = this.shown;
    if (!this.pair) {
      const ellipses = this.data.maps[$("map-choice").value].ellipses;
      return [0, 1, 2].map((k) => ellipses[k * n + row]);
    }
    const { std, correlation } = this.spectrum ?? {};
    if (!std) return [NaN, NaN, NaN];
    const [i, j] = this.pair, [low, high] = [Math.min(i, j), Math.max(i, j)];
    const rho = i === j ? 1 : correlation[(high * (high - 1)) / 2 + low];
    return [std[i] ** 2, rho * std[i] * std[j], std[j] ** 2];
  }

  selected() {
    const rows = this.selection;
    fillTable(rows, this);
    if (rows.length) this.show(rows.includes(this.shown) ? this.shown : rows[0]);
  }

  /** Show the next or the previous row of the selection, or of all rows that pass the filters. */
  step(by) {
    const rows = this.selection.length > 1 ? this.selection : [...this.kept.keys()].filter((i) => this.kept[i]);
    if (!rows.length) return;
    const place = rows.indexOf(this.shown);
    this.show(rows[(place + by + rows.length) % rows.length]);
  }

  search() {
    const { rows, how } = findRows($("search").value, Number($("radius").value), this.data);
    const number = rows.length.toLocaleString("en-US");
    $("found-count").textContent = how && `${rows.length === 1 ? "1 detection" : `${number} detections`} found ${how}.`;
    listRows($("found"), rows, this);
    if (rows.length) {
      this.models("points").selected.indices = rows;
      this.show(rows[0]);
    }
  }

  // -- theme --

  theme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "Light" : "Dark";
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((each) => style.getPropertyValue(each).trim());
    for (const name of ["map", "sky", "counts", "residuals", "flux"]) {
      const figure = this.models(name);
      figure.setv({ background_fill_color: card, border_fill_color: card, outline_line_color: line });
      for (const axis of [...figure.below, ...figure.left]) {
        axis.setv({
          axis_label_text_color: ink, major_label_text_color: soft, axis_line_color: soft,
          major_tick_line_color: soft, minor_tick_line_color: line, axis_label_text_font_style: "normal",
        });
      }
      for (const part of [...figure.center, ...figure.above]) {
        if (part.type === "Grid") part.grid_line_color = line;
        if (part.type === "Legend") part.label_text_color = ink;
      }
    }
    for (const name of ["map_ellipse_line", "map_current_ring", "sky_current_ring"]) {
      this.models(name).glyph.line_color = ink;
    }
    if (this.colored) this.color();
  }

  // -- controls --

  connect() {
    fillOptions($("map-choice"), [
      ...this.data.maps.map((each, i) => [i, each.name]),
      ...(this.latents.length > 1 ? [["latents", "two latents"]] : []),
    ]);
    for (const [id, start] of [["x-latent", 0], ["y-latent", 1]]) {
      fillOptions($(id), this.latents.map((each, i) => [i, each.name]));
      $(id).value = start;
    }
    fillOptions($("color-choice"), this.columns.map((each, i) => [i, label(each)]));
    const first = ["class", "likely_class", "total_counts"].map((name) => this.columns.indexOf(this.column(name)));
    $("color-choice").value = Math.max(0, first.find((i) => i >= 0) ?? 0);
    const on = (id, event, action) => $(id).addEventListener(event, action);
    for (const id of ["map-choice", "x-latent", "y-latent", "sky-choice"]) on(id, "change", () => this.place());
    for (const id of ["color-choice", "sized"]) on(id, "change", () => this.color());
    on("joined", "change", () => this.join());
    on("add-filter", "click", () => $("filters").append(filterControls(this, () => this.filter())));
    on("search-form", "submit", (event) => {
      event.preventDefault();
      this.search();
    });
    on("next", "click", () => this.step(1));
    on("previous", "click", () => this.step(-1));
    on("clear", "click", () => (this.models("points").selected.indices = []));
    on("save-csv", "click", () => saveFile(`${this.packed.file}.csv`, selectionCsv(this.selection, this)));
    on("theme", "click", () => this.theme(document.documentElement.dataset.theme !== "dark"));
    this.packed.strangest.forEach((ranking) => {
      const list = element("ol", {});
      const chances = ranking.rows.map((each) => `chance ${each[1]}`);
      listRows(list, ranking.rows.map((each) => each[0]), this, chances);
      const about = element("p", { className: "soft" }, ranking.about);
      $("strangest").append(element("div", {}, element("h3", {}, ranking.name), about, list));
    });
  }
}

function setRange(range, [start, end]) {
  range.setv({ start, end });
}

function fitRange(figure, x, y) {
  for (const [range, values] of [[figure.x_range, x], [figure.y_range, y]]) {
    const order = sorted(values);
    if (!order.length) continue;
    const [low, high] = [order[0], order[order.length - 1]], room = 0.05 * (high - low || 1);
    range.setv({ start: low - room, end: high + room });
  }
}

async function readColumn(each) {
  return { ...each, values: await floats(each.data) };
}

async function readData(packed) {
  const columns = await Promise.all(packed.columns.map(readColumn));
  const texts = JSON.parse(new TextDecoder().decode(await inflate(packed.texts)));
  const sky = {};
  for (const [frame, each] of Object.entries(packed.sky)) {
    sky[frame] = { places: await floats(each.places), labels: each.labels };
  }
  const maps = [];
  for (const each of packed.maps) {
    maps.push({ ...each, places: await floats(each.places), ellipses: await floats(each.ellipses) });
  }
  const data = {
    ...texts, sky, maps,
    ra: await doubles(packed.ra), dec: await doubles(packed.dec),
    sources: await doubles(packed.sources), exposure: await floats(packed.exposure),
    kind: await doubles(packed.spectra.kind), hasFold: await doubles(packed.spectra.has_fold),
  };
  return [data, columns];
}

async function start() {
  const packed = JSON.parse($("data").textContent);
  const [data, columns] = await readData(packed);
  while (!(globalThis.Bokeh?.documents[0]?.is_idle)) await new Promise((done) => setTimeout(done, 20));
  const models = (name) => Bokeh.documents[0].get_model_by_name(name);
  const explorer = (window.explorer = new Explorer(packed, data, columns, models));
  explorer.connect();
  explorer.theme(matchMedia("(prefers-color-scheme: dark)").matches);
  explorer.filter();
  explorer.place();
  explorer.color();
  const brightest = explorer.column("total_counts")?.values;
  await explorer.show(brightest ? brightest.indexOf(Math.max(...sorted(brightest).slice(-1))) : 0);
  document.documentElement.dataset.ready = "true";
}

start();

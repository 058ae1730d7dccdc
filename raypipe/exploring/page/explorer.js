// Tie figures, data and controls together. Bokeh draws; this sets the data of its sources.
"use strict";

const MOST_QUERIES = 20;

class Explorer {
  constructor(packed, catalog, models) {
    Object.assign(this, { packed, catalog, models, columns: catalog.columns, filters: [] });
    Object.assign(this, { n: packed.n, shown: null, drawn: null, point: null, record: null });
    this.kept = new Array(this.n).fill(true);
    this.latents = this.columns.filter((each) => /^z\d+$/.test(each.name));
    this.plane = packed.served ? new Shaded(this) : new Glyphs(this);
    for (const name of ["map", "sky"]) this.onMove(name, () => this.mark());
  }

  column(name) {
    return this.columns.find((each) => each.name === name);
  }

  get selection() {
    return this.plane.selection;
  }

  /** Select rows, and show the first of them. */
  async select(rows) {
    this.plane.select(rows);
    if (rows.length) await this.show(rows[0]);
  }

  /** Call a function whenever the ranges of map or sky change, or their size. */
  onMove(name, moved) {
    const figure = this.models(name);
    for (const range of [figure.x_range, figure.y_range]) range.change.connect(moved);
    figure.properties.inner_width?.change.connect(moved);
  }

  // -- places of the points --

  async place() {
    const map = $("map-choice").value;
    this.pair = map === "latents" ? [Number($("x-latent").value), Number($("y-latent").value)] : null;
    $("pair").hidden = !this.pair;
    const sky = await this.catalog.sky($("sky-choice").value);
    const placed = this.pair ? await this.latentPair() : await this.catalog.map(Number(map));
    const names = placed.names ?? [1, 2].map((i) => `${placed.name} ${i}`);
    this.nameAxes(...names);
    const kept = placed.kept === null ? "" : ` It keeps ${(100 * placed.kept).toFixed(0)}% of the 15 nearest neighbors in latent space.`;
    $("map-note").textContent = this.pair ? "" : `Map: ${placed.method}.${kept}`;
    this.places = { map: [placed.x, placed.y], sky: [sky.x, sky.y] };
    const labels = sky.labels;
    this.models("sky_labels").data = {
      x: labels.map((each) => each[0]), y: labels.map((each) => each[1]), text: labels.map((each) => each[2]),
    };
    fitRange(this.models("map"), placed.x, placed.y);
    this.plane.place(placed, sky);
    await this.join();
    await this.mark();
  }

  async latentPair() {
    const [x, y] = this.pair.map((i) => this.latents[i]);
    return { x: await this.catalog.values(x), y: await this.catalog.values(y), names: [x.name, y.name] };
  }

  nameAxes(x, y) {
    const figure = this.models("map");
    figure.below[0].axis_label = x;
    figure.left[0].axis_label = y;
  }

  async join() {
    const sources = $("joined").checked ? await this.catalog.sources() : null;
    for (const name of ["map", "sky"]) {
      const [x, y] = this.places[name];
      const nothing = { x0: [], y0: [], x1: [], y1: [] };
      this.models(`${name}_joins`).data = sources ? joins(sources, x, y, this.kept) : nothing;
    }
  }

  // -- color, size, filter --

  async color() {
    this.colored = this.columns[$("color-choice").value];
    await this.catalog.values(this.colored);
    const dark = document.documentElement.dataset.theme === "dark";
    // Small points have no visible shape, and Bokeh draws all of them once per shape.
    const { shaped } = this.packed;
    const color = this.colored.categories ? colorWords(this.colored, shaped) : colorNumbers(this.colored, this.packed.palette, dark);
    this.models("colors").setv({ palette: color.palette, low: color.low, high: color.high });
    const counts = $("sized").checked && this.column("total_counts");
    if (counts) await this.catalog.values(counts);
    const base = !shaped ? 3 : this.n > 2000 ? 4.5 : 6;
    const size = Float64Array.from({ length: this.n }, (_, i) =>
      counts ? Math.min(26, base * (0.5 + 0.45 * Math.log10(1 + counts.values[i]))) : base * 1.4,
    );
    await this.plane.paint(color, size);
    drawLegend(color, this.colored);
    $("color-about").textContent = this.colored.about;
    await this.selected();
  }

  async filter() {
    this.kept = passing(this.n, this.filters);
    this.plane.filter(this.kept);
    const number = this.kept.filter(Boolean).length;
    $("filter-count").textContent = `${number.toLocaleString("en-US")} of ${this.n.toLocaleString("en-US")} detections pass.`;
    if (this.places) await this.join();
  }

  // -- one detection --

  hover(rows) {
    if (rows.length && $("follow").checked) this.show(rows[0]);
  }

  async show(row) {
    if (row === this.shown) return;
    this.shown = row;
    const began = performance.now();
    const [point, [record]] = await Promise.all([this.catalog.point(row), this.catalog.records([row])]);
    if (row !== this.shown) return;
    Object.assign(this, { point, record, spectrum: point.spectrum });
    describeRecord(record, this);
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
      this.models(`${name}_ring`).setv(ring(x, y, this.models(name)));
      if (name === "map") this.models("map_ellipse").setv(ellipse(x, y, this.variance()));
    }
  }

  variance() {
    if (!this.pair) return this.point?.ellipses[$("map-choice").value] ?? [NaN, NaN, NaN];
    const at = (i, j) => this.point?.triangle[(Math.max(i, j) * (Math.max(i, j) + 1)) / 2 + Math.min(i, j)] ?? NaN;
    const [i, j] = this.pair;
    return [at(i, i), at(i, j), at(j, j)];
  }

  // -- selection --

  async selected() {
    const rows = this.selection;
    await fillTable(rows, this);
    if (rows.length) await this.show(rows.includes(this.shown) ? this.shown : rows[0]);
  }

  /** Show the next or the previous row of the selection, or of all rows that pass the filters. */
  async step(by) {
    const rows = this.selection.length > 1 ? this.selection : [...this.kept.keys()].filter((i) => this.kept[i]);
    if (!rows.length) return;
    const place = rows.indexOf(this.shown);
    await this.show(rows[(place + by + rows.length) % rows.length]);
  }

  /** Show the detection that the page's address names: #detection=ID. */
  async follow() {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("detection");
    if (!wanted) return;
    const { rows } = await this.catalog.find(wanted, 0);
    const records = await this.catalog.records(rows);
    const found = records.find((each) => each.id === wanted);
    if (found) await this.select([found.row]);
  }

  async search() {
    const { rows, how } = await this.catalog.find($("search").value, Number($("radius").value));
    const number = rows.length.toLocaleString("en-US");
    $("found-count").textContent = how && `${rows.length === 1 ? "1 detection" : `${number} detections`} found ${how}.`;
    await listRows($("found"), rows, this);
    await this.select(rows);
  }

  /** List the detections most similar to the selection. */
  async alike() {
    const queries = this.selection.slice(0, MOST_QUERIES);
    const found = await this.catalog.similar(queries, Number($("alike-number").value));
    this.similar = found.map((each) => each.row);
    const left = this.selection.length - queries.length;
    const which = left ? `the first ${MOST_QUERIES} of the selection` : "the selection";
    $("alike-about").textContent = found.length
      ? `Detections whose posteriors of the latents overlap most with one of ${which}, the best first, with their distance in units of both errors.`
      : "The selection has no latents: there is nothing to compare.";
    const remarks = found.map((each) => `${each.distance.toFixed(1)} σ`);
    await listRows($("alike"), this.similar, this, remarks);
    $("select-alike").hidden = !found.length;
  }

  async save(kind) {
    const records = await this.catalog.records(this.selection);
    const make = kind === "csv" ? csvText : votableText;
    const type = kind === "csv" ? "text/csv" : "application/x-votable+xml";
    saveFile(`${this.packed.file}.${kind}`, make(records, this.columns, this.packed.file), type);
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
    for (const name of ["map_ellipse", "map_ring", "sky_ring"]) {
      this.models(name).line_color = ink;
    }
    if (this.colored) this.color();
  }

  // -- controls --

  async connect() {
    fillOptions($("map-choice"), [
      ...this.packed.maps.map((each, i) => [i, each.name]),
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
    on("clear", "click", () => this.plane.select([]));
    on("save-csv", "click", () => this.save("csv"));
    on("save-votable", "click", () => this.save("vot"));
    on("find-alike", "click", () => this.alike());
    on("select-alike", "click", () => this.select(this.similar));
    SURVEYS.forEach(([name, survey]) => {
      const button = element("button", { type: "button" }, `Aladin Lite: ${name}`);
      button.addEventListener("click", () => openAladin($("aladin"), this.record, survey));
      $("aladin-buttons").append(button, " ");
    });
    on("theme", "click", () => this.theme(document.documentElement.dataset.theme !== "dark"));
    for (const ranking of this.packed.strangest) {
      const list = element("ol", {});
      const chances = ranking.rows.map((each) => `chance ${each[1]}`);
      await listRows(list, ranking.rows.map((each) => each[0]), this, chances);
      const about = element("p", { className: "soft" }, ranking.about);
      $("strangest").append(element("div", {}, element("h3", {}, ranking.name), about, list));
    }
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

async function start() {
  const packed = JSON.parse($("data").textContent);
  const catalog = packed.served ? new Served(packed) : await Embedded.read(packed);
  while (!(globalThis.Bokeh?.documents[0]?.is_idle)) await new Promise((done) => setTimeout(done, 20));
  const models = (name) => Bokeh.documents[0].get_model_by_name(name);
  const explorer = (window.explorer = new Explorer(packed, catalog, models));
  await explorer.connect();
  if (packed.served) new Samp(explorer);
  explorer.theme(matchMedia("(prefers-color-scheme: dark)").matches);
  await explorer.filter();
  await explorer.place();
  await explorer.color();
  const counts = explorer.column("total_counts");
  const brightest = counts && (await catalog.values(counts));
  await explorer.show(brightest ? brightest.indexOf(Math.max(...sorted(brightest).slice(-1))) : 0);
  addEventListener("hashchange", () => explorer.follow());
  await explorer.follow();
  document.documentElement.dataset.ready = "true";
}

start();

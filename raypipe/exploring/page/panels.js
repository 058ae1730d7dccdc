// Fill the parts of the page around the figures. Text from data is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const ROWS_SHOWN = 200;

/** Make an element with properties and children; a child that is a string becomes text. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function format(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(4);
  return text.replace("-", "−");
}

/** Return the value of a column in a row as it is shown. */
function shownValue(column, row) {
  const value = column.values[row];
  if (!column.categories) return format(value);
  return value >= 0 ? column.categories[value] : "–";
}

function label(column) {
  return column.unit ? `${column.name} (${column.unit})` : column.name;
}

function fillOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

/** List detections as buttons that show one each; `remarks` stand behind. */
function listRows(place, rows, explorer, remarks = []) {
  place.replaceChildren(
    ...rows.slice(0, ROWS_SHOWN).map((row, i) => {
      const button = element("button", { type: "button", className: "row" }, explorer.title(row));
      button.addEventListener("click", () => explorer.pick(row));
      return element("li", {}, button, remarks[i] ? ` ${remarks[i]}` : "");
    }),
  );
}

/** Write what is known of a row beside its spectrum, with links to it elsewhere. */
function describeRow(row, explorer) {
  $("shown-name").textContent = explorer.title(row);
  $("shown-id").textContent = explorer.data.ids[row];
  const facts = explorer.columns
    .filter((each) => !/^(z\d+|split|flags)/.test(each.name))
    .filter((each) => !Number.isNaN(each.values[row]))
    .map((each) => [
      element("dt", { title: each.about }, label(each)),
      element("dd", {}, shownValue(each, row)),
    ]);
  $("facts").replaceChildren(...facts.flat());
  const [ra, dec] = [explorer.data.ra[row], explorer.data.dec[row]];
  const known = Number.isFinite(ra) && Number.isFinite(dec);
  $("position").textContent = known ? `${ra.toFixed(5)}° ${dec < 0 ? "−" : "+"}${Math.abs(dec).toFixed(5)}° (ICRS)` : "no position";
  const links = known ? linksOut(ra, dec) : [];
  $("links").replaceChildren(
    ...links.map(([name, href]) =>
      element("a", { href, target: "_blank", rel: "noopener noreferrer" }, name),
    ),
  );
}

/** Return pages about a position, deg; nothing is loaded before the reader follows one. */
function linksOut(ra, dec) {
  const at = `${ra.toFixed(6)} ${dec.toFixed(6)}`;
  const place = encodeURIComponent(at);
  return [
    ["SIMBAD", `https://simbad.cds.unistra.fr/simbad/sim-coo?Coord=${place}&Radius=5&Radius.unit=arcsec`],
    ["ESASky", `https://sky.esa.int/esasky/?target=${place}&fov=0.1`],
    ["NED", `https://ned.ipac.caltech.edu/conesearch?search_type=Near%20Position%20Search&coordinates=${encodeURIComponent(`${ra.toFixed(6)}d ${dec.toFixed(6)}d`)}&radius=0.1`],
  ];
}

/** Write the legend of the colors. */
function drawLegend(color, column) {
  const parts = [];
  if (color.gradient) {
    const { low, high, isLog } = color.gradient;
    const bar = element("span", { className: "bar" });
    bar.style.background = `linear-gradient(to right, ${color.palette.filter((_, i) => i % 16 === 0).join(",")})`;
    parts.push(element("span", {}, format(low)), bar, element("span", {}, format(high)));
    if (isLog) parts.push(element("span", { className: "soft" }, "logarithmic"));
    if (column.values.some(Number.isNaN)) parts.push(legendItem("●", OTHER_COLOR, "no value"));
  } else {
    color.words.forEach((each) => {
      parts.push(legendItem(each.sign, each.color, `${each.word} (${each.count.toLocaleString("en-US")})`));
    });
    if (color.others) parts.push(legendItem("·", OTHER_COLOR, `others (${color.others})`));
    if (column.values.some(Number.isNaN)) parts.push(legendItem("·", OTHER_COLOR, "none"));
  }
  $("legend").replaceChildren(...parts);
}

function legendItem(sign, color, text) {
  const mark = element("span", { className: "sign", ariaHidden: "true" }, sign);
  mark.style.color = color;
  return element("span", { className: "item" }, mark, text);
}

/** Make the controls of one filter; `changed` is called after every change. */
function filterControls(explorer, changed) {
  const filter = { column: explorer.columns[0], low: null, high: null, words: null };
  const choice = element("select", { ariaLabel: "column to filter by" });
  fillOptions(choice, explorer.columns.map((each, i) => [i, label(each)]));
  const values = element("span", { className: "values" });
  const remove = element("button", { type: "button" }, "remove");
  const row = element("div", { className: "filter" }, choice, values, remove);
  function fill() {
    Object.assign(filter, { column: explorer.columns[choice.value], low: null, high: null, words: null });
    values.replaceChildren(...(filter.column.categories ? words() : limits()));
    changed();
  }
  function limits() {
    const order = sorted(filter.column.values);
    return [["low", "from", order[0]], ["high", "to", order[order.length - 1]]].map(
      ([key, text, extreme]) => {
        const input = element("input", { type: "number", step: "any", placeholder: format(extreme) });
        input.ariaLabel = `${filter.column.name} ${text}`;
        input.addEventListener("input", () => {
          filter[key] = input.value === "" ? null : Number(input.value);
          changed();
        });
        return element("label", {}, `${text} `, input);
      },
    );
  }
  function words() {
    filter.words = new Set(filter.column.categories.map((_, i) => i));
    return filter.column.categories.map((word, i) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        filter.words[box.checked ? "add" : "delete"](i);
        changed();
      });
      return element("label", {}, box, word);
    });
  }
  choice.addEventListener("change", fill);
  remove.addEventListener("click", () => {
    row.remove();
    explorer.filters.splice(explorer.filters.indexOf(filter), 1);
    changed();
  });
  explorer.filters.push(filter);
  fill();
  return row;
}

/** List the selection as a table of its first rows. */
function fillTable(rows, explorer) {
  const wanted = ["total_counts", "likely_class", "class", "far_sigmas", "fit_sigmas"];
  const columns = [...new Set([explorer.colored, ...wanted.map((name) => explorer.column(name))])].filter(Boolean);
  const heads = ["name", "RA (deg)", "Dec (deg)", ...columns.map(label)];
  $("table-head").replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
  const { ra, dec } = explorer.data;
  $("table-body").replaceChildren(
    ...rows.slice(0, ROWS_SHOWN).map((row) => {
      const button = element("button", { type: "button", className: "row" }, explorer.title(row));
      button.addEventListener("click", () => explorer.show(row));
      const cells = [ra[row].toFixed(5), dec[row].toFixed(5).replace("-", "−")];
      cells.push(...columns.map((each) => shownValue(each, row)));
      return element("tr", {}, element("td", {}, button), ...cells.map((text) => element("td", {}, text)));
    }),
  );
  const number = rows.length.toLocaleString("en-US");
  const some = rows.length > ROWS_SHOWN ? `; the first ${ROWS_SHOWN} are below, the CSV has all` : "";
  $("selection-count").textContent = rows.length
    ? `${number} selected${some}.`
    : "Nothing is selected: use lasso or box on map or sky, a click, or the search.";
  for (const id of ["save-csv", "clear"]) $(id).disabled = !rows.length;
}

/** Return the selection as CSV, all columns. */
function selectionCsv(rows, explorer) {
  const { ids, names, ra, dec } = explorer.data;
  const heads = ["name", "detection_id", "ra", "dec", ...explorer.columns.map((each) => each.name)];
  const lines = rows.map((row) => [
    names[row], ids[row], ra[row], dec[row],
    ...explorer.columns.map((each) => {
      const value = each.values[row];
      return each.categories ? (each.categories[value] ?? null) : Number(value.toPrecision(6));
    }),
  ]);
  return [heads, ...lines].map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function saveFile(name, text) {
  const link = element("a", { download: name });
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

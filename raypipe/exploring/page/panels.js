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

/** Return a value of a column as it is shown. */
function shownValue(column, value) {
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
async function listRows(place, rows, explorer, remarks = []) {
  const records = await explorer.catalog.records(rows.slice(0, ROWS_SHOWN));
  place.replaceChildren(
    ...records.map((record, i) => {
      const button = element("button", { type: "button", className: "row" }, record.name ?? record.id);
      button.addEventListener("click", () => explorer.select([record.row]));
      return element("li", {}, button, remarks[i] ? ` ${remarks[i]}` : "");
    }),
  );
}

/** Write what is known of a detection beside its spectrum, with links to it elsewhere. */
function describeRecord(record, explorer) {
  $("shown-name").textContent = record.name ?? record.id;
  $("shown-id").textContent = record.id;
  const facts = explorer.columns
    .map((column, i) => [column, record.values[i]])
    .filter(([column, value]) => !/^(z\d+|split|flags)/.test(column.name) && Number.isFinite(value))
    .map(([column, value]) => [
      element("dt", { title: column.about }, label(column)),
      element("dd", {}, shownValue(column, value)),
    ]);
  $("facts").replaceChildren(...facts.flat());
  const { ra, dec } = record;
  const known = Number.isFinite(ra) && Number.isFinite(dec);
  $("position").textContent = known ? `${ra.toFixed(5)}° ${dec < 0 ? "−" : "+"}${Math.abs(dec).toFixed(5)}° (ICRS)` : "no position";
  const links = known ? linksOut(record, explorer.packed.package) : [];
  $("links").replaceChildren(
    ...links.map(([name, href, title]) =>
      element("a", { href, title, target: "_blank", rel: "noopener noreferrer" }, name),
    ),
  );
  for (const button of $("aladin-buttons").children) button.disabled = !known;
  $("aladin").replaceChildren();
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
  async function fill() {
    const column = explorer.columns[choice.value];
    await explorer.catalog.values(column);
    Object.assign(filter, { column, low: null, high: null, words: null });
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
async function fillTable(rows, explorer) {
  const records = await explorer.catalog.records(rows.slice(0, ROWS_SHOWN));
  const wanted = ["total_counts", "likely_class", "class", "far_sigmas", "fit_sigmas"];
  const columns = [...new Set([explorer.colored, ...wanted.map((name) => explorer.column(name))])].filter(Boolean);
  const heads = ["name", "RA (deg)", "Dec (deg)", ...columns.map(label)];
  $("table-head").replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
  const degrees = (value) => value?.toFixed(5).replace("-", "−") ?? "–";
  $("table-body").replaceChildren(
    ...records.map((record) => {
      const button = element("button", { type: "button", className: "row" }, record.name ?? record.id);
      button.addEventListener("click", () => explorer.show(record.row));
      const cells = [degrees(record.ra), degrees(record.dec)];
      cells.push(...columns.map((each) => shownValue(each, record.values[explorer.columns.indexOf(each)])));
      return element("tr", {}, element("td", {}, button), ...cells.map((text) => element("td", {}, text)));
    }),
  );
  const number = rows.length.toLocaleString("en-US");
  const some = rows.length > ROWS_SHOWN ? `; the first ${ROWS_SHOWN} are below, the files have all` : "";
  $("selection-count").textContent = rows.length
    ? `${number} selected${some}.`
    : "Nothing is selected: use lasso or box on map or sky, a click, or the search.";
  for (const id of ["save-csv", "save-votable", "clear", "find-alike"]) $(id).disabled = !rows.length;
}

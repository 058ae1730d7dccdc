// Color, filter and find points: arrays in, arrays out; nothing here touches the page.
"use strict";

const SHAPES = [
  ["circle", "●"], ["square", "■"], ["triangle", "▲"], ["diamond", "◆"],
  ["inverted_triangle", "▼"], ["star", "★"], ["hex", "⬢"], ["plus", "✚"],
];
// After Okabe and Ito, for color-blind readers; the shapes tell the classes apart in greyscale.
const CLASS_COLORS = [
  "#1c7ed6", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#5ec8e5", "#9775c9", "#a6a100",
];
const OTHER_COLOR = "#8a8f98";

function sorted(values) {
  return Float64Array.from(values).filter(Number.isFinite).sort();
}

/** Color a column of numbers: the values to map, their range, palette and legend. */
function colorNumbers(column, palette, dark) {
  const order = sorted(column.values);
  const at = (share) => order[Math.round(share * (order.length - 1))] ?? 0;
  const [low, high] = [at(0.02), at(0.98)];
  const isLog = at(0) > 0 && high / low > 50;
  const scale = isLog ? Math.log10 : (each) => each;
  // The ends of the palette that come close to the color of the page are left out.
  const shown = dark ? palette.slice(70) : palette.slice(0, 225);
  return {
    values: Float64Array.from(column.values, scale),
    low: scale(low),
    high: scale(high) > scale(low) ? scale(high) : scale(low) + 1,
    palette: shown,
    shapes: new Array(column.values.length).fill("circle"),
    gradient: { low, high, isLog },
  };
}

/** Color a column of words: the eight most frequent have a color each and, if `shaped`, a shape. */
function colorWords(column, shaped) {
  const numbers = new Array(column.categories.length).fill(0);
  for (const code of column.values) if (code >= 0) numbers[code]++;
  const order = numbers.map((_, i) => i).sort((a, b) => numbers[b] - numbers[a]);
  const place = new Map(order.slice(0, SHAPES.length).map((code, i) => [code, i]));
  const values = Float64Array.from(column.values, (code) => place.get(code) ?? NaN);
  return {
    values,
    low: -0.5,
    high: SHAPES.length - 0.5,
    palette: CLASS_COLORS,
    shapes: Array.from(values, (i) => (!shaped ? "circle" : i >= 0 ? SHAPES[i][0] : "dot")),
    words: [...place].map(([code, i]) => ({
      word: column.categories[code], count: numbers[code], color: CLASS_COLORS[i], sign: shaped ? SHAPES[i][1] : "●",
    })),
    others: order.slice(SHAPES.length).reduce((sum, code) => sum + numbers[code], 0),
  };
}

/** Return for each of n rows whether it passes all filters. */
function passing(n, filters) {
  const kept = new Array(n).fill(true);
  for (const { column, low, high, words } of filters) {
    for (let i = 0; i < n; i++) {
      const value = column.values[i];
      if (words) kept[i] &&= words.has(value);
      else if (low !== null || high !== null) {
        kept[i] &&= value >= (low ?? -Infinity) && value <= (high ?? Infinity);
      }
    }
  }
  return kept;
}

/** Read a position in degrees, or as 12:30:01 -5:01:02; return [ra, dec] in degrees, or null. */
function readPosition(text) {
  const plain = /^\s*(\d+\.?\d*)[\s,]+([+-]?\d+\.?\d*)\s*$/.exec(text);
  if (plain) return [Number(plain[1]), Number(plain[2])];
  const part = "(\\d+)[:hdm\\s]+(\\d+)[:m\\s]+(\\d+\\.?\\d*)s?";
  const sexagesimal = new RegExp(`^\\s*${part}[\\s,]*([+-])${part}\\s*$`).exec(text);
  const name = /J(\d\d)(\d\d)(\d\d\.?\d*)([+-])(\d\d)(\d\d)(\d\d\.?\d*)/i.exec(text);
  const found = sexagesimal ?? name;
  if (!found) return null;
  const [h, m, s, , d, am, as] = found.slice(1).map(Number);
  const dec = d + am / 60 + as / 3600;
  return [15 * (h + m / 60 + s / 3600), found[4] === "-" ? -dec : dec];
}

/** Return the angle between two positions, arcsec, by the haversine formula. */
function separation(ra, dec, [ra0, dec0]) {
  const rad = Math.PI / 180, half = (angle) => Math.sin((angle * rad) / 2) ** 2;
  const chord = half(dec - dec0) + Math.cos(dec * rad) * Math.cos(dec0 * rad) * half(ra - ra0);
  return (2 * Math.asin(Math.sqrt(Math.min(1, chord))) * 3600) / rad;
}

/** Find rows by a part of their name or id, else by position; return the rows and how. */
function findRows(text, radius, { ids, names, ra, dec }) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return { rows: [], how: "" };
  const rows = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i].toLowerCase().includes(wanted) || names[i]?.toLowerCase().includes(wanted)) {
      rows.push(i);
    }
  }
  const position = readPosition(text);
  if (rows.length || !position) return { rows, how: "by name or id" };
  const near = [];
  for (let i = 0; i < ids.length; i++) {
    const angle = separation(ra[i], dec[i], position);
    if (angle <= radius) near.push([angle, i]);
  }
  near.sort((a, b) => a[0] - b[0]);
  return { rows: near.map((each) => each[1]), how: `within ${radius} arcsec` };
}

/** Return the segments that join the detections of each source, row after row. */
function joins(sources, x, y, kept) {
  const last = new Map(), found = { x0: [], y0: [], x1: [], y1: [] };
  for (let i = 0; i < sources.length; i++) {
    if (!kept[i] || !Number.isFinite(x[i])) continue;
    const before = last.get(sources[i]);
    if (before !== undefined) {
      found.x0.push(x[before]);
      found.y0.push(y[before]);
      found.x1.push(x[i]);
      found.y1.push(y[i]);
    }
    last.set(sources[i], i);
  }
  return found;
}

/** Return the rows inside a polygon, of those kept: a ray to the right crosses it an odd number of times. */
function rowsInside(corners, x, y, kept) {
  const [left, right] = [Math.min, Math.max].map((f) => f(...corners.map((each) => each[0])));
  const [low, high] = [Math.min, Math.max].map((f) => f(...corners.map((each) => each[1])));
  const rows = [];
  for (let row = 0; row < x.length; row++) {
    const [px, py] = [x[row], y[row]];
    if (!kept[row] || !(px >= left && px <= right && py >= low && py <= high)) continue;
    let inside = false;
    for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [corners[i], corners[j]];
      if (yi > py !== yj > py && px < ((xj - xi) * (py - yi)) / (yj - yi) + xi) inside = !inside;
    }
    if (inside) rows.push(row);
  }
  return rows;
}

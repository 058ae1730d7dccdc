// Write a selection as a file: CSV or VOTable, with all columns.
"use strict";

const IDENTITY = [
  { name: "name", unit: "", ucd: "meta.id;src", about: "source the detection belongs to", of: (each) => each.name },
  { name: "detection_id", unit: "", ucd: "meta.id;meta.main", about: "detection", of: (each) => each.id },
  { name: "ra", unit: "deg", ucd: "pos.eq.ra;meta.main", about: "right ascension, ICRS", of: (each) => each.ra, isNumber: true },
  { name: "dec", unit: "deg", ucd: "pos.eq.dec;meta.main", about: "declination, ICRS", of: (each) => each.dec, isNumber: true },
];

/** Return all columns of a file, each with a function that gives its value in a record. */
function savedColumns(columns) {
  const others = columns.map((column, i) => ({
    ...column,
    isNumber: !column.categories,
    of: ({ values }) => (column.categories ? (column.categories[values[i]] ?? null) : Number(values[i]?.toPrecision(6))),
  }));
  return [...IDENTITY, ...others];
}

/** Return records of detections as CSV. */
function csvText(records, columns) {
  const saved = savedColumns(columns);
  const lines = records.map((record) => saved.map((column) => column.of(record)));
  const all = [saved.map((column) => column.name), ...lines];
  return all.map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

/** Return a cell of CSV; text that a spreadsheet would take for a formula gets an apostrophe. */
function csvCell(value) {
  const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Return records of detections as a VOTable (IVOA, version 1.4). */
function votableText(records, columns, name) {
  const saved = savedColumns(columns);
  const fields = saved.map(({ name, unit, ucd, about, isNumber }) => {
    const kind = isNumber ? 'datatype="double"' : 'datatype="unicodeChar" arraysize="*"';
    const more = [["unit", unit], ["ucd", ucd]].filter(([, text]) => text);
    const marks = more.map(([key, text]) => ` ${key}="${xmlText(text)}"`).join("");
    return `<FIELD name="${xmlText(name)}" ${kind}${marks}><DESCRIPTION>${xmlText(about)}</DESCRIPTION></FIELD>`;
  });
  const rows = records.map((record) => {
    const cells = saved.map((column) => {
      const value = column.of(record);
      return `<TD>${value === null || value === undefined || Number.isNaN(value) ? "" : xmlText(value)}</TD>`;
    });
    return `<TR>${cells.join("")}</TR>`;
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
    '<RESOURCE><COOSYS ID="icrs" system="ICRS"/>',
    `<TABLE name="${xmlText(name)}" nrows="${records.length}">`,
    ...fields, "<DATA><TABLEDATA>", ...rows, "</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>", "",
  ].join("\n");
}

/** Return text for XML: marks escaped, and characters left out that XML does not allow. */
function xmlText(value) {
  const allowed = String(value).replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "");
  const marks = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return allowed.replace(/[&<>"]/g, (mark) => marks[mark]);
}

function saveFile(name, text, type) {
  const link = element("a", { download: name });
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

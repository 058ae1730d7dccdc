// Answer questions about the catalog by asking `raypipe explore --serve`, which made this page.
"use strict";

const TOKEN = new URLSearchParams(location.search).get("token");
const KEPT_POINTS = 300;

class Served {
  constructor(packed) {
    Object.assign(this, { packed, columns: packed.columns, n: packed.n, answers: new Map(), points: new Map() });
  }

  /** Ask the server; a failure is shown at the top of the page. */
  async ask(name, question = {}) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${TOKEN}` };
    let trouble = "";
    try {
      const answer = await fetch(`api/${name}`, { method: "POST", headers, body: JSON.stringify(question) });
      if (answer.ok) return answer;
      trouble = (await answer.json()).error;
    } catch {
      trouble = "The server does not answer. Start raypipe explore --serve again, and open the address that it prints.";
    } finally {
      $("trouble").hidden = !trouble;
      $("trouble").textContent = trouble;
    }
    throw new Error(trouble);
  }

  async json(name, question) {
    return (await this.ask(name, question)).json();
  }

  /** Ask for numbers, and keep the answer. */
  numbers(name, question) {
    const key = JSON.stringify([name, question]);
    if (!this.answers.has(key)) {
      const answer = this.ask(name, question).then(async (each) => new Float32Array(await each.arrayBuffer()));
      answer.catch(() => this.answers.delete(key));
      this.answers.set(key, answer);
    }
    return this.answers.get(key);
  }

  async values(column) {
    column.values ??= await this.numbers("column", { name: column.name });
    return column.values;
  }

  async records(rows) {
    return rows.length ? (await this.json("records", { rows })).map(withNaN) : [];
  }

  async map(number) {
    return { ...this.packed.maps[number], ...halves(await this.numbers("map", { number })) };
  }

  async sky(frame) {
    return { ...halves(await this.numbers("sky", { frame })), labels: this.packed.sky_labels[frame] };
  }

  async sources() {
    return this.numbers("sources", {});
  }

  async find(text, radius) {
    const [ra, dec] = readPosition(text) ?? [null, null];
    return this.json("find", { text, ra, dec, radius });
  }

  async similar(rows, k) {
    return this.json("similar", { rows, k });
  }

  point(row) {
    if (!this.points.has(row)) {
      if (this.points.size > KEPT_POINTS) this.points.clear();
      const answer = this.json("point", { row });
      answer.catch(() => this.points.delete(row));
      this.points.set(row, answer);
    }
    return this.points.get(row);
  }
}

/** Turn the nulls of a record, which stand for missing numbers, into NaN. */
function withNaN(record) {
  const number = (value) => value ?? NaN;
  return { ...record, ra: number(record.ra), dec: number(record.dec), values: record.values.map(number) };
}

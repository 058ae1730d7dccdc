// Answer questions about the catalog from the data inside the page. `served.js` asks a server.
"use strict";

class Embedded {
  constructor(packed, data, columns) {
    Object.assign(this, { packed, data, columns, n: packed.n });
    this.spectra = new Spectra(packed.spectra, data.kind, data.hasFold, data.exposure);
    this.latents = columns.filter((each) => /^z\d+$/.test(each.name));
  }

  static async read(packed) {
    const columns = await Promise.all(
      packed.columns.map(async (each, i) => ({ ...each, values: await floats(packed.values[i]) })),
    );
    const texts = JSON.parse(new TextDecoder().decode(await inflate(packed.texts)));
    const sky = {}, maps = [];
    for (const [frame, each] of Object.entries(packed.sky)) {
      sky[frame] = { ...halves(await floats(each.places)), labels: each.labels };
    }
    for (const each of packed.maps) {
      maps.push({ ...each, ...halves(await floats(each.places)), ellipses: await floats(each.ellipses) });
    }
    const data = {
      ...texts, sky, maps,
      ra: await doubles(packed.ra), dec: await doubles(packed.dec),
      sources: await doubles(packed.sources), exposure: await floats(packed.exposure),
      kind: await doubles(packed.spectra.kind), hasFold: await doubles(packed.spectra.has_fold),
      triangles: triangles(await shorts(packed.std), await shorts(packed.correlation), packed),
    };
    return new Embedded(packed, data, columns);
  }

  /** Return the values of a column, one per detection. */
  async values(column) {
    return column.values;
  }

  /** Return what is known of some rows: identity, position, and the values of all columns. */
  async records(rows) {
    const { ids, names, ra, dec } = this.data;
    return rows.map((row) => ({
      row, id: ids[row], name: names[row], ra: ra[row], dec: dec[row],
      values: this.columns.map((column) => column.values[row]),
    }));
  }

  /** Return the places of all detections on a map. */
  async map(number) {
    return this.data.maps[number];
  }

  async sky(frame) {
    return this.data.sky[frame];
  }

  /** Return the number of each detection's source. */
  async sources() {
    return this.data.sources;
  }

  async find(text, radius) {
    return findRows(text, radius, this.data);
  }

  async similar(rows, k) {
    return lookAlikes(rows, k, this.latents.map((each) => each.values), this.data.triangles);
  }

  /** Return the spectrum of a row and its errors: `triangle` of the latents, `ellipses` on the maps. */
  async point(row) {
    const size = (this.packed.latents * (this.packed.latents + 1)) / 2;
    return {
      spectrum: await this.spectra.get(row),
      triangle: this.data.triangles.subarray(row * size, (row + 1) * size),
      ellipses: this.data.maps.map(({ ellipses }) => [0, 1, 2].map((k) => ellipses[k * this.n + row])),
    };
  }
}

/** Split numbers into x and y. */
function halves(values) {
  const n = values.length / 2;
  return { x: values.subarray(0, n), y: values.subarray(n) };
}

/** Return the lower triangles of all covariances, row after row, from widths and correlations. */
function triangles(std, correlation, { n, latents, step, correlation_step, missing }) {
  const size = (latents * (latents + 1)) / 2, answer = new Float32Array(n * size);
  const width = Float64Array.from(std, (each) => (each === missing ? NaN : Math.exp(each * step)));
  for (let row = 0; row < n; row++) {
    for (let i = 0, at = row * size, below = 0; i < latents; i++) {
      for (let j = 0; j <= i; j++, at++) {
        const rho = i === j ? 1 : correlation[below++ * n + row] * correlation_step;
        answer[at] = rho * width[i * n + row] * width[j * n + row];
      }
    }
  }
  return answer;
}

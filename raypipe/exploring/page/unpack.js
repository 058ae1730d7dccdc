// Unpack what raypipe/exploring/packing.py has packed.
"use strict";

/** Return the bytes that are in a base64 text, inflated. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Unpack numbers of `packed_floats`: the bytes of one place in the number lie together. */
async function floats(text) {
  const planes = await inflate(text);
  const n = planes.length / 4;
  const bytes = new Uint8Array(planes.length);
  for (let place = 0; place < 4; place++) {
    for (let i = 0; i < n; i++) bytes[4 * i + place] = planes[place * n + i];
  }
  return new Float32Array(bytes.buffer);
}

/** Unpack integers of `packed_shorts`, whose bytes lie apart likewise. */
async function shorts(text) {
  const planes = await inflate(text);
  const n = planes.length / 2;
  const low = planes.subarray(0, n), high = planes.subarray(n);
  return Int16Array.from(low, (byte, i) => (high[i] << 8) | byte);
}

async function doubles(text) {
  return new Float64Array((await inflate(text)).buffer);
}

/** Read `count` integers of `varints` (all up to `end` without a count); return them and the end. */
function varints(bytes, start, end, count = Infinity) {
  const values = [];
  let at = start;
  while (at < end && values.length < count) {
    let plain = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      plain += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    values.push(plain % 2 ? -(plain + 1) / 2 : plain / 2);
  }
  return [values, at];
}

/** Turn differences of logarithms in units of a step into values. */
function exponentials(steps, step) {
  let sum = 0;
  return steps.map((each) => Math.exp((sum += each) * step));
}

/** Give the spectrum of a row on demand; blocks are unpacked when they are first needed. */
class Spectra {
  constructor(packed, kind, hasFold, exposure) {
    Object.assign(this, { packed, kind, hasFold, exposure, opened: new Map() });
  }

  open(number) {
    if (!this.opened.has(number)) {
      if (this.opened.size > 200) this.opened.clear();
      this.opened.set(number, inflate(this.packed.blocks[number]));
    }
    return this.opened.get(number);
  }

  async get(row) {
    const size = this.packed.block_rows, number = Math.floor(row / size);
    const bytes = await this.open(number);
    const inBlock = Math.min(size, this.kind.length - number * size);
    const [lengths, first] = varints(bytes, 0, bytes.length, inBlock);
    let start = first;
    for (let i = 0; i < row % size; i++) start += lengths[i];
    const length = lengths[row % size];
    if (!length) return null;
    const [values] = varints(bytes, start, start + length);
    let at = 0;
    const take = (n) => values.slice(at, (at += n));
    const p = this.packed, { lo, hi } = p.bins[this.kind[row]];
    const found = { lo, hi, exposure: this.exposure[row], counts: take(lo.length) };
    if (!this.hasFold[row]) return found;
    found.fold = exponentials(take(lo.length), p.step);
    found.background = exponentials(take(lo.length), p.step);
    found.fluxKev = p.flux_kev;
    found.flux = exponentials(take(p.flux_kev.length), p.flux_step);
    const band = take(p.flux_kev.length).map((each) => Math.exp(each * p.band_step));
    found.low = found.flux.map((each, i) => each / band[i]);
    found.high = found.flux.map((each, i) => each * band[i]);
    return found;
  }
}

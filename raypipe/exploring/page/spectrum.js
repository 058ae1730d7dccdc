// Prepare a spectrum for its figures: groups of bins with their limits, residuals, flux.
"use strict";

/** Group bins as raypipe/display/spectrum_figure.py does; return the first bin of each group. */
function groupBins(counts) {
  const total = counts.reduce((sum, each) => sum + each, 0);
  const fewest = Math.min(25, Math.max(5, total / 40));
  const widest = Math.max(1, Math.round((24 / 256) * counts.length));
  const starts = [0];
  let held = 0;
  counts.forEach((value, i) => {
    const last = starts[starts.length - 1];
    if (i > last && (held >= fewest || i - last >= widest)) {
      starts.push(i);
      held = 0;
    }
    held += value;
  });
  const k = starts.length;
  if (k > 1 && held < fewest && counts.length - starts[k - 1] <= starts[k - 1] - starts[k - 2]) {
    starts.pop();
  }
  return starts;
}

function sums(values, starts) {
  return starts.map((start, i) => {
    let sum = 0;
    for (let j = start; j < (starts[i + 1] ?? values.length); j++) sum += values[j];
    return sum;
  });
}

/** Return the corners of a stair of values over adjacent bins. */
function stairs(lo, hi, values) {
  const x = [], y = [];
  values.forEach((value, i) => {
    x.push(lo[i], hi[i]);
    y.push(value, value);
  });
  return { x, y };
}

/** Return the data of all sources of the spectrum's figures, and their ranges. */
function spectrumData(spectrum, poisson) {
  const starts = groupBins(spectrum.counts);
  const lo = starts.map((i) => spectrum.lo[i]);
  const hi = starts.map((_, i) => spectrum.hi[(starts[i + 1] ?? spectrum.hi.length) - 1]);
  const mid = lo.map((each, i) => Math.sqrt(each * hi[i]));
  const per = lo.map((each, i) => 1 / ((hi[i] - each) * spectrum.exposure));
  const counts = sums(spectrum.counts, starts);
  const low = counts.map((n) => poisson[0][n] ?? n - Math.sqrt(n));
  const high = counts.map((n) => poisson[1][n] ?? n + Math.sqrt(n));
  const times = (values, by) => values.map((each, i) => each * by[i]);
  const rates = times(counts, per);
  const data = {
    crosses: { lo, hi, mid, rate: rates, low: times(low, per), high: times(high, per) },
    fold: { x: [], y: [] },
    background: { x: [], y: [] },
    residuals: { lo: [], hi: [], mid: [], value: [], low: [], high: [] },
    flux: { x: [], y: [], low: [], high: [] },
  };
  let drawn = rates;
  if (spectrum.fold) {
    const fold = sums(spectrum.fold, starts), background = sums(spectrum.background, starts);
    data.fold = stairs(lo, hi, times(fold, per));
    data.background = stairs(lo, hi, times(background, per));
    drawn = [...rates, ...data.fold.y];
    const spread = fold.map((mu) => Math.sqrt(mu));
    const sigmas = (values) => values.map((each, i) => (each - fold[i]) / spread[i]);
    data.residuals = { lo, hi, mid, value: sigmas(counts), low: sigmas(low), high: sigmas(high) };
    const inside = (kev) => kev >= lo[0] && kev <= hi[hi.length - 1];
    spectrum.flux.forEach((flux, i) => {
      const kev = spectrum.fluxKev[i];
      if (!inside(kev)) return;
      data.flux.x.push(kev);
      data.flux.y.push(flux);
      data.flux.low.push(spectrum.low[i]);
      data.flux.high.push(spectrum.high[i]);
    });
  }
  const reach = Math.max(3.5, 1 + Math.max(0, ...data.residuals.value.map(Math.abs)));
  return {
    data,
    energy: [0.97 * lo[0], 1.016 * hi[hi.length - 1]],
    rates: logRange(drawn, 4),
    residuals: [-reach, reach],
    flux: logRange(data.flux.y, 3),
  };
}

/** Return a range with some room around the positive values, but for the lowest two percent. */
function logRange(values, room) {
  const positive = values.filter((each) => each > 0).sort((a, b) => a - b);
  if (!positive.length) return [1e-6, 1];
  const low = positive[Math.floor(0.02 * positive.length)];
  return [low / room, positive[positive.length - 1] * room];
}

/** Return the corners of the 68% ellipse of a covariance [xx, xy, yy] about a place. */
function ellipse(x, y, [xx, xy, yy]) {
  const answer = { xs: [], ys: [] };
  if (!(xx > 0 && yy > 0)) return answer;
  // 68% of a normal distribution in two dimensions lie within 1.515 standard deviations.
  const scale = Math.sqrt(-2 * Math.log(1 - 0.6827));
  const a = Math.sqrt(xx), b = xy / a, c = Math.sqrt(Math.max(0, yy - b * b));
  for (let i = 0; i <= 60; i++) {
    const cos = scale * Math.cos((i * Math.PI) / 30), sin = scale * Math.sin((i * Math.PI) / 30);
    answer.xs.push(x + a * cos);
    answer.ys.push(y + b * cos + c * sin);
  }
  return answer;
}

/** Return the corners of a ring about a place on a figure, of some pixels in radius. */
function ring(x, y, figure, pixels = 8) {
  const wide = Math.abs(figure.x_range.end - figure.x_range.start) / figure.inner_width;
  const high = Math.abs(figure.y_range.end - figure.y_range.start) / figure.inner_height;
  const angles = Array.from({ length: Number.isFinite(x * wide * high) ? 32 : 0 }, (_, i) => (i * Math.PI) / 16);
  return {
    xs: angles.map((each) => x + pixels * wide * Math.cos(each)),
    ys: angles.map((each) => y + pixels * high * Math.sin(each)),
  };
}

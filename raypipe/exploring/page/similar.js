// Find look-alikes: detections whose posteriors of the latents overlap most with that of another.
"use strict";

/**
 * Return for each row the logarithm of its overlap with a query row, and the distance in errors.
 *
 * The overlap of posteriors N(m, C) is the density that both have the same latents, as in `raypipe
 * search`: -(k ln 2 pi + ln|C1 + C2| + d^2) / 2 with d^2 = (m1 - m2)^T (C1 + C2)^-1 (m1 - m2).
 * `z` has k columns of n latents, `triangles` the k (k + 1) / 2 values of each row's covariance.
 * Rows without errors are minus infinity.
 */
function overlaps(query, z, triangles) {
  const k = z.length, n = z[0].length, size = (k * (k + 1)) / 2;
  const overlap = new Float64Array(n).fill(-Infinity), distance = new Float64Array(n).fill(NaN);
  const factor = new Float64Array(size), rest = new Float64Array(k);
  const own = triangles.subarray(query * size, (query + 1) * size);
  for (let row = 0; row < n; row++) {
    const start = row * size;
    let logs = 0, square = 0;
    // Cholesky factor L of C1 + C2, and the solution of L y = m1 - m2: d^2 is the square of y.
    for (let i = 0, at = 0; i < k; i++) {
      for (let j = 0; j <= i; j++, at++) {
        let sum = own[at] + triangles[start + at];
        const first = (i * (i + 1)) / 2, second = (j * (j + 1)) / 2;
        for (let each = 0; each < j; each++) sum -= factor[first + each] * factor[second + each];
        factor[at] = i === j ? Math.sqrt(sum) : sum / factor[second + j];
      }
      let left = z[i][query] - z[i][row];
      for (let j = 0; j < i; j++) left -= factor[(i * (i + 1)) / 2 + j] * rest[j];
      const pivot = factor[at - 1];
      rest[i] = left / pivot;
      square += rest[i] ** 2;
      logs += Math.log(pivot);
    }
    if (!Number.isFinite(square)) continue;
    overlap[row] = -0.5 * (k * Math.log(2 * Math.PI) + 2 * logs + square);
    distance[row] = Math.sqrt(square);
  }
  return { overlap, distance };
}

/** Return minus the distance of each row's latents to those of a query row: without any errors. */
function closeness(query, z) {
  const overlap = new Float64Array(z[0].length);
  for (const column of z) column.forEach((value, i) => (overlap[i] += (value - column[query]) ** 2));
  const distance = overlap.map(Math.sqrt);
  return { overlap: distance.map((each) => (Number.isNaN(each) ? -Infinity : -each)), distance };
}

/** Return the k rows most similar to any of the queries, these left out, the best first. */
function lookAlikes(queries, k, z, triangles) {
  if (!z.length) return [];
  const size = (z.length * (z.length + 1)) / 2;
  const best = new Float64Array(z[0].length).fill(-Infinity), near = new Float64Array(best.length);
  for (const query of queries) {
    const known = Number.isFinite(triangles[query * size]);
    const { overlap, distance } = known ? overlaps(query, z, triangles) : closeness(query, z);
    for (let i = 0; i < best.length; i++) {
      if (overlap[i] > best[i]) [best[i], near[i]] = [overlap[i], distance[i]];
    }
  }
  for (const query of queries) best[query] = -Infinity;
  const order = [...best.keys()].filter((row) => best[row] > -Infinity);
  order.sort((a, b) => best[b] - best[a]);
  return order.slice(0, k).map((row) => ({ row, overlap: best[row], distance: near[row] }));
}

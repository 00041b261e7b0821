// Images that are cut into tiles, and their features joined again: docs/bundle-format.md, "Tiles".

import { normalised, resized } from './pixels.mjs';

// Of an image of h × w pixels: its pinpoint [H, W]; how the tiles' features lie on their grid, borders left out
// (top, left; lines × width); and what is left of these where they are shrunk.
function gridOf({ size: [t], tiles: { pinpoints, shrink_to } }, n, h, w) {
  let found = { kept: -1 };
  for (const [H, W] of pinpoints) {
    const s = Math.min(W / w, H / h);
    const kept = Math.min(Math.trunc(w * s) * Math.trunc(h * s), w * h), border = H * W - kept;
    if (kept > found.kept || (kept === found.kept && border < found.border)) found = { H, W, kept, border };
  }
  const { H, W } = found, columns = W / t;
  const all = [(n * H) / t, (n * W) / t], whole = (x) => Math.trunc(Math.round(x * 1e7) / 1e7);
  const flat = w / h > all[1] / all[0];
  const top = flat ? Math.floor((all[0] - whole((h * all[1]) / w)) / 2) : 0;
  const left = flat ? 0 : Math.floor((all[1] - whole((w * all[0]) / h)) / 2);
  const [lines, width] = [all[0] - 2 * top, all[1] - 2 * left];
  const r = shrink_to ? Math.sqrt((lines * width) / (shrink_to * n * n)) : 1;
  const kept = r > 1.1 ? [Math.floor(lines / r), Math.floor(width / r)] : [lines, width];
  return { H, W, columns, top, left, lines, width, kept };
}

// RGB bytes of height × width cut out of others, in whose place there is `fill` where there are none.
function cut(bytes, h, w, top, left, height, width, fill) {
  const out = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) {
    const [Y, X] = [y + top, x + left], inside = Y >= 0 && Y < h && X >= 0 && X < w;
    out[(y * width + x) * 3 + c] = inside ? bytes[(Y * w + X) * 3 + c] : fill[c];
  }
  return out;
}

// What the encoder takes of an image: the whole and its tiles; of one beside others, where a model has squares, one.
// `count` are its tokens, `join` makes as many rows of the encoder's.
export function tiled(bytes, h, w, image, perImage, alone) {
  const { size: [t], tiles: { square_fill } } = image, n = Math.sqrt(perImage);
  if (square_fill && !alone) {
    const side = Math.max(h, w), [top, left] = [Math.floor((side - h) / 2), Math.floor((side - w) / 2)];
    const square = cut(bytes, h, w, -top, -left, side, side, square_fill);
    const data = normalised(resized(square, side, side, t, t), t, t, image);
    return { data, dims: [1, 3, t, t], count: perImage + 1, join: (features) => features };
  }
  const grid = gridOf(image, n, h, w), { H, W } = grid;
  const wide = W / w < H / h;
  const height = wide ? Math.min(Math.ceil(h * (W / w)), H) : H, width = wide ? W : Math.min(Math.ceil(w * (H / h)), W);
  const fitted = resized(bytes, h, w, height, width), all = [resized(bytes, h, w, t, t)];
  const [top, left] = [Math.floor((H - height) / 2), Math.floor((W - width) / 2)];
  for (let y = 0; y < H; y += t) for (let x = 0; x < W; x += t) {
    all.push(cut(fitted, height, width, y - top, x - left, t, t, [0, 0, 0]));
  }
  const data = new Float32Array(all.length * 3 * t * t);
  all.forEach((tile, i) => data.set(normalised(tile, t, t, image), i * 3 * t * t));
  const count = perImage + grid.kept[0] * (grid.kept[1] + 1);
  const join = (features, D) => joined(features, features.length / D / all.length, D, n, grid);
  return { data, dims: [all.length, 3, t, t], count, join };
}

// The whole's features, then the tiles', a newline behind each line. The encoder gives `rows` of D for each array.
function joined(features, rows, D, n, { columns, top, left, lines, width, kept: [L, W] }) {
  const row = (array, i) => features.subarray((array * rows + i) * D, (array * rows + i + 1) * D);
  const grid = new Float32Array(lines * width * D);
  for (let y = 0; y < lines; y++) for (let x = 0; x < width; x++) {
    const [Y, X] = [y + top, x + left];
    const tile = 1 + Math.floor(Y / n) * columns + Math.floor(X / n);
    grid.set(row(tile, (Y % n) * n + (X % n)), (y * width + x) * D);
  }
  const narrow = shrunk(grid, lines, width, W, D, width * D, D), small = shrunk(narrow, W, lines, L, D, D, W * D);
  const out = new Float32Array((n * n + L * (W + 1)) * D);
  out.set(features.subarray(0, n * n * D));
  for (let y = 0; y < L; y++) {
    const at = (n * n + y * (W + 1)) * D;
    out.set(small.subarray(y * W * D, (y + 1) * W * D), at);
    out.set(row(0, rows - 1), at + W * D);
  }
  return out;
}

// `length` features of each of the `lines`, which lie `stride` apart, made `m`; features of a line lie `step` apart.
function shrunk(values, lines, length, m, D, stride, step) {
  if (length === m) return values;
  const along = step === D, out = new Float32Array(lines * m * D), float = Math.fround, s = float(length / m);
  for (let o = 0; o < m; o++) {
    const x = float(Math.max(0, s * (o + 0.5) - 0.5)), low = Math.floor(x), high = Math.min(low + 1, length - 1);
    const second = float(x - low), first = float(1 - second);
    for (let line = 0; line < lines; line++) for (let d = 0; d < D; d++) {
      const [a, b] = [low, high].map((i) => values[line * stride + i * step + d]);
      out[(along ? line * m + o : o * lines + line) * D + d] = float(float(a * first) + float(b * second));
    }
  }
  return out;
}

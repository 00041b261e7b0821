// From RGB bytes to pixel values, by the steps of a manifest's `image`: bit for bit as pumice (docs/bundle-format.md).

function bicubic(x) {
  const a = Math.abs(x);
  if (a < 1) return (1.5 * a - 2.5) * a * a + 1;
  return a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0;
}

// For each output pixel of an axis: where its inputs begin, and their weights, whole numbers in units of 2^-22.
function windows(n, m) {
  const scale = n / m, wide = Math.max(scale, 1);
  return Array.from({ length: m }, (_, o) => {
    const c = (o + 0.5) * scale;
    const low = Math.max(0, Math.trunc(c - 2 * wide + 0.5)), high = Math.min(n, Math.trunc(c + 2 * wide + 0.5));
    const raw = Array.from({ length: high - low }, (_, i) => bicubic((low + i - c + 0.5) / wide));
    const sum = raw.reduce((x, y) => x + y, 0);
    const whole = (x) => Math.sign(x) * Math.round(Math.abs(x));
    return { low, weights: raw.map((x) => whole((x / sum) * 2 ** 22)) };
  });
}

// One pass along an axis of `n` pixels that lie `step` apart, in `lines` lines that lie `stride` apart.
function pass(bytes, n, m, step, lines, stride, outStep, outStride) {
  const out = new Uint8Array(lines * m * 3);
  windows(n, m).forEach(({ low, weights }, o) => {
    for (let line = 0; line < lines; line++) for (let c = 0; c < 3; c++) {
      let sum = 2 ** 21;
      weights.forEach((w, i) => { sum += w * bytes[(line * stride + (low + i) * step) * 3 + c]; });
      out[(line * outStride + o * outStep) * 3 + c] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** 22)));
    }
  });
  return out;
}

// Rows first; columns first where the height shrinks by more than twice as many pixels as the width.
export function resized(bytes, h, w, H, W) {
  const rows = (b, lines) => (w === W ? b : pass(b, w, W, 1, lines, w, 1, W));
  const columns = (b, lines) => (h === H ? b : pass(b, h, H, lines, lines, 1, lines, 1));
  const late = h > H && h - H > 2 * (w - W);
  return late ? rows(columns(bytes, w), H) : columns(rows(bytes, h), W);
}

// The size of the resized image.
function resizedSize(h, w, image) {
  const { resize_to, resize_shortest_edge: short, resize_longest_edge: long, multiple_of } = image;
  if (short) return h < w ? [short, Math.trunc((short * w) / h)] : [Math.trunc((short * h) / w), short];
  if (!long) return resize_to ?? [h, w];
  const ratio = Math.max(1, h / long, w / long);
  return [h, w].map((side) => Math.ceil(Math.floor(side / ratio) / multiple_of) * multiple_of);
}

export function pixelsOf(bytes, h, w, image) {
  if (image.resample !== 3) throw new Error(`resample ${image.resample}: only bicubic is written here`);
  const [H, W] = resizedSize(h, w, image);
  const small = resized(bytes, h, w, H, W), [height, width] = image.crop_to ?? [H, W];
  return { data: normalised(small, H, W, image, height, width), dims: [1, 3, height, width] };
}

// Bytes of H × W, cropped to height × width, as numbers with the channels first.
export function normalised(small, H, W, image, height = H, width = W) {
  const top = Math.floor((H - height) / 2), left = Math.floor((W - width) / 2);
  const values = new Float32Array(3 * height * width);
  for (let c = 0; c < 3; c++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const inside = y + top >= 0 && y + top < H && x + left >= 0 && x + left < W;
    const byte = inside ? small[((y + top) * W + x + left) * 3 + c] : 0;
    let value = image.rescale_factor === null ? byte : Math.fround(byte * image.rescale_factor);
    const float = Math.fround;
    if (image.mean) value = float(float(value - float(image.mean[c])) / float(image.std[c]));
    values[(c * height + y) * width + x] = value;
  }
  return values;
}

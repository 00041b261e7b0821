// node onnxruntime_node.mjs BUNDLE CASES: what examples/onnxruntime-node makes of each case, a line of JSON each.
import { readFileSync } from 'node:fs';
import { answer, idsOf, open, pixelsOfFiles } from '../examples/onnxruntime-node/answer.mjs';

const [bundle, folder] = process.argv.slice(2);
const client = await open(bundle);
const all = async (tokens) => { const found = []; for await (const token of tokens) found.push(token); return found; };
for (const { question, images, pixels, shape, most } of JSON.parse(readFileSync(`${folder}/cases.json`))) {
  const line = {};
  try {
    line.ids = idsOf(client, question, images.length);
    const own = images.length ? await pixelsOfFiles(client, images) : null;
    line.own = await all(answer(client, line.ids, own, most));
    if (pixels) {
      const bytes = readFileSync(`${folder}/${pixels}`);
      const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
      line.pixels = own.data.reduce((sum, value, i) => sum + Math.abs(value - data[i]), 0) / data.length;
      line.fed = await all(answer(client, line.ids, { data, dims: shape }, most));
    }
  } catch (error) {
    line.error = String(error);
  }
  console.log(JSON.stringify(line));
}

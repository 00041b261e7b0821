// node onnxruntime_node.mjs BUNDLE CASES: what examples/onnxruntime-node makes of each case, a line of JSON each.
import { readFileSync } from 'node:fs';
import { answer, idsOf, open, pixelsOfFiles } from '../examples/onnxruntime-node/answer.mjs';

const [bundle, folder] = process.argv.slice(2);
const client = await open(bundle);
const all = async (tokens) => { const found = []; for await (const token of tokens) found.push(token); return found; };
for (const { question, images, pixels, most } of JSON.parse(readFileSync(`${folder}/cases.json`))) {
  const line = {};
  try {
    const own = await pixelsOfFiles(client, images);
    line.ids = idsOf(client, question, own);
    line.own = await all(answer(client, line.ids, own, most));
    if (pixels) {
      const bytes = readFileSync(`${folder}/${pixels}`);
      const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
      let at = 0;
      const fed = own.map((image) => ({ ...image, data: data.slice(at, (at += image.data.length)) }));
      const apart = ({ data: values }, i) => values.reduce((sum, value, j) => sum + Math.abs(value - fed[i].data[j]), 0);
      line.pixels = own.map(apart).reduce((x, y) => x + y, 0) / data.length;
      line.fed = await all(answer(client, line.ids, fed, most));
    }
  } catch (error) {
    line.error = String(error);
  }
  console.log(JSON.stringify(line));
}

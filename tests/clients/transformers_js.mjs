// node transformers_js.mjs BUNDLE CASES: what examples/transformers-js makes of each case, a line of JSON each.
import { readFileSync } from 'node:fs';
import { RawImage } from '@huggingface/transformers';
import { answer, open, prepare } from '../examples/transformers-js/answer.mjs';

const [bundle, folder] = process.argv.slice(2);
const cases = JSON.parse(readFileSync(`${folder}/cases.json`));
const client = await open(bundle);
for (const { question, images, pixels, shape, most } of cases) {
  const line = {};
  try {
    const read = await Promise.all(images.map((file) => RawImage.read(file)));
    const inputs = await prepare(client, question, read);
    line.ids = Array.from(inputs.input_ids.data, Number);
    line.own = await answer(client, inputs, most);
    if (pixels) {
      const bytes = readFileSync(`${folder}/${pixels}`);
      const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
      line.pixels = inputs.pixel_values.data.reduce((sum, value, i) => sum + Math.abs(value - data[i]), 0) / data.length;
      line.fed = await answer(client, inputs, most, { pixels: { data, dims: shape } });
    }
  } catch (error) {
    line.error = String(error);
  }
  console.log(JSON.stringify(line));
}

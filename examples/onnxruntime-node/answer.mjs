// A question about images, answered by ONNX Runtime alone in node: a reader written from docs/bundle-format.md.
//
//     npm install onnxruntime-node sharp @huggingface/tokenizers @huggingface/jinja
//     node answer.mjs BUNDLE "What is this?" image.png …
//
// It reads bundles of schema versions 1 to 3 whose images are resized bicubically; no videos.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import ort from 'onnxruntime-node';
import sharp from 'sharp';
import { pixelsOf } from './pixels.mjs';
import { tiled } from './tiles.mjs';

// What 8- and 4-bit weights need on x86 processors without VNNI. Errors are told by exceptions.
const options = { logSeverityLevel: 3, extra: { session: { x64quantprecision: '1' } } };

export async function open(bundle) {
  const json = (file) => JSON.parse(readFileSync(join(bundle, file), 'utf8'));
  const manifest = json('manifest.json');
  const { schema_version } = manifest;
  if (schema_version > 3) throw new Error(`schema version ${schema_version}: this reads versions 1 to 3`);
  const session = (graph) => ort.InferenceSession.create(join(bundle, graph.file), options);
  const { vision_encoder, embedding, decoder } = manifest.graphs;
  const [vision, embed, text] = await Promise.all([vision_encoder, embedding, decoder].map(session));
  const tokenizer = new Tokenizer(json(manifest.chat.tokenizer_file), {});
  const source = readFileSync(join(bundle, manifest.chat.template_file), 'utf8');
  return { manifest, vision, embed, text, tokenizer, template: new Template(source) };
}

// What stands in a prompt for an image: a token for each row of its features.
function imageIds({ token_id, per_image, patch_size, break_token_id, end_token_id }, { count, dims }) {
  if (per_image !== null) return Array(count ?? per_image).fill(token_id);
  const [height, width] = dims.slice(2);
  const lines = height / patch_size, line = Array(width / patch_size).fill(token_id);
  return Array.from({ length: lines }, (_, y) => [...line, y + 1 < lines ? break_token_id : end_token_id]).flat();
}

// Token ids of a question about images, as `pixelsOfFiles` prepares them.
export function idsOf({ manifest, tokenizer, template }, question, images) {
  const content = [...images.map(() => ({ type: 'image' })), { type: 'text', text: question }];
  const tokens = Object.fromEntries(Object.entries(manifest.tokens).filter(([, text]) => typeof text === 'string'));
  const messages = [{ role: 'user', content }];
  const prompt = template.render({ messages, add_generation_prompt: true, ...tokens });
  const begun = manifest.tokens.bos_token !== null && prompt.startsWith(manifest.tokens.bos_token);
  const { ids } = tokenizer.encode(prompt, { add_special_tokens: !begun });
  const marks = manifest.image_tokens, left = [...images];
  return ids.flatMap((id) => (id === marks.token_id ? imageIds(marks, left.shift()) : [id]));
}

// Of each image file { data: Float32Array, dims: [arrays, 3, height, width] }, and how its features are counted and joined.
export async function pixelsOfFiles({ manifest }, files) {
  return Promise.all(files.map(async (file) => {
    const flat = sharp(file).autoOrient().flatten({ background: 'white' }).toColourspace('srgb');
    const { data, info } = await flat.raw().toBuffer({ resolveWithObject: true });
    const { image, image_tokens } = manifest;
    if (!image.tiles) return pixelsOf(data, info.height, info.width, image);
    return tiled(data, info.height, info.width, image, image_tokens.per_image, files.length === 1);
  }));
}

const int64 = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
const float32 = (data, dims) => new ort.Tensor('float32', data, dims);

// All images' features, one below the other: [tokens, width].
async function featuresOf({ vision, manifest }, images) {
  const parts = [], width = manifest.decoder.hidden_size;
  for (const { data, dims, join } of images) {
    const { image_features } = await vision.run({ pixel_values: float32(data, dims) });
    parts.push(join ? join(image_features.data, width) : image_features.data);
  }
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return float32(all, [all.length / width, width]);
}

// Greedy tokens, one by one.
export async function* answer(client, ids, images, most) {
  const { decoder, tokens } = client.manifest;
  const none = float32(new Float32Array(0), [0, decoder.hidden_size]);
  const features = await featuresOf(client, images);
  const Numbers = { float32: Float32Array, float16: globalThis.Float16Array ?? Uint16Array, int8: Int8Array }[decoder.kv_dtype];
  const cache = {};
  for (let layer = 0; layer < decoder.layers; layer++) for (const part of ['key', 'value']) {
    const dims = [1, decoder.kv_heads, 0, decoder.head_dim];
    cache[`past_key_values.${layer}.${part}`] = new ort.Tensor(decoder.kv_dtype, new Numbers(0), dims);
  }
  for (let step = 0, total = ids.length, next = ids; step < most && total <= decoder.context_length; step++, total++) {
    const { inputs_embeds } = await client.embed.run({ input_ids: int64(next), image_features: step ? none : features });
    const out = await client.text.run({ inputs_embeds, attention_mask: int64(Array(total).fill(1)), ...cache });
    const best = out.logits.data.reduce((found, value, i, all) => (value > all[found] ? i : found), 0);
    yield best;
    if (tokens.eos_ids.includes(best)) return;
    for (const name of Object.keys(cache)) cache[name] = out[name.replace('past_key_values', 'present')];
    next = [best];
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [bundle, question, ...files] = process.argv.slice(2);
  if (!question) throw new Error('usage: node answer.mjs BUNDLE "QUESTION" [IMAGE …]');
  const client = await open(bundle);
  const images = await pixelsOfFiles(client, files);
  const tokens = [];
  for await (const token of answer(client, idsOf(client, question, images), images, 256)) tokens.push(token);
  console.log(client.tokenizer.decode(tokens, { skip_special_tokens: true }));
}

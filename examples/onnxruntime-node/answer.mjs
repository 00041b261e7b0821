// A question about images, answered by ONNX Runtime alone in node: a reader written from docs/bundle-format.md.
//
//     npm install onnxruntime-node sharp @huggingface/tokenizers @huggingface/jinja
//     node answer.mjs BUNDLE "What is this?" image.png …
//
// It reads bundles whose images are all of one size and resized bicubically: schema version 1.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import ort from 'onnxruntime-node';
import sharp from 'sharp';
import { pixelsOf } from './pixels.mjs';

// What 8- and 4-bit weights need on x86 processors without VNNI. Errors are told by exceptions.
const options = { logSeverityLevel: 3, extra: { session: { x64quantprecision: '1' } } };

export async function open(bundle) {
  const json = (file) => JSON.parse(readFileSync(join(bundle, file), 'utf8'));
  const manifest = json('manifest.json');
  if (manifest.schema_version > 1) throw new Error(`schema version ${manifest.schema_version}: this reads version 1`);
  const session = (graph) => ort.InferenceSession.create(join(bundle, graph.file), options);
  const { vision_encoder, embedding, decoder } = manifest.graphs;
  const [vision, embed, text] = await Promise.all([vision_encoder, embedding, decoder].map(session));
  const tokenizer = new Tokenizer(json(manifest.chat.tokenizer_file), {});
  const source = readFileSync(join(bundle, manifest.chat.template_file), 'utf8');
  return { manifest, vision, embed, text, tokenizer, template: new Template(source) };
}

// Token ids of a question, with as many image tokens for each image as it has features.
export function idsOf({ manifest, tokenizer, template }, question, images) {
  const content = [...Array(images).fill({ type: 'image' }), { type: 'text', text: question }];
  const tokens = Object.fromEntries(Object.entries(manifest.tokens).filter(([, text]) => typeof text === 'string'));
  const messages = [{ role: 'user', content }];
  const prompt = template.render({ messages, add_generation_prompt: true, ...tokens });
  const { token_id, per_image } = manifest.image_tokens;
  const begun = manifest.tokens.bos_token !== null && prompt.startsWith(manifest.tokens.bos_token);
  const { ids } = tokenizer.encode(prompt, { add_special_tokens: !begun });
  return ids.flatMap((id) => (id === token_id ? Array(per_image).fill(id) : [id]));
}

// float32 [images, 3, height, width] of image files.
export async function pixelsOfFiles({ manifest }, files) {
  const all = await Promise.all(files.map(async (file) => {
    const flat = sharp(file).flatten({ background: 'white' }).toColourspace('srgb');
    const { data, info } = await flat.raw().toBuffer({ resolveWithObject: true });
    return pixelsOf(data, info.height, info.width, manifest.image);
  }));
  const data = new Float32Array(all.length * all[0].length);
  all.forEach((pixels, i) => data.set(pixels, i * pixels.length));
  return { data, dims: [all.length, 3, ...manifest.image.size] };
}

const int64 = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
const float32 = (data, dims) => new ort.Tensor('float32', data, dims);

// Greedy tokens, one by one.
export async function* answer(client, ids, pixels, most) {
  const { decoder, tokens } = client.manifest;
  const none = float32(new Float32Array(0), [0, decoder.hidden_size]);
  let features = none;
  if (pixels) {
    const encoded = await client.vision.run({ pixel_values: float32(pixels.data, pixels.dims) });
    features = encoded.image_features;
  }
  const cache = {};
  for (let layer = 0; layer < decoder.layers; layer++) for (const part of ['key', 'value']) {
    const [data, dims] = [new Float32Array(0), [1, decoder.kv_heads, 0, decoder.head_dim]];
    cache[`past_key_values.${layer}.${part}`] = new ort.Tensor(decoder.kv_dtype, data, dims);
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
  const pixels = files.length ? await pixelsOfFiles(client, files) : null;
  const tokens = [];
  for await (const token of answer(client, idsOf(client, question, files.length), pixels, 256)) tokens.push(token);
  console.log(client.tokenizer.decode(tokens, { skip_special_tokens: true }));
}

// A question about images, answered by Transformers.js in node from a pumice bundle.
//
//     npm install @huggingface/transformers@4
//     node answer.mjs BUNDLE "What is this?" image.png …

import { basename, dirname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  AutoModelForImageTextToText, AutoProcessor, RawImage, Tensor, TextStreamer, env,
} from '@huggingface/transformers';

// What 8- and 4-bit weights need on x86 processors without VNNI; config.json has no place for it.
const session_options = { extra: { session: { x64quantprecision: '1' } } };

export async function open(bundle) {
  env.allowRemoteModels = false;
  env.localModelPath = `${dirname(resolve(bundle))}/`;
  const id = basename(resolve(bundle));
  const processor = await AutoProcessor.from_pretrained(id);
  const model = await AutoModelForImageTextToText.from_pretrained(id, { session_options });
  return { processor, model };
}

// What stands in a prompt for an image whose pixels are height × width.
function marks({ config }, height, width) {
  const { image_token, image_break_token, image_end_token, patch_size, spatial_merge_size = 1 } = config;
  const [lines, line] = [height, width].map((side) => Math.floor(side / (patch_size * spatial_merge_size)));
  if (!image_break_token) return image_token.repeat(lines * line + config.num_additional_image_tokens);
  const row = image_token.repeat(line);
  return (row + image_break_token).repeat(lines - 1) + row + image_end_token;
}

// Token ids and pixels. The client's own processor expands the first image of a prompt only: more are expanded here.
// It takes several images only if they come out alike: all do but a Pixtral's, which must be of one size.
export async function prepare({ processor }, question, images) {
  const { bos_token } = processor.tokenizer;
  const content = [...images.map(() => ({ type: 'image' })), { type: 'text', text: question }];
  const text = processor.apply_chat_template([{ role: 'user', content }], { add_generation_prompt: true });
  const begun = { add_special_tokens: !(bos_token && text.startsWith(bos_token)) }; // some templates write <s> themselves
  if (images.length === 0) return processor.tokenizer(text, begun);
  if (images.length === 1) return processor(images[0], text, begun);
  const pixels = await processor.image_processor(images);
  const expanded = text.replaceAll(processor.config.image_token, marks(processor, ...pixels.pixel_values.dims.slice(-2)));
  return { ...processor.tokenizer(expanded, begun), ...pixels };
}

// Greedy tokens. `pixels` replaces the client's own: { data: Float32Array, dims: [images, 3, height, width] }.
export async function answer({ model }, inputs, most, { streamer, pixels } = {}) {
  const fed = pixels ? { pixel_values: new Tensor('float32', pixels.data, pixels.dims) } : {};
  const output = await model.generate({ ...inputs, ...fed, max_new_tokens: most, do_sample: false, streamer });
  return Array.from(output.data, Number).slice(inputs.input_ids.dims[1]);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [bundle, question, ...files] = process.argv.slice(2);
  if (!question) throw new Error('usage: node answer.mjs BUNDLE "QUESTION" [IMAGE …]');
  const client = await open(bundle);
  const images = await Promise.all(files.map((file) => RawImage.read(file)));
  const inputs = await prepare(client, question, images);
  const streamer = new TextStreamer(client.processor.tokenizer, { skip_prompt: true, skip_special_tokens: true });
  await answer(client, inputs, 256, { streamer });
}

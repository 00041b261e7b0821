// node openai_node.mjs WHAT URL MODEL IMAGE: what openai-node makes of a server, a line of JSON.
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const [what, baseURL, model, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const url = `data:image/png;base64,${readFileSync(image).toString('base64')}`;
const content = [{ type: 'image_url', image_url: { url } }, { type: 'text', text: 'Describe this picture in more detail.' }];
const messages = [{ role: 'user', content }];
const asked = { model, messages, temperature: 0 };

const programs = {
  async whole() {
    const names = [];
    for await (const each of client.models.list()) names.push(each.id);
    const answer = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 1 });
    const [choice] = answer.choices;
    const tokens = choice.logprobs.content.map((each) => each.token).join('');
    return { names, text: choice.message.content, finish: choice.finish_reason, tokens, usage: answer.usage, id: answer._request_id };
  },
  async stream() {
    const chunks = [];
    const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    return { text, finish: chunks.at(-2).choices[0].finish_reason, usage: chunks.at(-1).usage, ids: [...new Set(chunks.map((each) => each.id))].length };
  },
  async helper() {
    const runner = client.chat.completions.stream(asked);
    let text = '';
    runner.on('content', (delta) => { text += delta; });
    const last = await runner.finalChatCompletion();
    return { text, final: last.choices[0].message.content };
  },
  async schema() {
    const sign = z.object({ red: z.boolean(), shape: z.enum(['round', 'other']) });
    const answer = await client.chat.completions.parse({ ...asked, max_tokens: 900, response_format: zodResponseFormat(sign, 'sign') });
    return { parsed: answer.choices[0].message.parsed };
  },
  async tool() {
    const parameters = { type: 'object', properties: { red: { type: 'boolean' } }, required: ['red'], additionalProperties: false };
    const tools = [{ type: 'function', function: { name: 'sign', parameters } }];
    const runner = client.chat.completions.stream({ ...asked, tools, tool_choice: 'required', max_tokens: 900 });
    const { choices: [choice] } = await runner.finalChatCompletion();
    const [call] = choice.message.tool_calls;
    return { name: call.function.name, parsed: JSON.parse(call.function.arguments), finish: choice.finish_reason };
  },
  async errors() {
    const found = {};
    const cases = {
      missing: { ...asked, model: 'gone' },
      image: { ...asked, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' } }] }] },
      stream: { ...asked, stream: true, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: url.slice(0, -400) } }] }] },
    };
    for (const [name, body] of Object.entries(cases)) {
      try {
        const answer = await client.chat.completions.create(body);
        if (body.stream) for await (const _ of answer);
      } catch (error) {
        found[name] = { kind: error.constructor.name, status: error.status ?? null, code: error.code, param: error.param };
      }
    }
    return found;
  },
  async abort() {
    const long = { model, messages: [{ role: 'user', content: 'Hi' }], max_tokens: 1900, ignore_eos: true, temperature: 0, stream: true };
    const stream = await client.chat.completions.create(long);
    let pieces = 0;
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) pieces += 1;
      if (pieces === 3) stream.controller.abort();
    }
    return { pieces };
  },
};
console.log(JSON.stringify(await programs[what]()));

// node ai_sdk.mjs WHAT URL MODEL IMAGE: what Vercel's AI SDK makes of a server, a line of JSON.
import { readFileSync } from 'node:fs';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, Output, streamText, tool } from 'ai';
import { z } from 'zod';

const [what, baseURL, name, image] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: 'pumice', baseURL, includeUsage: true, supportsStructuredOutputs: true });
const model = provider.chatModel(name);
const content = [{ type: 'file', mediaType: 'image/png', data: readFileSync(image) }, { type: 'text', text: 'Describe this picture in more detail.' }];
const asked = { model, messages: [{ role: 'user', content }], temperature: 0, maxRetries: 0, onError() {} };
const counts = ({ inputTokens, outputTokens }) => ({ inputTokens, outputTokens });

const programs = {
  async whole() {
    const answer = await generateText(asked);
    return { text: answer.text, finish: answer.finishReason, usage: counts(answer.usage) };
  },
  async stream() {
    const answer = streamText(asked);
    let text = '';
    for await (const piece of answer.textStream) text += piece;
    return { text, finish: await answer.finishReason, usage: counts(await answer.usage) };
  },
  async schema() {
    const schema = z.object({ red: z.boolean(), shape: z.enum(['round', 'other']) });
    const answer = await generateText({ ...asked, maxOutputTokens: 900, output: Output.object({ schema }) });
    return { parsed: answer.output };
  },
  async tool() {
    const tools = { sign: tool({ inputSchema: z.object({ red: z.boolean() }) }) };
    const answer = streamText({ ...asked, tools, toolChoice: { type: 'tool', toolName: 'sign' }, maxOutputTokens: 900 });
    const [call] = await answer.toolCalls;
    return { name: call.toolName, parsed: call.input, finish: await answer.finishReason };
  },
  async errors() {
    const found = {};
    try {
      await generateText({ ...asked, model: provider.chatModel('gone') });
    } catch (error) {
      found.missing = { status: error.statusCode, code: error.data.error.code, message: error.message };
    }
    for await (const part of streamText({ ...asked, messages: [{ role: 'user', content: [{ ...content[0], data: readFileSync(image).subarray(0, -300) }] }] }).fullStream) {
      if (part.type === 'error') found.stream = String(part.error.message ?? part.error);
    }
    return found;
  },
  async abort() {
    const leaving = new AbortController();
    const answer = streamText({ ...asked, abortSignal: leaving.signal, messages: [{ role: 'user', content: 'Hi' }], maxOutputTokens: 1900, providerOptions: { pumice: { ignore_eos: true } } });
    let pieces = 0;
    for await (const part of answer.fullStream) {
      if (part.type === 'text-delta') pieces += 1;
      if (pieces === 3) leaving.abort();
    }
    return { pieces };
  },
};
console.log(JSON.stringify(await programs[what]()));

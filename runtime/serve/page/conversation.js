// A chat: questions, and what was answered. What is asked of the server is made of it here.

import { AskError, ask, look } from "./api.js";
import { dataUri, pictures } from "./images.js";

/** @typedef {{text: string, images: string[], each: boolean}} Question `each`: the images are asked about one by one */
/** @typedef {"loading" | "queued" | "reading" | "streaming" | "done" | "stopped" | "failed"} State */
/** @typedef {{state: State, text: string, json: boolean, place?: number, began?: number, finish?: string,
 *  usage?: any, timings?: any, error?: {message: string, code: string}}} Answer */
/** @typedef {{question: Question, answers: Answer[]}} Round `answers`: one, or one for each image */
/** @typedef {{id: string, title: string, changed: number, rounds: Round[]}} Chat */
/** @typedef {import("./settings.js").Options} Options */

export const UNFINISHED = ["loading", "queued", "reading", "streaming"];

/** An id that nobody else has; crypto.randomUUID is not there over plain http. */
export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** @returns {Chat} */
export const newChat = () => ({ id: newId(), title: "", changed: Date.now(), rounds: [] });

/**
 * Unanswered answers to a question.
 * @param {Question} question
 * @param {boolean} json
 * @returns {Answer[]}
 */
export function unanswered(question, json) {
  const count = question.each ? question.images.length : 1;
  return Array.from({ length: count }, () => ({ state: "reading", text: "", json, began: Date.now() }));
}

/** @param {Question} question */
export function titleOf(question) {
  const words = question.text.trim().replace(/\s+/g, " ");
  return words ? words.slice(0, 80) : question.images.length > 1 ? "Images" : "An image";
}

/**
 * Messages up to a round and with its question, images before the words, as the models learnt it.
 * @param {Chat} chat
 * @param {Round} last
 * @param {number} index which of its answers is asked for
 * @param {string} system
 */
async function messages(chat, last, index, system) {
  const found = system.trim() ? [{ role: "system", content: /** @type {any} */ (system) }] : [];
  for (const round of chat.rounds) {
    const { question } = round;
    const hashes = round === last && question.each ? [question.images[index]] : question.images;
    found.push({ role: "user", content: await content(question.text, hashes) });
    if (round === last) break;
    found.push({ role: "assistant", content: spoken(round) });
  }
  return found;
}

/**
 * @param {string} text
 * @param {string[]} hashes
 */
async function content(text, hashes) {
  if (!hashes.length) return text;
  const parts = await Promise.all(
    hashes.map(async (hash) => {
      const picture = pictures.get(hash);
      if (!picture) throw new AskError("An image of this chat is not kept any more: ask without it.", "image");
      return { type: "image_url", image_url: { url: await dataUri(picture.blob) } };
    }),
  );
  return text ? [...parts, { type: "text", text }] : parts;
}

/** @param {Round} round */
export function spoken({ answers }) {
  if (answers.length === 1) return answers[0].text;
  return answers.map((answer, i) => `Image ${i + 1}: ${answer.text}`).join("\n\n");
}

/**
 * Have one answer of a round made; it is told whenever it has changed, and in the end it is done, stopped or failed.
 * @param {Chat} chat
 * @param {Round} round
 * @param {number} index
 * @param {Options} options
 * @param {AbortSignal} signal
 * @param {(answer: Answer) => void} told
 */
export async function answer(chat, round, index, options, signal, told) {
  const made = round.answers[index];
  try {
    const body = {
      model: options.model || undefined,
      messages: await messages(chat, round, index, options.system),
      ...options.sampling,
      ...(options.schema && {
        response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema: options.schema } },
      }),
    };
    while (!(await stream(made, ask(body, signal, chat.id), told))) await loaded(made, signal, told);
  } catch (error) {
    if (signal.aborted) made.state = "stopped";
    else {
      const known = error instanceof AskError ? error : new AskError("The page failed to ask.", "page");
      if (known.code === "page") console.error(error);
      made.state = "failed";
      made.error = { message: known.message, code: known.code };
    }
  }
  delete made.place;
  told(made);
}

/**
 * @param {Answer} made
 * @param {AsyncGenerator<import("./api.js").Event>} events
 * @param {(answer: Answer) => void} told
 * @returns {Promise<boolean>} false where the model is not loaded yet
 */
async function stream(made, events, told) {
  try {
    for await (const event of events) {
      if (event.kind === "queued") Object.assign(made, { state: "queued", place: event.place });
      else if (event.kind === "text") Object.assign(made, { state: "streaming", text: made.text + event.text });
      else if (event.kind === "end") made.finish = event.finish;
      else Object.assign(made, event.usage && { usage: event.usage }, event.timings && { timings: event.timings });
      told(made);
    }
  } catch (error) {
    if (error instanceof AskError && error.code === "loading") return false;
    throw error;
  }
  made.state = "done";
  return true;
}

/**
 * Wait until the model is loaded.
 * @param {Answer} made
 * @param {AbortSignal} signal
 * @param {(answer: Answer) => void} told
 */
async function loaded(made, signal, told) {
  made.state = "loading";
  told(made);
  while ((await look()).state === "loading") {
    await pause(1000);
    signal.throwIfAborted();
  }
  made.state = "reading";
  told(made);
}

/** @param {number} milliseconds */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

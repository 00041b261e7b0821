// A chat: questions, and what was answered. What is asked of the server is made of it here.

import { AskError, ask, look } from "./api.js";
import { newId } from "./dom.js";
import { dataUri, pictures } from "./images.js";

/** @typedef {{text: string, images: string[], each: boolean}} Question `each`: the images are asked about one by one */
/** @typedef {"loading" | "queued" | "reading" | "streaming" | "done" | "stopped" | "failed"} State */
/** @typedef {{state: State, text: string, json: boolean, place?: number, began?: number, finish?: string,
 *  usage?: any, timings?: any, error?: {message: string, code: string}}} Answer */
/** @typedef {{question: Question, answers: Answer[]}} Round `answers`: one, or one for each image */
/** @typedef {{id: string, title: string, changed: number, rounds: Round[]}} Chat */
/** @typedef {import("./settings.js").Options} Options */

export const UNFINISHED = ["loading", "queued", "reading", "streaming"];

/** @returns {Chat} */
export const newChat = () => ({ id: newId(), title: "", changed: 0, rounds: [] });

/** What is to be answered. @param {Question} question @returns {Answer[]} */
export const unanswered = ({ each, images }, json) =>
	(each ? images : [""]).map(() => ({ state: "reading", text: "", json, began: Date.now() }));

/** @param {Question} question */
export const titleOf = ({ text, images }) =>
	text.replace(/\s+/g, " ").slice(0, 80) || (images.length > 1 ? "Images" : "An image");

/** Messages up to a round's question, images before the words, as models learnt it.
 * @param {Chat} chat @param {Round} last */
async function messages(chat, last, index, system) {
	const found = system.trim() ? [{ role: "system", content: system }] : [];
	for (const round of chat.rounds) {
		const { text, images, each } = round.question;
		found.push({ role: "user", content: await content(text, round === last && each ? [images[index]] : images) });
		if (round === last) break;
		found.push({ role: "assistant", content: spoken(round) });
	}
	return found;
}

async function content(text, hashes) {
	if (!hashes.length) return text;
	const parts = hashes.map(async (hash) => {
		const picture = pictures.get(hash);
		if (!picture) throw new AskError("An image of this chat is not kept any more: ask without it.", "image");
		return { type: "image_url", image_url: { url: await dataUri(picture.blob) } };
	});
	return [...(await Promise.all(parts)), ...(text ? [{ type: "text", text }] : [])];
}

/** All answers as one text. @param {Round} round */
export const spoken = ({ answers }) =>
	answers.length === 1 ? answers[0].text : answers.map(({ text }, i) => `Image ${i + 1}: ${text}`).join("\n\n");

/**
 * Have one answer of a round made; `told` hears whenever it has changed. In the end it is done, stopped or failed.
 * @param {Chat} chat @param {Round} round @param {number} index @param {Options} options @param {AbortSignal} signal
 * @param {(answer: Answer) => void} told
 */
export async function answer(chat, round, index, { model, system, sampling, schema }, signal, told) {
	const made = round.answers[index];
	const change = (to) => told(Object.assign(made, to));
	try {
		const format = schema && { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
		const body = { model: model || undefined, messages: await messages(chat, round, index, system), ...sampling };
		if (format) Object.assign(body, { response_format: format });
		while (!(await stream(made, ask(body, signal, chat.id), change))) {
			change({ state: "loading" });
			while ((await look()).state === "loading") await pause(1000);
			signal.throwIfAborted();
		}
		change({ state: "done" });
	} catch (error) {
		if (signal.aborted) return change({ state: "stopped" });
		if (!(error instanceof AskError)) console.error(error);
		change({ state: "failed", error: { message: error.message, code: error.code } });
	}
}

/** Gives false where the model is not loaded yet. */
async function stream(made, events, change) {
	try {
		for await (const { text, ...event } of events) {
			change(text ? { state: "streaming", text: made.text + text } : event);
		}
		return true;
	} catch (error) {
		if (error.code === "loading") return false;
		throw error;
	}
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

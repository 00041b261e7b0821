// The server, as any client of OpenAI's API sees it: /v1/models, /props, /v1/chat/completions.

/** @typedef {{state: "ready" | "loading" | "away" | "locked", models: string[]}} Status */
/** @typedef {{kind: "queued", place: number} | {kind: "text", text: string} | {kind: "end", finish: string}
 *  | {kind: "figures", usage?: any, timings?: any}} Event */

const KEY = "pumice.key";
let key = "";
try {
	key = sessionStorage.getItem(KEY) ?? "";
} catch {
	// a browser that keeps nothing at all
}

/** What the server says, or what is said of one that is silent (`away`). */
export class AskError extends Error {
	/** @param {string} message @param {string} code */
	constructor(message, code) {
		super(message);
		this.code = code;
	}
}

export const getKey = () => key;

/** The key for this server: for as long as the tab is there, and nowhere else. @param {string} value */
export function setKey(value) {
	key = value.trim();
	try {
		sessionStorage.setItem(KEY, key);
	} catch {
		// it is kept in memory
	}
}

async function request(path, more = {}) {
	const headers = new Headers(more.headers);
	if (key) headers.set("Authorization", `Bearer ${key}`);
	try {
		return await fetch(path, { ...more, headers, cache: "no-store" });
	} catch (error) {
		if (more.signal?.aborted) throw error;
		throw new AskError("The server does not answer. Your question is kept here.", "away");
	}
}

/** How the server is. @returns {Promise<Status>} */
export async function look() {
	try {
		const answer = await request("/v1/models");
		if (answer.status === 401) return { state: "locked", models: [] };
		const { data } = await answer.json();
		const loading = data.some((each) => each.status?.value === "loading");
		return { state: loading ? "loading" : "ready", models: data.map((each) => each.id) };
	} catch {
		return { state: "away", models: [] };
	}
}

/** The model's own settings, and its context. @param {string} model */
export async function defaults(model) {
	const answer = await request(`/props?model=${encodeURIComponent(model)}`);
	return answer.ok ? (await answer.json()).default_generation_settings : null;
}

/**
 * An answer, as it comes.
 * @param {object} body @param {AbortSignal} signal
 * @param {string} session whose requests go to one machine, where there are several
 * @returns {AsyncGenerator<Event>}
 */
export async function* ask(body, signal, session) {
	const answer = await request("/v1/chat/completions", {
		method: "POST",
		signal,
		headers: { "Content-Type": "application/json", "X-Session-Id": session },
		body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
	});
	if (!answer.ok || !answer.body) throw await refusal(answer);
	for await (const line of lines(answer.body, signal)) {
		const queued = /^: queued (\d+)$/.exec(line);
		if (queued) yield { kind: "queued", place: Number(queued[1]) };
		if (line === "data: [DONE]") return;
		if (line.startsWith("data: ")) yield* events(JSON.parse(line.slice(6)));
	}
	throw cut();
}

/** @param {any} chunk @returns {Generator<Event>} */
function* events(chunk) {
	if (chunk.error) throw new AskError(String(chunk.error.message), chunk.error.code ?? "");
	const choice = chunk.choices?.[0];
	if (choice?.delta?.content) yield { kind: "text", text: String(choice.delta.content) };
	if (chunk.usage || chunk.timings) yield { kind: "figures", usage: chunk.usage, timings: chunk.timings };
	if (choice?.finish_reason) yield { kind: "end", finish: choice.finish_reason };
}

async function refusal(answer) {
	const { error } = await answer.json().catch(() => ({}));
	return new AskError(String(error?.message ?? `The server answered with status ${answer.status}.`), error?.code ?? "");
}

const cut = () => new AskError("The answer was cut off: the server has gone.", "away");

/** @param {ReadableStream<Uint8Array>} body @param {AbortSignal} signal */
async function* lines(body, signal) {
	const reader = body.getReader();
	const decoder = new TextDecoder();
	let rest = "";
	for (;;) {
		const part = await reader.read().catch((error) => {
			throw signal.aborted ? error : cut();
		});
		if (part.done) return;
		const found = (rest + decoder.decode(part.value, { stream: true })).split("\n");
		rest = found.pop() ?? "";
		yield* found;
	}
}

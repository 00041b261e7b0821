// The server, as any client of OpenAI's API sees it: /v1/models, /props, /v1/chat/completions.

/** @typedef {{state: "ready" | "loading" | "away" | "locked", models: string[]}} Status */

const KEY = "pumice.key";
let key = "";
try {
	key = sessionStorage.getItem(KEY) ?? "";
} catch {
	// a browser that keeps nothing at all
}

/** What the server says, or what is said of one that is silent (`away`). */
export class AskError extends Error {
	constructor(message, code) {
		super(message);
		this.code = code;
	}
}

export const getKey = () => key;

/** The key for this server: for as long as the tab is there, and nowhere else. */
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

/** How the server is, and the model of that name, or its first. @returns {Promise<Status>} */
export async function look(model) {
	try {
		const answer = await request("/v1/models");
		if (answer.status === 401) return { state: "locked", models: [] };
		const { data } = await answer.json();
		const { status } = data.find(({ id }) => id === model) ?? data[0];
		return { state: status?.value === "loading" ? "loading" : "ready", models: data.map((each) => each.id) };
	} catch {
		return { state: "away", models: [] };
	}
}

/** The model's own settings, and its context. */
export async function defaults(model) {
	const answer = await request(`/props?model=${encodeURIComponent(model)}`);
	return answer.ok ? (await answer.json()).default_generation_settings : null;
}

/**
 * An answer, as it comes: what changes of it, and `text` to add. Requests of a session go to one machine of several.
 * @param {object} body @param {AbortSignal} signal @param {string} session
 * @returns {AsyncGenerator<Partial<import("./conversation.js").Answer>>}
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
		if (queued) yield { state: "queued", place: Number(queued[1]) };
		if (line === "data: [DONE]") return;
		if (line.startsWith("data: ")) yield* events(JSON.parse(line.slice(6)));
	}
	throw cut();
}

function* events({ error, choices, usage, timings }) {
	if (error) throw new AskError(String(error.message), error.code ?? "");
	const { delta, finish_reason: finish } = choices?.[0] ?? {};
	if (delta?.content) yield { text: String(delta.content) };
	if (timings) yield { timings };
	if (usage) yield { usage };
	if (finish) yield { finish };
}

async function refusal(answer) {
	const { error } = await answer.json().catch(() => ({}));
	return new AskError(String(error?.message ?? `The server answered with status ${answer.status}.`), error?.code ?? "");
}

const cut = () => new AskError("The answer was cut off: the server has gone.", "away");

async function* lines(body, signal) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	for (;;) {
		const part = await reader.read().catch((error) => {
			throw signal.aborted ? error : cut();
		});
		if (part.done) return;
		const found = (rest + part.value).split("\n");
		rest = found.pop() ?? "";
		yield* found;
	}
}

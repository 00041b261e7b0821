// The page: which chat is shown, what is under way, and how the server is.

import { defaults, look } from "./api.js";
import { button, byId, notice, toast } from "./dom.js";
import * as composer from "./composer.js";
import { answer, newChat, pause, titleOf, unanswered, UNFINISHED } from "./conversation.js";
import { all, forget, keepingFailed, load, save } from "./history.js";
import { sidebar } from "./sidebar.js";
import { keepsNothing, openSettings, options, settle, showDefaults, typed } from "./settings.js";
import { exportChats, importChats } from "./transfer.js";
import { roundView } from "./view.js";

/** @typedef {import("./conversation.js").Chat} Chat */
/** @typedef {import("./conversation.js").Round} Round */

const IDEAS = ["What is in this image?", "Read the text in it", "Describe it in one sentence"];
const SAID = { ready: "ready", loading: "loading", away: "no answer", locked: "needs a key" };
const main = byId("main");
let chat = newChat();
/** Chats that are being answered. @type {Map<string, {chat: Chat, stop: AbortController}>} */
const running = new Map();
const views = new Map();
const removed = new Set();
/** @type {Round | null} */
let edited = null;
/** @type {import("./api.js").Status} */
let server = { state: "away", models: [] };
let [watching, wanted] = [false, false];
let atEnd = true;

const list = sidebar({ open, begin: () => show(newChat()), remove });
const models = byId("models");
/** The one that is asked; which one is chosen holds for this visit. */
const model = () => models.value || (server.models[0] ?? "");
const stop = (id = chat.id) => running.get(id)?.stop.abort();

/** Keep a chat; where that fails, it is said and the page goes on. @param {Chat} changed */
async function keep(changed) {
	if (!keepsNothing() && !removed.has(changed.id)) await save(changed).catch((error) => notice(keepingFailed(error)));
	await refresh();
}

async function refresh() {
	list.show(await all().catch(() => []), chat.id);
}

async function open(id) {
	const found = running.get(id)?.chat ?? (await load(id).catch(() => undefined));
	if (found) show(found);
}

async function remove(id) {
	const gone = id === chat.id ? chat : await load(id);
	stop(id);
	removed.add(id);
	await forget(id).catch(() => {});
	if (id === chat.id) show(newChat());
	await refresh();
	const back = () => {
		removed.delete(id);
		if (gone) keep(gone).then(() => show(gone));
	};
	if (gone) toast("The chat is deleted.", back);
}

function show(shown) {
	chat = shown;
	for (const each of running.has(chat.id) ? [] : chat.rounds.flatMap(({ answers }) => answers)) {
		if (UNFINISHED.includes(each.state)) each.state = "stopped"; // the page was closed meanwhile
	}
	edit(null);
	views.clear();
	byId("turns").replaceChildren();
	chat.rounds.forEach(append);
	history.replaceState(null, "", chat.rounds.length ? `#${chat.id}` : location.pathname);
	list.close();
	refresh();
	atEnd = true;
	update();
	byId("question").focus();
}

function append(round) {
	const view = roundView(round, {
		edit: () => edit(round),
		again: () => again(round),
		unlock: () => openSettings("key"),
		remove: () => {
			const [shown, before] = [chat, chat.rounds];
			const put = (rounds) => {
				shown.rounds = rounds;
				keep(shown);
				show(shown);
			};
			stop();
			put(before.filter((other) => other !== round));
			toast("The question is deleted.", () => put(before));
		},
	});
	views.set(round, view);
	byId("turns").append(view.root);
}

/** Write a question anew, or no longer. @param {Round | null} round */
function edit(round) {
	if (round || edited) composer.write(round?.question);
	edited = round;
	byId("editing").hidden = !round;
	if (round) byId("question").focus();
}

function send() {
	if (running.has(chat.id)) return stop();
	if (!composer.complete()) return;
	if (typed().wrong) return openSettings("schema");
	const question = composer.written();
	if (edited) chat.rounds = chat.rounds.slice(0, chat.rounds.indexOf(edited));
	if (!chat.rounds.length) chat.title = titleOf(question);
	const round = { question, answers: [] };
	chat.rounds.push(round);
	composer.write();
	again(round);
}

/** Have a round answered, for the first time or again. @param {Round} round */
async function again(round) {
	if (running.has(chat.id)) return;
	const [asked, chosen, stopped] = [chat, options(model()), new AbortController()];
	round.answers = unanswered(round.question, chosen.schema !== null);
	asked.rounds = asked.rounds.slice(0, asked.rounds.indexOf(round) + 1);
	running.set(asked.id, { chat: asked, stop: stopped });
	show(asked);
	keep(asked);
	const told = (each) => {
		views.get(round)?.update(each);
		if (asked === chat && atEnd) main.scrollTop = main.scrollHeight;
	};
	await Promise.all(round.answers.map((_, i) => answer(asked, round, i, chosen, stopped.signal, told)));
	running.delete(asked.id);
	if (round.answers.some(({ error }) => error?.code === "away")) watch();
	update();
	if (asked.rounds.includes(round)) keep(asked);
}

/** What follows from everything else. */
function update() {
	const busy = running.has(chat.id);
	const sends = byId("send");
	sends.ariaLabel = sends.title = busy ? "Stop" : "Send";
	sends.querySelector("use").setAttribute("href", busy ? "#i-stop" : "#i-send");
	sends.disabled = !busy && !composer.complete();
	document.body.classList.toggle("empty", !chat.rounds.length);
	document.title = chat.title ? `${chat.title} – pumice` : "pumice";
	byId("keeps").textContent = keepsNothing() ? "Nothing is kept." : "Chats and images stay in this browser.";
	if (atEnd) main.scrollTop = main.scrollHeight;
}

/** Look how the server is, until it is ready; a tab that nobody looks at asks seldom. */
async function watch() {
	wanted = true;
	if (watching) return;
	watching = true;
	while (wanted) {
		wanted = false;
		server = await look(models.value);
		showModels();
		Object.assign(byId("state"), { textContent: SAID[server.state], className: `state ${server.state}` });
		if (server.state !== "away" && server.state !== "loading") continue;
		await pause(document.hidden ? 10_000 : 1500);
		wanted = true;
	}
	watching = false;
	if (server.state === "ready") showDefaults(await defaults(model()).catch(() => null));
}

/** The only model's name, or a choice of several. */
function showModels() {
	const chosen = models.value;
	if (server.models.length) models.replaceChildren(...server.models.map((name) => new Option(name, name, false, name === chosen)));
	models.hidden = server.models.length < 2;
	byId("model").hidden = !models.hidden;
	byId("model").textContent = model() || "pumice";
}

function transfers() {
	const say = (text) => (byId("kept-said").textContent = text);
	const told = (what) => [(count) => say(count === null ? "That is no file of chats." : `Chats ${what}: ${count}.`), (error) => say(keepingFailed(error))];
	const file = byId("import-file");
	byId("export").onclick = () => exportChats().then(...told("exported"));
	byId("import").onclick = () => file.click();
	file.onchange = async () => {
		await importChats(file.files[0]).then(...told("imported"));
		file.value = "";
		refresh();
	};
	byId("delete-all").onclick = async () => {
		if (!confirm("Delete all chats and images?")) return;
		await forget().then(...told("left"));
		show(newChat());
	};
}

models.onchange = watch;
composer.compose({ send, changed: update });
settle({ changed: update, unlocked: watch });
transfers();
byId("ideas").append(...IDEAS.map((text) => button(text, () => composer.write({ ...composer.written(), text }), "chip")));
byId("editing").querySelector("button").onclick = () => edit(null);
main.onscroll = () => (atEnd = main.scrollTop + main.clientHeight > main.scrollHeight - 40);
for (const dialog of document.querySelectorAll("dialog")) {
	dialog.onclick = ({ target }) => {
		if (target === dialog || (target instanceof Element && target.closest(".close"))) dialog.close();
	};
}
addEventListener("keydown", ({ key }) => {
	if (key !== "Escape" || document.querySelector("dialog[open]")) return;
	if (edited) edit(null);
	else stop();
});
addEventListener("visibilitychange", () => document.hidden || watch());
open(location.hash.slice(1)).then(refresh);
watch();

// The page: which chat is shown, what is under way, and how the server is.

import { defaults, look } from "./api.js";
import { byId, element, notice, toast } from "./dom.js";
import * as composer from "./composer.js";
import { answer, newChat, pause, titleOf, unanswered, UNFINISHED } from "./conversation.js";
import * as history from "./history.js";
import { sidebar } from "./sidebar.js";
import { keepsNothing, openSettings, options, settle, showDefaults, wrongSchema } from "./settings.js";
import { exportChats, importChats } from "./transfer.js";
import { roundView } from "./view.js";

/** @typedef {import("./conversation.js").Chat} Chat */
/** @typedef {import("./conversation.js").Round} Round */

const IDEAS = ["What is in this image?", "Read the text in it", "Describe it in one sentence"];
const main = byId("main");
/** @type {Chat} */
let chat = newChat();
/** Chats that are being answered. @type {Map<string, {chat: Chat, stop: AbortController}>} */
const running = new Map();
/** @type {Map<Round, ReturnType<typeof roundView>>} */
let views = new Map();
/** @type {Round | null} */
let edited = null;
/** @type {import("./api.js").Status} */
let server = { state: "away", models: [] };
let atEnd = true;

const list = sidebar({
  open: (id) => open(id),
  begin: () => show(newChat()),
  remove: async (id) => {
    const gone = id === chat.id ? chat : await history.load(id);
    running.get(id)?.stop.abort();
    await history.forget(id).catch(() => {});
    if (id === chat.id) show(newChat());
    await refresh();
    if (gone) toast("The chat is deleted.", () => keep(gone).then(() => open(gone.id)));
  },
});

/** Keep a chat; where that fails, it is said and the page goes on. @param {Chat} changed */
async function keep(changed) {
  try {
    await history.save(changed);
  } catch (error) {
    notice(history.keepingFailed(error));
  }
  await refresh();
}

async function refresh() {
  list.show(await history.headings().catch(() => []), chat.id);
}

/** @param {string} id */
async function open(id) {
  const found = running.get(id)?.chat ?? (await history.load(id).catch(() => null));
  if (found) show(found);
}

/** @param {Chat} shown */
function show(shown) {
  chat = shown;
  for (const { answers } of running.has(chat.id) ? [] : chat.rounds) {
    for (const each of answers) if (UNFINISHED.includes(each.state)) each.state = "stopped"; // the page was closed
  }
  edit(null);
  views = new Map();
  byId("turns").replaceChildren();
  chat.rounds.forEach(append);
  globalThis.history.replaceState(null, "", chat.rounds.length ? `#${chat.id}` : location.pathname);
  list.close();
  refresh();
  atEnd = true;
  update();
  byId("question").focus();
}

/** @param {Round} round */
function append(round) {
  const view = roundView(round, {
    edit: () => edit(round),
    again: () => again(round),
    unlock: () => openSettings("key"),
    remove: () => {
      const [before, shown] = [[...chat.rounds], chat];
      running.get(chat.id)?.stop.abort();
      chat.rounds = chat.rounds.filter((other) => other !== round);
      keep(chat);
      show(chat);
      toast("The question is deleted.", () => {
        shown.rounds = before;
        keep(shown);
        show(shown);
      });
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
  if (running.has(chat.id)) return running.get(chat.id)?.stop.abort();
  if (!composer.complete()) return;
  if (wrongSchema()) return openSettings("schema");
  const question = composer.written();
  if (edited) chat.rounds.splice(chat.rounds.indexOf(edited));
  if (!chat.rounds.length) chat.title = titleOf(question);
  const round = { question, answers: [] };
  chat.rounds.push(round);
  composer.write();
  again(round);
}

/** Have a round answered, for the first time or again. @param {Round} round */
async function again(round) {
  if (running.has(chat.id)) return;
  const [asked, chosen, stop] = [chat, options(server.models[0] ?? ""), new AbortController()];
  round.answers = unanswered(round.question, chosen.schema !== null);
  chat.rounds.splice(chat.rounds.indexOf(round) + 1);
  running.set(asked.id, { chat: asked, stop });
  show(asked);
  keep(asked);
  const told = (/** @type {import("./conversation.js").Answer} */ each) => {
    views.get(round)?.update(each);
    if (asked === chat && atEnd) main.scrollTop = main.scrollHeight;
  };
  await Promise.all(round.answers.map((_, i) => answer(asked, round, i, chosen, stop.signal, told)));
  running.delete(asked.id);
  if (round.answers.some(({ error }) => error?.code === "away")) watch();
  update();
  if (asked.rounds.includes(round)) keep(asked);
}

/** The parts of the page that follow from all others. */
function update() {
  const busy = running.has(chat.id);
  const button = byId("send");
  button.setAttribute("aria-label", busy ? "Stop" : "Send");
  button.querySelector("use")?.setAttribute("href", busy ? "#i-stop" : "#i-send");
  /** @type {HTMLButtonElement} */ (button).disabled = !busy && !composer.complete();
  document.body.classList.toggle("empty", !chat.rounds.length);
  document.title = chat.title ? `${chat.title} – pumice` : "pumice";
  history.keep(!keepsNothing());
  byId("keeps").textContent = keepsNothing() ? "Nothing is kept." : "Chats and images stay in this browser.";
  main.scrollTop = atEnd ? main.scrollHeight : main.scrollTop;
}

let watching = false;
const SAID = { ready: "ready", loading: "loading", away: "no answer", locked: "needs a key" };

/** Look how the server is, until it is ready; a tab that nobody looks at asks seldom. */
async function watch() {
  if (watching) return;
  watching = true;
  do {
    server = await look();
    byId("model").textContent = server.models[0] ?? "pumice";
    Object.assign(byId("state"), { textContent: SAID[server.state], className: `state ${server.state}` });
    if (server.state !== "ready") await pause(document.hidden ? 10_000 : 1500);
  } while (server.state === "away" || server.state === "loading");
  watching = false;
  if (server.state === "ready") showDefaults(await defaults(server.models[0]).catch(() => null));
}

function begin() {
  composer.compose({ send, changed: update });
  settle({ changed: update, unlocked: watch });
  byId("ideas").append(
    ...IDEAS.map((text) => element("button", { type: "button", className: "chip", onclick: () => composer.write({ ...composer.written(), text }) }, text)),
  );
  byId("editing").querySelector("button")?.addEventListener("click", () => edit(null));
  main.onscroll = () => (atEnd = main.scrollTop + main.clientHeight > main.scrollHeight - 40);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.onclick = (event) => (event.target === dialog || /** @type {Element} */ (event.target).closest(".close")) && dialog.close();
  }
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) edited ? edit(null) : running.get(chat.id)?.stop.abort();
  });
  addEventListener("visibilitychange", () => !document.hidden && watch());
  transfers();
  open(location.hash.slice(1)).then(refresh);
  update();
  watch();
}

function transfers() {
  const said = (/** @type {string} */ text) => (byId("kept-said").textContent = text);
  const failed = (/** @type {unknown} */ error) => said(history.keepingFailed(error));
  const chats = (/** @type {number} */ count) => (count === 1 ? "1 chat" : `${count} chats`);
  /** @type {HTMLInputElement} */
  const file = byId("import-file");
  byId("export").onclick = () => exportChats().then((count) => said(`${chats(count)} exported.`), failed);
  byId("import").onclick = () => file.click();
  file.onchange = async () => {
    const count = file.files?.[0] ? await importChats(file.files[0]).catch(failed) : 0;
    if (count !== undefined) said(Number(count) < 0 ? "That is no file of chats." : `${chats(Number(count))} imported.`);
    file.value = "";
    refresh();
  };
  byId("delete-all").onclick = async () => {
    if (!confirm("Delete all chats and images that this browser keeps?")) return;
    await history.forgetAll().then(() => said("Everything is deleted."), failed);
    show(newChat());
  };
}

begin();

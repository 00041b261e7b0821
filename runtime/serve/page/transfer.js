// Chats as a file, and from one. What a file says is taken for texts and images only.

import { dataUri, pictures, take } from "./images.js";
import { headings, load, named, save } from "./history.js";
import { newId } from "./conversation.js";

/** @typedef {import("./conversation.js").Chat} Chat */

/** All kept chats with their images, as a file for the user. */
export async function exportChats() {
  const found = await Promise.all((await headings()).map(({ id }) => load(id)));
  const chats = found.filter((chat) => chat !== null);
  /** @type {Record<string, object>} */
  const images = {};
  for (const hash of new Set(chats.flatMap((chat) => [...named(chat)]))) {
    const picture = pictures.get(hash);
    if (picture) images[hash] = { name: picture.name, data: await dataUri(picture.blob) };
  }
  const file = new Blob([JSON.stringify({ format: "pumice chats", version: 1, chats, images })], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: "pumice-chats.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return chats.length;
}

/**
 * Keep the chats of a file beside those that there are.
 * @param {File} file
 * @returns {Promise<number>} how many; −1 where it is no such file
 */
export async function importChats(file) {
  /** @type {any} */
  let given;
  try {
    given = JSON.parse(await file.text());
    if (given.format !== "pumice chats" || !Array.isArray(given.chats)) return -1;
  } catch {
    return -1;
  }
  /** @type {Map<string, string>} */
  const hashes = new Map();
  for (const [hash, image] of Object.entries(given.images ?? {})) {
    const data = /^data:image\/[a-z]+;base64,(.*)$/.exec(String(/** @type {any} */ (image)?.data));
    try {
      if (!data) continue;
      const bytes = Uint8Array.from(atob(data[1]), (letter) => letter.charCodeAt(0));
      hashes.set(hash, (await take(new Blob([bytes]), String(/** @type {any} */ (image).name))).hash);
    } catch {
      // no image: its chat says so
    }
  }
  const there = new Set((await headings()).map(({ id }) => id));
  let count = 0;
  for (const chat of given.chats) {
    const read = chatOf(chat, hashes);
    if (!read.rounds.length) continue;
    if (there.has(read.id)) read.id = newId();
    await save(read);
    count += 1;
  }
  return count;
}

/**
 * @param {any} given
 * @param {Map<string, string>} hashes
 * @returns {Chat}
 */
function chatOf(given, hashes) {
  const rounds = (Array.isArray(given?.rounds) ? given.rounds : []).map((/** @type {any} */ round) => ({
    question: {
      text: String(round?.question?.text ?? ""),
      images: [round?.question?.images ?? []].flat().map((hash) => hashes.get(String(hash)) ?? "missing"),
      each: round?.question?.each === true,
    },
    answers: [round?.answers ?? []].flat().map((answer) => ({
      state: "done",
      text: String(answer?.text ?? ""),
      json: answer?.json === true,
    })),
  }));
  const whole = rounds.filter((/** @type {any} */ { question, answers }) => answers.length === (question.each ? question.images.length : 1));
  const id = /^[0-9a-f]{24}$/.test(String(given?.id)) ? String(given.id) : newId();
  return { id, title: String(given?.title ?? "").slice(0, 80) || "Imported", changed: 0, rounds: whole };
}

// Chats in this browser's own database. An image is there once, by the hash of its bytes; chats name it.

import { pictures } from "./images.js";

/** @typedef {import("./conversation.js").Chat} Chat */
/** @typedef {{id: string, title: string, changed: number}} Heading */

let keeping = true;
/** @type {Promise<IDBDatabase> | null} */
let opening = null;

/**
 * Whether chats are kept from now on.
 * @param {boolean} value
 */
export function keep(value) {
  keeping = value;
}

function database() {
  opening ??= new Promise((done, failed) => {
    const asked = indexedDB.open("pumice", 1);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("chats", { keyPath: "id" });
      asked.result.createObjectStore("images", { keyPath: "hash" });
    };
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
  opening.catch(() => (opening = null));
  return opening;
}

/**
 * One transaction: all of it happens, or nothing.
 * @template T
 * @param {"readonly" | "readwrite"} mode
 * @param {(chats: IDBObjectStore, images: IDBObjectStore) => T} work
 * @returns {Promise<T>}
 */
async function within(mode, work) {
  const transaction = (await database()).transaction(["chats", "images"], mode);
  return new Promise((done, failed) => {
    /** @type {T} */
    let value;
    transaction.oncomplete = () => done(value);
    transaction.onabort = transaction.onerror = () => failed(transaction.error);
    try {
      value = work(transaction.objectStore("chats"), transaction.objectStore("images"));
    } catch (error) {
      transaction.onabort = transaction.onerror = null;
      transaction.abort();
      failed(error);
    }
  });
}

/**
 * Hashes of the images that a chat names.
 * @param {Chat} chat
 */
export const named = (chat) => new Set(chat.rounds.flatMap((round) => round.question.images));

/**
 * Keep a chat as it is now, with the images that it names.
 * @param {Chat} chat
 */
export async function save(chat) {
  if (!keeping) return;
  chat.changed = Date.now();
  await within("readwrite", (chats, images) => {
    for (const hash of named(chat)) {
      const asked = images.getKey(hash);
      asked.onsuccess = () => {
        const picture = pictures.get(hash);
        if (asked.result === undefined && picture) images.put(picture);
      };
    }
    chats.put(JSON.parse(JSON.stringify(chat)));
  });
}

/**
 * All chats, the newest first.
 * @returns {Promise<Heading[]>}
 */
export async function headings() {
  const asked = await within("readonly", (chats) => chats.getAll());
  const found = /** @type {Chat[]} */ (asked.result);
  return found.sort((a, b) => b.changed - a.changed).map(({ id, title, changed }) => ({ id, title, changed }));
}

/**
 * A chat with its images; null if it is not there.
 * @param {string} id
 * @returns {Promise<Chat | null>}
 */
export async function load(id) {
  const asked = await within("readonly", (chats) => chats.get(id));
  const chat = /** @type {Chat | undefined} */ (asked.result);
  if (!chat) return null;
  const wanted = await within("readonly", (_, images) => [...named(chat)].map((hash) => images.get(hash)));
  for (const { result } of wanted) if (result && !pictures.has(result.hash)) pictures.set(result.hash, result);
  return chat;
}

/**
 * Forget a chat, and the images that no other names.
 * @param {string} id
 */
export async function forget(id) {
  await within("readwrite", (chats, images) => {
    chats.delete(id);
    const left = chats.getAll();
    left.onsuccess = () => {
      const used = new Set(left.result.flatMap((/** @type {Chat} */ chat) => [...named(chat)]));
      const keys = images.getAllKeys();
      keys.onsuccess = () => keys.result.filter((hash) => !used.has(hash)).forEach((hash) => images.delete(hash));
    };
  });
}

/** Forget everything. */
export async function forgetAll() {
  await within("readwrite", (chats, images) => {
    chats.clear();
    images.clear();
  });
}

/**
 * Why something could not be kept, in a sentence that says that nothing is lost.
 * @param {unknown} error
 */
export function keepingFailed(error) {
  const full = error instanceof DOMException && error.name === "QuotaExceededError";
  return full
    ? "This browser's storage is full, so that what is new in this chat is not kept. What was kept is still there. Export the chats, or delete some."
    : "This browser keeps no chats here: they are gone when the page is closed.";
}

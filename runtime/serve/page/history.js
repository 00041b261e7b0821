// Chats in this browser's own database. An image is there once, by the hash of its bytes; chats name it.

import { pictures } from "./images.js";

/** @typedef {import("./conversation.js").Chat} Chat */

/** @type {Promise<IDBDatabase> | null} */
let opening = null;

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
 * One transaction: all of it happens, or nothing. Gives the results of the requests that `work` returns.
 * @param {(chats: IDBObjectStore, images: IDBObjectStore) => IDBRequest[] | void} work
 * @returns {Promise<any[]>}
 */
async function within(work) {
	const transaction = (await database()).transaction(["chats", "images"], "readwrite");
	return new Promise((done, failed) => {
		transaction.onabort = () => failed(transaction.error);
		const requests = work(transaction.objectStore("chats"), transaction.objectStore("images")) ?? [];
		transaction.oncomplete = () => done(requests.map(({ result }) => result));
	});
}

/** Hashes of the images that a chat names. @param {Chat} chat */
export const named = (chat) => [...new Set(chat.rounds.flatMap(({ question }) => question.images))];

/** Keep a chat as it is now, with the images that it names. @param {Chat} chat */
export async function save(chat) {
	chat.changed = Date.now();
	const kept = await within((_, images) => named(chat).map((hash) => images.getKey(hash)));
	await within((chats, images) => {
		for (const hash of named(chat)) if (!kept.includes(hash) && pictures.has(hash)) images.put(pictures.get(hash));
		chats.put(JSON.parse(JSON.stringify(chat)));
	});
}

/** All chats without their images, the newest first. @returns {Promise<Chat[]>} */
export async function all() {
	const [found] = await within((chats) => [chats.getAll()]);
	return found.sort((a, b) => b.changed - a.changed);
}

/** A chat with its images, if it is there. @returns {Promise<Chat | undefined>} */
export async function load(id) {
	const [chat] = await within((chats) => [chats.get(id)]);
	const found = chat && (await within((_, images) => named(chat).map((hash) => images.get(hash))));
	for (const picture of found ?? []) if (picture && !pictures.has(picture.hash)) pictures.set(picture.hash, picture);
	return chat;
}

/** Forget a chat, or all, and the images that no other names. */
export async function forget(id) {
	const left = id ? (await all()).filter((chat) => chat.id !== id) : [];
	const used = new Set(left.flatMap(named));
	const [hashes] = await within((_, images) => [images.getAllKeys()]);
	await within((chats, images) => {
		if (id) chats.delete(id);
		else chats.clear();
		for (const hash of hashes) if (!used.has(hash)) images.delete(hash);
	});
	return left.length;
}

/** Why something could not be kept, and that nothing is lost. */
export const keepingFailed = ({ name }) =>
	name === "QuotaExceededError"
		? "This browser's storage is full: what is new is not kept. What was kept is still there; export it, or delete some."
		: "This browser keeps no chats here.";

// Chats as a file, and from one. What a file says is taken for texts and images only.

import { element, newId } from "./dom.js";
import { dataUri, pictures, take } from "./images.js";
import { all, load, named, save } from "./history.js";

const FORMAT = "pumice chats";

/** All kept chats with their images, as a file for the user; gives their number. */
export async function exportChats() {
	const chats = await all();
	const images = {};
	for (const chat of chats) {
		await load(chat.id);
		for (const hash of named(chat)) {
			const picture = pictures.get(hash);
			if (picture) images[hash] ??= { name: picture.name, data: await dataUri(picture.blob) };
		}
	}
	const file = new Blob([JSON.stringify({ format: FORMAT, version: 1, chats, images })], { type: "application/json" });
	const href = URL.createObjectURL(file);
	element("a", { href, download: "pumice-chats.json" }).click();
	setTimeout(() => URL.revokeObjectURL(href), 60_000);
	return chats.length;
}

/** Keep the chats of a file beside those that there are; gives their number, null where it is no such file.
 * */
export async function importChats(file) {
	const given = await new Response(file).json().catch(() => null);
	if (given?.format !== FORMAT || !Array.isArray(given.chats)) return null;
	const hashes = new Map();
	for (const [hash, image] of Object.entries(given.images ?? {})) {
		try {
			const bytes = Uint8Array.from(atob(image.data.split(",")[1]), (letter) => letter.charCodeAt(0));
			hashes.set(hash, (await take(new Blob([bytes]), String(image.name))).hash);
		} catch {
			// no image: its chat says so
		}
	}
	const there = (await all()).map(({ id }) => id);
	const chats = given.chats.map((chat) => chatOf(chat, hashes)).filter(({ rounds }) => rounds.length);
	for (const chat of chats) await save(there.includes(chat.id) ? { ...chat, id: newId() } : chat);
	return chats.length;
}

function chatOf(given, hashes) {
	const rounds = [given?.rounds ?? []].flat().map((round) => ({
		question: {
			text: String(round?.question?.text ?? ""),
			images: [round?.question?.images ?? []].flat().map((hash) => hashes.get(hash) ?? "missing"),
			each: round?.question?.each === true,
		},
		answers: [round?.answers ?? []].flat().map((each) => ({ state: "done", text: String(each?.text ?? ""), json: each?.json === true })),
	}));
	return {
		id: /^[0-9a-f]{24}$/.test(given?.id) ? given.id : newId(),
		title: String(given?.title || "Imported").slice(0, 80),
		changed: 0,
		rounds: rounds.filter(({ question: { each, images }, answers }) => answers.length === (each ? images.length : 1)),
	};
}

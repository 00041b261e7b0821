// Images of the page: a file in, bytes that the server takes out. What browsers can read and the server cannot (HEIC,
// AVIF, …), and what is larger than any model looks at, becomes a JPEG here.

import { element, hex, newId, number, size } from "./dom.js";

/** @typedef {{hash: string, blob: Blob, name: string, width: number, height: number, was: string}} Picture
 *  `was`: what it was made of, where it was made into a JPEG */

const LONGEST = 2048;
const LARGEST = 4e6;
const TAKEN = ["image/jpeg", "image/png", "image/webp", "image/gif"];

/** By their hash, those of this visit and of chats that were opened. @type {Map<string, Picture>} */
export const pictures = new Map();
/** @type {Map<string, string>} */
const urls = new Map();

/** An image that cannot be used, in a sentence. */
export class ImageError extends Error {}

/** What a file's first bytes say that it is, whatever its name. */
function kindOf(head) {
	const text = String.fromCharCode(...head);
	if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
	if (text.startsWith("\x89PNG")) return "image/png";
	if (text.startsWith("GIF8")) return "image/gif";
	if (/^RIFF....WEBP/s.test(text)) return "image/webp";
	if (/^....ftypavi[fs]/s.test(text)) return "image/avif";
	return /^....ftyp(hei|hev|mif1|msf1)/s.test(text) ? "image/heic" : "";
}

/** Take a file in, or throw an ImageError. */
export async function take(file, name) {
	const kind = kindOf(new Uint8Array(await file.slice(0, 16).arrayBuffer()));
	const bitmap = await createImageBitmap(kind ? new Blob([file], { type: kind }) : file).catch(() => {
		throw new ImageError(sentence(kind, file.type, name));
	});
	let { width, height } = bitmap;
	let [blob, was] = [new Blob([file], { type: kind }), ""];
	if (!TAKEN.includes(kind) || Math.max(width, height) > LONGEST || file.size > LARGEST) {
		const format = (kind || file.type).replace(/^image\/|\+.*/g, "").toUpperCase();
		was = `${format}, ${number(width)} × ${number(height)}, ${size(file.size)}`;
		const scale = Math.min(1, LONGEST / Math.max(width, height));
		[width, height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
		blob = await jpeg(bitmap, width, height);
	}
	bitmap.close();
	const hash = await hashOf(await blob.arrayBuffer());
	const picture = pictures.get(hash) ?? { hash, blob, name: name.slice(0, 200), width, height, was };
	pictures.set(hash, picture);
	return picture;
}

/** SHA-256; where browsers have none (plain http from another machine), a name of its own. */
async function hashOf(data) {
	return crypto.subtle ? hex(new Uint8Array(await crypto.subtle.digest("SHA-256", data))) : newId();
}

function sentence(kind, type, name) {
	const which = name ? `“${name.length > 40 ? `${name.slice(0, 38)}…` : name}”` : "That";
	if (kind === "image/heic" || /\.hei[cf]$/i.test(name)) {
		return `${which} is a HEIC photo, which this browser cannot read. Save it as JPEG (iPhone: Settings, Camera, Formats, Most Compatible).`;
	}
	if (kind || type.startsWith("image/")) return `${which} is damaged, or nothing that this browser can read. Save it as JPEG or PNG.`;
	return `${which} is no image. JPEG, PNG, WebP and GIF can be asked about.`;
}

function jpeg(bitmap, width, height) {
	const canvas = element("canvas", { width, height });
	const context = canvas.getContext("2d");
	if (context) {
		context.fillStyle = "#fff"; // as the server has it behind what is transparent
		context.fillRect(0, 0, width, height);
		context.imageSmoothingQuality = "high";
		context.drawImage(bitmap, 0, 0, width, height);
	}
	return new Promise((done, failed) =>
		canvas.toBlob((blob) => (blob ? done(blob) : failed(new ImageError("The image is too large for this browser."))), "image/jpeg", 0.92),
	);
}

/** An address of an image's bytes, for <img>. @param {Picture} picture */
export function urlOf({ hash, blob }) {
	if (!urls.has(hash)) urls.set(hash, URL.createObjectURL(blob));
	return urls.get(hash);
}

export function dataUri(blob) {
	return new Promise((done, failed) => {
		const reader = new FileReader();
		reader.onload = () => done(String(reader.result));
		reader.onerror = () => failed(reader.error);
		reader.readAsDataURL(blob);
	});
}

/** @param {Picture} picture */
export const caption = ({ width, height, blob, was }) =>
	`${number(width)} × ${number(height)}, ${size(blob.size)}${was && ` (a JPEG made of ${was})`}`;

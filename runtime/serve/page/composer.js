// Where a question is written: its words, and its images from files, drops, pastes and cameras.

import { byId, element, iconButton, notice, number } from "./dom.js";
import { ImageError, caption, pictures, take } from "./images.js";
import { photograph } from "./camera.js";
import { thumbnail } from "./view.js";

/** @typedef {import("./conversation.js").Question} Question */

const words = byId("question");
const oneByOne = byId("each");
/** @type {string[]} */
let attached = [];
let reading = 0;
let changed = () => {};

/** What is written now. @returns {Question} */
export const written = () => ({
	text: words.value.trim(),
	images: [...attached],
	each: oneByOne.checked && attached.length > 1,
});

export const complete = () => !reading && (words.value.trim() !== "" || attached.length > 0);

/** Write a question; without one, nothing. @param {Question} [question] */
export function write({ text, images, each } = { text: "", images: [], each: false }) {
	words.value = text;
	attached = [...images];
	oneByOne.checked = each;
	byId("all").checked = !each;
	show();
}

export function compose(actions) {
	changed = actions.changed;
	byId("composer").onsubmit = (event) => {
		event.preventDefault();
		actions.send();
	};
	words.oninput = () => show(false);
	words.onkeydown = (event) => {
		if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
		event.preventDefault();
		actions.send();
	};
	for (const input of [byId("files"), byId("capture")]) {
		input.onchange = () => {
			add([...input.files]);
			input.value = "";
		};
	}
	byId("pick").onclick = () => byId("files").click();
	const films = Boolean(navigator.mediaDevices?.getUserMedia);
	byId("shoot").hidden = !films && !matchMedia("(pointer: coarse)").matches;
	byId("shoot").onclick = async () => {
		if (!films) return byId("capture").click();
		const photo = await photograph();
		if (photo) add([photo]);
	};
	document.addEventListener("paste", (event) => {
		const pasted = [...(event.clipboardData?.files ?? [])];
		if (!pasted.length || document.querySelector("dialog[open]")) return;
		event.preventDefault();
		add(pasted);
	});
	drops();
	show();
}

function drops() {
	const carries = ({ dataTransfer }) => dataTransfer.types.includes("Files");
	const over = (shown) => (byId("drop").hidden = !shown);
	addEventListener("dragenter", (event) => carries(event) && over(true));
	addEventListener("dragleave", (event) => event.relatedTarget || over(false));
	addEventListener("dragover", (event) => event.preventDefault());
	addEventListener("drop", (event) => {
		event.preventDefault();
		over(false);
		if (carries(event)) add([...(event.dataTransfer?.files ?? [])]);
		else notice("That is an address, and nothing is fetched. Save the image, and drop its file.");
	});
}

/** Take files in; those that are no images are named. */
async function add(files) {
	notice("");
	reading += files.length;
	show();
	for (const file of files) {
		try {
			const { hash } = await take(file, file.name);
			if (!attached.includes(hash)) attached.push(hash);
		} catch (error) {
			notice(error instanceof ImageError ? error.message : "The file cannot be read.");
		}
		reading -= 1;
		show();
	}
	words.focus();
}

function show(images = true) {
	words.style.height = "auto";
	words.style.height = `${Math.min(words.scrollHeight, 240)}px`;
	if (images) {
		byId("attached").replaceChildren(...attached.map(attachment));
		byId("manner").hidden = attached.length < 2;
		byId("reading").textContent = reading ? "Reading the image" : "";
	}
	changed();
}

function attachment(hash) {
	const picture = pictures.get(hash);
	const remove = iconButton("close", `Remove ${picture?.name || "the image"}`, () => {
		attached = attached.filter((other) => other !== hash);
		show();
		words.focus();
	});
	const size = picture && `${picture.was && "JPEG "}${number(picture.width)} × ${number(picture.height)}`;
	return element("li", { title: picture && caption(picture) }, thumbnail(hash), remove, element("span", { className: "size" }, size));
}

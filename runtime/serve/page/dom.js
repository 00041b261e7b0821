// Elements: made, found, named. Texts are always set as text, never as markup.

/** @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties] `label` and `role` are attributes
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, { label, role, ...properties } = {}, ...children) {
	const made = Object.assign(document.createElement(tag), properties);
	if (label) made.setAttribute("aria-label", String(label));
	if (role) made.setAttribute("role", String(role));
	for (const child of children) if (child) made.append(child);
	return made;
}

export const box = (className, ...children) => element("div", { className }, ...children);

export const button = (text, onclick, className = "") => element("button", { type: "button", className, onclick }, text);

export function iconButton(icon, label, onclick, className = "icon") {
	const made = element("button", { type: "button", className, label, title: label, onclick });
	const space = "http://www.w3.org/2000/svg";
	const use = document.createElementNS(space, "use");
	use.setAttribute("href", `#i-${icon}`);
	made.appendChild(document.createElementNS(space, "svg")).append(use);
	return made;
}

export const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** What nobody else has; crypto.randomUUID is not there over plain http. */
export const newId = () => hex(crypto.getRandomValues(new Uint8Array(12)));

const numbers = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });

export const number = (value) => numbers.format(value);

export const seconds = (ms) => (ms < 95 ? `${Math.round(ms)} ms` : `${number(ms / 1000)} s`);

export const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${number(bytes / 1e6)} MB`);

/** @type {number | undefined} */
let toasted;

/** Say something for some seconds, that can be taken back. */
export function toast(text, undo) {
	const box = byId("toast");
	const [words, taken] = box.children;
	clearTimeout(toasted);
	words.textContent = text;
	taken.hidden = !undo;
	taken.onclick = () => {
		box.hidden = true;
		undo?.();
	};
	box.hidden = false;
	toasted = setTimeout(() => (box.hidden = true), undo ? 8000 : 2500);
}

/** Say something until it is dismissed. */
export function notice(text) {
	const box = byId("notice");
	box.children[0].textContent = text;
	box.children[1].onclick = () => (box.hidden = true);
	box.hidden = !text;
}

/** Into the clipboard; over plain http browsers have no other way than a selection. */
export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		const area = element("textarea", { value: text, className: "unseen" });
		document.body.append(area);
		area.select();
		document.execCommand("copy");
		area.remove();
	}
	toast("Copied");
}

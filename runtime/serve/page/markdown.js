// Markdown as it streams in. Markup of the model's is text; links lead to http(s) only; images are named, never loaded.

import * as smd from "./vendor/smd.min.js";
import { element } from "./dom.js";

/**
 * A writer of Markdown into an element.
 * @param {HTMLElement} root
 * @returns {{write: (text: string) => void, end: () => void}}
 */
export function markdown(root) {
	const plain = smd.default_renderer(root);
	const add = (/** @type {any} */ data, /** @type {any} */ type) => {
		const made = own(type);
		if (made) data.nodes[++data.index] = data.nodes[data.index - 1].appendChild(made);
		else plain.add_token(data, type);
		const node = data.nodes[data.index];
		if (node.tagName === "A") Object.assign(node, { rel: "noopener noreferrer nofollow", target: "_blank" });
	};
	const parser = smd.parser(/** @type {any} */ ({ ...plain, add_token: add, set_attr: setAttribute }));
	return { write: (text) => smd.parser_write(parser, text), end: () => smd.parser_end(parser) };
}

/**
 * What is not as the renderer has it: images, tasks without a name, headings above the page's own.
 * @param {number} type
 */
function own(type) {
	if (type === smd.IMAGE) return element("span", { className: "no-image" });
	if (type === smd.CHECKBOX) return element("input", { type: "checkbox", disabled: true, label: "task" });
	const level = type - smd.HEADING_1;
	return level >= 0 && level < 6 ? document.createElement(`h${Math.min(6, level + 2)}`) : null;
}

function setAttribute(data, type, value) {
	const node = data.nodes[data.index];
	if (type === smd.HREF && /^https?:\/\/[^\s]+$/i.test(value)) node.setAttribute("href", value);
	else if (type === smd.CHECKED) node.checked = true;
	else if (type === smd.START && /^\d{1,9}$/.test(value)) node.setAttribute("start", value);
}

// The sheet of settings: what answers are asked for with, and what is kept. It remembers itself in this browser.

import { byId } from "./dom.js";
import { getKey, setKey } from "./api.js";
import { EXAMPLE, readSchema } from "./schema.js";

/** @typedef {{model: string, system: string, sampling: Record<string, number>, schema: object | null}} Options */

const STORED = "pumice.settings";
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const KEPT = ["system", ...NUMBERS, "schema"];

export const keepsNothing = () => byId("keep-nothing").checked;

/** Options of requests; numbers that are none are left out. @returns {Options} */
export function options(model) {
	/** @type {Record<string, number>} */
	const sampling = {};
	for (const name of NUMBERS) {
		const { value, valueAsNumber, validity } = byId(name);
		if (value !== "" && validity.valid) sampling[name] = valueAsNumber;
	}
	return { model, system: byId("system").value, sampling, schema: typed().schema };
}

export const typed = () => readSchema(byId("schema").value);

export function openSettings(id) {
	byId("settings").showModal();
	if (id) byId(id).focus();
}

export function showDefaults(found) {
	byId("temperature").placeholder = found?.params?.temperature ?? "";
	byId("top_p").placeholder = found?.params?.top_p ?? 1;
	byId("max_tokens").placeholder = found?.n_ctx ? `up to ${found.n_ctx}` : "";
}

export function settle({ changed, unlocked }) {
	recall();
	byId("key").value = getKey();
	const apply = () => {
		const { schema, wrong } = typed();
		const said = byId("schema-said");
		said.textContent = wrong || (schema ? "It is a schema: every answer fits it." : "A JSON schema that answers fit. Empty: free text.");
		said.classList.toggle("wrong", Boolean(wrong));
		byId("schema").ariaInvalid = String(Boolean(wrong));
		byId("has-schema").hidden = !schema && !wrong;
		changed();
	};
	byId("settings").oninput = (event) => {
		if (event.target !== byId("key")) remember();
		apply();
	};
	byId("key").onchange = () => {
		setKey(byId("key").value);
		unlocked();
	};
	byId("unlock").onsubmit = (event) => {
		event.preventDefault();
		byId("settings").close();
	};
	byId("schema-example").onclick = () => {
		byId("schema").value = JSON.stringify(EXAMPLE, null, 2);
		remember();
		apply();
	};
	byId("open-settings").onclick = () => openSettings();
	byId("has-schema").onclick = () => openSettings("schema");
	apply();
}

function recall() {
	try {
		const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
		byId("keep-nothing").checked = found.keepNothing === true;
		for (const id of KEPT) if (typeof found[id] === "string") byId(id).value = found[id];
	} catch {
		// nothing is remembered, or nothing of ours
	}
}

function remember() {
	const kept = keepsNothing() ? { keepNothing: true } : Object.fromEntries(KEPT.map((id) => [id, byId(id).value]));
	try {
		localStorage.setItem(STORED, JSON.stringify(kept));
	} catch {
		// the browser keeps nothing: they hold for this visit
	}
}

// The sheet of settings: what answers are asked for with, and what is kept. It remembers itself in this browser.

import { byId } from "./dom.js";
import { getKey, setKey } from "./api.js";
import { EXAMPLE, readSchema } from "./schema.js";

/** @typedef {{model: string, system: string, sampling: Record<string, number>, schema: object | null}} Options */

const STORED = "pumice.settings";
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const KEPT = ["system", ...NUMBERS, "schema", "theme"];

/** @type {HTMLDialogElement} */
const sheet = byId("settings");
/** @param {string} id @returns {HTMLInputElement} */
const field = (id) => byId(id);

export const keepsNothing = () => field("keep-nothing").checked;

/**
 * Options of requests; those that are no such number are left out.
 * @param {string} model
 * @returns {Options}
 */
export function options(model) {
  /** @type {Record<string, number>} */
  const sampling = {};
  for (const name of NUMBERS) {
    const { value, valueAsNumber, validity } = field(name);
    if (value !== "" && validity.valid) sampling[name] = valueAsNumber;
  }
  return { model, system: field("system").value, sampling, schema: readSchema(field("schema").value).schema };
}

/** What is wrong with the schema that was typed; empty if nothing is. */
export const wrongSchema = () => readSchema(field("schema").value).wrong;

/**
 * Show the sheet, and begin at a field.
 * @param {string} [id]
 */
export function openSettings(id) {
  sheet.showModal();
  if (id) field(id).focus();
}

/**
 * The model's own settings, seen in empty fields.
 * @param {any} found
 */
export function showDefaults(found) {
  const { temperature, top_p: topP } = found?.params ?? {};
  field("temperature").placeholder = temperature === undefined ? "" : String(temperature);
  field("top_p").placeholder = topP === undefined || topP === null ? "1" : String(topP);
  field("max_tokens").placeholder = found?.n_ctx ? `up to ${found.n_ctx}` : "";
}

/**
 * Begin: what was remembered, and what follows from changes.
 * @param {{changed: () => void, unlocked: () => void}} actions
 */
export function settle(actions) {
  recall();
  field("key").value = getKey();
  const apply = () => {
    document.documentElement.style.colorScheme = field("theme").value || "light dark";
    const { schema, wrong } = readSchema(field("schema").value);
    const said = byId("schema-said");
    said.textContent = wrong || (schema ? "It is a schema: every answer fits it." : "A JSON schema that every answer fits. Empty: free text.");
    said.classList.toggle("wrong", Boolean(wrong));
    field("schema").setAttribute("aria-invalid", String(Boolean(wrong)));
    byId("has-schema").hidden = !schema && !wrong;
    actions.changed();
  };
  sheet.addEventListener("input", (event) => {
    if (event.target !== field("key")) remember();
    apply();
  });
  field("key").onchange = () => {
    setKey(field("key").value);
    actions.unlocked();
  };
  byId("schema-example").onclick = () => {
    field("schema").value = JSON.stringify(EXAMPLE, null, 2);
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
    field("keep-nothing").checked = found.keepNothing === true;
    for (const id of KEPT) if (typeof found[id] === "string") field(id).value = found[id];
  } catch {
    // nothing is remembered, or nothing of ours
  }
}

function remember() {
  const kept = keepsNothing() ? { keepNothing: true } : Object.fromEntries(KEPT.map((id) => [id, field(id).value]));
  try {
    localStorage.setItem(STORED, JSON.stringify(kept));
  } catch {
    // the browser keeps nothing: they hold for this visit
  }
}

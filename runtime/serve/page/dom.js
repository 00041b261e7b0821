// Elements: made, found, named. Texts are always set as text, never as markup.

/**
 * The element of an id, which index.html has.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export const byId = (id) => /** @type {T} */ (document.getElementById(id));

/**
 * A new element; properties that are undefined are left out.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties] of the element, but `aria` and `data` for attributes
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name === "label") made.setAttribute("aria-label", String(value));
    else if (name === "role") made.setAttribute("role", String(value));
    else Reflect.set(made, name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * A picture of index.html's.
 * @param {string} name
 */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/**
 * A button that is an icon alone.
 * @param {string} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {string} [kind]
 */
export function iconButton(name, label, onclick, kind = "icon") {
  return element("button", { type: "button", className: kind, label, title: label, onclick }, icon(name));
}

const numbers = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });

/** @param {number} value */
export const number = (value) => numbers.format(value);

/** @param {number} milliseconds */
export const seconds = (milliseconds) =>
  milliseconds < 95 ? `${Math.round(milliseconds)} ms` : `${number(milliseconds / 1000)} s`;

/** @param {number} bytes */
export const size = (bytes) =>
  bytes < 1e6 ? `${number(Math.max(1, Math.round(bytes / 1e3)))} KB` : `${number(bytes / 1e6)} MB`;

/** @type {number | undefined} */
let toasted;

/**
 * Say something for some seconds, that can be taken back.
 * @param {string} text
 * @param {(() => void) | null} [undo]
 */
export function toast(text, undo = null) {
  const box = byId("toast");
  const [words, button] = /** @type {any} */ (box.children);
  clearTimeout(toasted);
  words.textContent = text;
  button.hidden = !undo;
  button.onclick = () => {
    box.hidden = true;
    undo?.();
  };
  box.hidden = false;
  toasted = setTimeout(() => (box.hidden = true), undo ? 8000 : 3000);
}

/**
 * Say something that stays until it is dismissed; nothing takes it away.
 * @param {string} text
 */
export function notice(text) {
  const box = byId("notice");
  const [words, button] = /** @type {any} */ (box.children);
  words.textContent = text;
  box.hidden = !text;
  button.onclick = () => notice("");
}

/**
 * Into the clipboard; over plain http browsers have no other way than a selection.
 * @param {string} text
 */
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

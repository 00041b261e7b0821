// Where a question is written: its words, and its images from files, drops, pastes and cameras.

import { byId, element, iconButton, notice, number } from "./dom.js";
import { ImageError, caption, pictures, take } from "./images.js";
import { photograph } from "./camera.js";
import { thumbnail } from "./view.js";

/** @typedef {import("./conversation.js").Question} Question */

const form = byId("composer");
/** @type {HTMLTextAreaElement} */
const words = byId("question");
const manner = byId("manner");
/** @type {string[]} */
let attached = [];
let reading = 0;
/** @type {() => void} */
let changed = () => {};

/** What is written now. @returns {Question} */
export function written() {
  const each = /** @type {HTMLInputElement} */ (manner.querySelector("[value=each]")).checked;
  return { text: words.value.trim(), images: [...attached], each: each && attached.length > 1 };
}

/** Whether there is anything to send, and all images are read. */
export const complete = () => !reading && (words.value.trim() !== "" || attached.length > 0);

/**
 * Write a question; without one, nothing.
 * @param {Question} [question]
 */
export function write({ text, images, each } = { text: "", images: [], each: false }) {
  words.value = text;
  attached = [...images];
  /** @type {HTMLInputElement} */ (manner.querySelector(each ? "[value=each]" : "[value=all]")).checked = true;
  show();
}

/**
 * Have questions written.
 * @param {{send: () => void, changed: () => void}} actions
 */
export function compose(actions) {
  changed = actions.changed;
  form.onsubmit = (event) => {
    event.preventDefault();
    actions.send();
  };
  words.oninput = () => show(false);
  words.onkeydown = (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
    if (!sends) return;
    event.preventDefault();
    actions.send();
  };
  /** @type {HTMLInputElement[]} */
  const [files, capture] = [byId("files"), byId("capture")];
  for (const input of [files, capture]) {
    input.onchange = () => {
      add([...(input.files ?? [])]);
      input.value = "";
    };
  }
  byId("pick").onclick = () => files.click();
  const canFilm = Boolean(navigator.mediaDevices?.getUserMedia);
  byId("shoot").hidden = !canFilm && !matchMedia("(pointer: coarse)").matches;
  byId("shoot").onclick = async () => {
    if (!canFilm) return capture.click();
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
  const box = byId("drop");
  const carries = (/** @type {DragEvent} */ event) => Boolean(event.dataTransfer?.types.includes("Files"));
  let inside = 0;
  const over = (/** @type {number} */ by) => {
    inside = Math.max(0, inside + by);
    box.hidden = !inside;
  };
  addEventListener("dragenter", (event) => carries(event) && over(1));
  addEventListener("dragleave", (event) => carries(event) && over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    over(0);
    if (carries(event)) add([...(event.dataTransfer?.files ?? [])]);
    else if (event.dataTransfer?.types.includes("text/uri-list")) notice("That is an image's address, and nothing is fetched. Save the image, and drop its file.");
  });
}

/**
 * Take files in; those that are no images are named.
 * @param {File[]} files
 */
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

/** @param {boolean} [images] whether they have changed */
function show(images = true) {
  words.style.height = "auto";
  words.style.height = `${Math.min(words.scrollHeight, 240)}px`;
  if (images) {
    byId("attached").replaceChildren(...attached.map(attachment));
    manner.hidden = attached.length < 2;
    byId("reading").textContent = reading ? "Reading the image" : "";
  }
  changed();
}

/** @param {string} hash */
function attachment(hash) {
  const picture = /** @type {import("./images.js").Picture} */ (pictures.get(hash));
  if (!picture) return element("li", {}, thumbnail(hash));
  const remove = iconButton("close", `Remove ${picture.name || "the image"}`, () => {
    attached = attached.filter((other) => other !== hash);
    show();
    words.focus();
  });
  const size = `${number(picture.width)} × ${number(picture.height)}`;
  return element("li", { title: caption(picture) }, thumbnail(hash), remove, element("span", { className: "size" }, picture.was ? `JPEG ${size}` : size));
}
